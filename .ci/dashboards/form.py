"""Holds dashboards against Grafana's own types, and against our rules: form.py FILE…

Grafana passes over a field that it doesn't know. So each dashboard is read into the types of Grafana's SDK and written
again: what is gone then is a field that Grafana doesn't have.
"""

import copy
import json
import sys

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as Known

from panels import Dashboard

SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def unknown(ours, known, path=""):
    """The fields that Grafana's types don't have."""
    if isinstance(ours, dict) and isinstance(known, dict):
        for key, value in ours.items():
            yield from unknown(value, known[key], f"{path}/{key}") if key in known else [f"{path}/{key} is no field"]
    elif isinstance(ours, list) and isinstance(known, list) and len(ours) == len(known):
        for number, pair in enumerate(zip(ours, known)):
            yield from unknown(*pair, f"{path}/{number}")
    elif ours != known:
        yield f"{path} is read as {known!r}"


def by_grafana(dashboard):
    yield from unknown(dashboard, json.loads(JSONEncoder().encode(Known.from_json(dashboard))))


def by_us(dashboard):
    places = set()
    for panel in dashboard["panels"]:
        grid, title = panel["gridPos"], panel["title"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        if grid["x"] + grid["w"] > 24 or cells & places:
            yield f"{title}: lies on another panel, or beside the page"
        places |= cells
        if panel["type"] == "row":
            continue
        if not panel.get("description", "").endswith("."):
            yield f"{title}: has no description"
        if "unit" not in panel["fieldConfig"]["defaults"] and "unit" not in panel["options"].get("yAxis", {}):
            yield f"{title}: has no unit"
        if panel["datasource"] != SOURCE:
            yield f"{title}: doesn't ask the data source that is chosen"
        if not all(target.get("legendFormat") for target in panel["targets"]):
            yield f"{title}: has a line without a name"
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(set(ids)) < len(ids):
        yield "two panels have one id"
    if "datasource" not in {variable["name"] for variable in dashboard["templating"]["list"]}:
        yield "the data source can't be chosen"


def complaints(dashboard):
    return [*by_grafana(dashboard), *by_us(dashboard)]


# Each is to be complained about, for these words.
WRONG = {
    "is no field": lambda panel: panel["fieldConfig"]["defaults"].update(units="s"),
    "has no unit": lambda panel: panel["fieldConfig"]["defaults"].pop("unit"),
    "has no description": lambda panel: panel.pop("description"),
    "doesn't ask the data source": lambda panel: panel.update(datasource={"type": "prometheus", "uid": "mine"}),
    "lies on another panel": lambda panel: panel["gridPos"].update(y=0),
    "has a line without a name": lambda panel: panel["targets"][0].pop("legendFormat"),
}


def spoilt(dashboard, wrong):
    dashboard = copy.deepcopy(dashboard)
    wrong(next(panel for panel in dashboard["panels"] if panel["type"] == "timeseries"))
    return dashboard


def main(files):
    plugins.register_default_plugins()
    dashboards = [Dashboard(file) for file in files]
    found = [f"{dashboard.name}: {complaint}" for dashboard in dashboards for complaint in complaints(dashboard.json)]
    if len({dashboard.json["uid"] for dashboard in dashboards}) < len(dashboards):
        found.append("two dashboards have one uid")
    for words, wrong in WRONG.items():
        if not any(words in complaint for complaint in complaints(spoilt(dashboards[0].json, wrong))):
            found.append(f"what {words} is not noticed")
    print("\n".join(found) or f"{len(dashboards)} dashboards, {sum(len(one.panels) for one in dashboards)} panels")
    sys.exit(1 if found or not dashboards else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
