"""Checks dashboards against Grafana's own types, and against our rules: validate_dashboards.py FILE…

Grafana ignores unknown fields. So each dashboard is read into the types of Grafana's SDK and written again: a field that
disappears is unknown to Grafana.
"""

import copy
import json
import sys

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard

from dashboard import Dashboard

SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def unknown_fields(ours, known, path=""):
    """The fields that are not in Grafana's types."""
    if isinstance(ours, dict) and isinstance(known, dict):
        for key, value in ours.items():
            yield from unknown_fields(value, known[key], f"{path}/{key}") if key in known else [f"{path}/{key} is an unknown field"]
    elif isinstance(ours, list) and isinstance(known, list) and len(ours) == len(known):
        for number, pair in enumerate(zip(ours, known)):
            yield from unknown_fields(*pair, f"{path}/{number}")
    elif ours != known:
        yield f"{path} is read as {known!r}"


def schema_problems(dashboard):
    yield from unknown_fields(dashboard, json.loads(JSONEncoder().encode(GrafanaDashboard.from_json(dashboard))))


def rule_problems(dashboard):
    occupied = set()
    for panel in dashboard["panels"]:
        grid, title = panel["gridPos"], panel["title"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        if grid["x"] + grid["w"] > 24 or cells & occupied:
            yield f"{title}: overlaps another panel, or is outside the page"
        occupied |= cells
        if panel["type"] == "row":
            continue
        if not panel.get("description", "").endswith("."):
            yield f"{title}: has no description"
        if "unit" not in panel["fieldConfig"]["defaults"] and "unit" not in panel["options"].get("yAxis", {}):
            yield f"{title}: has no unit"
        if panel["datasource"] != SOURCE:
            yield f"{title}: doesn't query the selected data source"
        if not all(target.get("legendFormat") for target in panel["targets"]):
            yield f"{title}: has a line without a legend"
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(set(ids)) < len(ids):
        yield "two panels have the same id"
    if "datasource" not in {variable["name"] for variable in dashboard["templating"]["list"]}:
        yield "the data source can't be selected"


def problems(dashboard):
    return [*schema_problems(dashboard), *rule_problems(dashboard)]


# Mistakes, each with a part of the message that must report it.
MISTAKES = {
    "is an unknown field": lambda panel: panel["fieldConfig"]["defaults"].update(units="s"),
    "has no unit": lambda panel: panel["fieldConfig"]["defaults"].pop("unit"),
    "has no description": lambda panel: panel.pop("description"),
    "doesn't query the selected data source": lambda panel: panel.update(datasource={"type": "prometheus", "uid": "mine"}),
    "overlaps another panel": lambda panel: panel["gridPos"].update(y=0),
    "has a line without a legend": lambda panel: panel["targets"][0].pop("legendFormat"),
}


def with_mistake(dashboard, make_mistake):
    dashboard = copy.deepcopy(dashboard)
    make_mistake(next(panel for panel in dashboard["panels"] if panel["type"] == "timeseries"))
    return dashboard


def main(files):
    plugins.register_default_plugins()
    dashboards = [Dashboard(file) for file in files]
    found = [f"{dashboard.name}: {problem}" for dashboard in dashboards for problem in problems(dashboard.json)]
    if len({dashboard.json["uid"] for dashboard in dashboards}) < len(dashboards):
        found.append("two dashboards have the same uid")
    for message, make_mistake in MISTAKES.items():
        if not any(message in problem for problem in problems(with_mistake(dashboards[0].json, make_mistake))):
            found.append(f"a panel that {message} is not noticed")
    print("\n".join(found) or f"{len(dashboards)} dashboards, {sum(len(one.panels) for one in dashboards)} panels")
    sys.exit(1 if found or not dashboards else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
