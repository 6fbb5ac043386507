"""Runs the dashboards' queries on a real Prometheus, which scrapes a theater under load: run_queries.py FOLDER FILE…

FOLDER holds the theater's log and addresses, and a folder for Prometheus with the alerts. Every query must return a number,
every rule must be evaluated, and both may only name metrics that a service has.
"""

import json
import math
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import yaml

from dashboard import Dashboard
from load import Load, write_invalid_records
from promql import metric_names

root = Path(__file__).parents[2]
# By then every query must have data. Prometheus scrapes once a second.
DATA_SECS = 120
# Grafana replaces $__rate_interval by such a range.
RATE_INTERVAL = "1m"
# The load causes these alerts. Any other would be an error.
FIRING_ALERTS = {"DeadLetters"}


def eventually(what, find_problems):
    """Returns when there are no more problems."""
    deadline = time.monotonic() + DATA_SECS
    while problems := find_problems():
        if time.monotonic() > deadline:
            sys.exit("\n".join([f"{what}: not within {DATA_SECS} s", *problems]))
        time.sleep(0.2)


def service_addresses(log):
    """The address of each service, from the launcher's output."""
    found = dict(re.findall(r"^ {16}http://(\S+) (\S+)$", log, re.M))
    gateway = re.search(r"^  gateway +http://(\S+)$", log, re.M)[1]
    return {"gateway": gateway} | {name: address for address, name in found.items()}


@contextmanager
def prometheus(folder, services):
    """Runs a Prometheus that scrapes the services, and yields its address."""
    scrape = [{"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in services.items()]
    settings = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config = {"global": settings, "rule_files": ["rules/*.yaml"], "scrape_configs": scrape}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    log = folder / "log"
    arguments = ["--web.listen-address=127.0.0.1:0", f"--storage.tsdb.path={folder.resolve() / 'data'}"]
    with log.open("w") as output:
        process = subprocess.Popen(["sh", root / "infra/observe/prometheus.sh", folder, *arguments], stderr=output)
    try:
        eventually("Prometheus listens", lambda: listening(process, log.read_text()))
        yield re.search(LISTENING, log.read_text())[1]
    except BaseException:
        print(f"--- the end of Prometheus' log\n{log.read_text()[-2000:]}", file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(30)


LISTENING = r'msg="Listening on" address=(\S+)'


def listening(process, log):
    if process.poll() is not None:
        sys.exit(f"Prometheus ended: {log}")
    return [] if re.search(LISTENING, log) else ["it does not listen yet"]


class Api:
    def __init__(self, address):
        self.url = f"http://{address}/api/v1/"

    def get(self, path, **parameters):
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as response:
            return json.load(response)["data"]

    def numbers(self, expr):
        values = [float(sample["value"][1]) for sample in self.get("query", query=expr)["result"]]
        return [value for value in values if not math.isnan(value)]

    def rules(self):
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


class KnownMetrics:
    """The metrics that exist: scraped ones, and those in the sources, which appear when something happens."""

    def __init__(self, api):
        self.scraped = set(api.get("label/__name__/values"))
        self.sources = "\n".join(path.read_text() for path in root.glob("*/src/**/*.rs"))

    def problems(self, queries):
        return [f"{where}: there is no metric {name}" for where, expr in queries for name in metric_names(expr) if not self.has(name)]

    def has(self, name):
        return name in self.scraped or f'"{name}"' in self.sources


def expand_variables(api, dashboard, expr):
    """The query as Grafana sends it when every value of each variable is selected."""
    for name, variable in dashboard.variables.items():
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            values = api.get(f"label/{label}/values", **{"match[]": metric})
            expr = re.sub(rf"\${name}\b", "|".join(values), expr)
    return expr.replace("$__rate_interval", RATE_INTERVAL)


def missing_data(api, dashboards):
    for dashboard in dashboards:
        for title, expr in dashboard.queries():
            if not api.numbers(expand_variables(api, dashboard, expr)):
                yield f"{dashboard.name}, {title}: no number for {expr}"


def rule_problems(api):
    for rule in api.rules():
        if rule["health"] != "ok":
            yield f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}"
    firing = {rule["name"] for rule in api.rules() if rule.get("state") == "firing"}
    if firing != FIRING_ALERTS:
        yield f"firing: {firing or 'nothing'}"


def misspell(expr):
    """The same expression with an extra letter in the name of its first metric."""
    first = min(metric_names(expr), key=expr.index)
    return re.sub(rf"\b{first}\b", f"{first}s", expr, count=1)


def print_table(api, dashboards):
    rows = [("dashboard", "panel", "series", "first")]
    for dashboard in dashboards:
        for title, expr in dashboard.queries():
            numbers = api.numbers(expand_variables(api, dashboard, expr))
            rows.append((dashboard.name, title, str(len(numbers)), f"{numbers[0]:.4g}" if numbers else "none"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main(folder, files):
    addresses = json.loads((folder / "theater.json").read_text())
    dashboards = [Dashboard(file) for file in files]
    queries = [(f"{dashboard.name}, {title}", expr) for dashboard in dashboards for title, expr in dashboard.queries()]
    load = Load(addresses["gateway"])
    services = service_addresses((folder / "theater.log").read_text())
    with prometheus(folder / "prometheus", services) as address:
        api = Api(address)
        write_invalid_records(addresses["kafka"], addresses["topicPrefix"])
        load.start()

        def find_problems():
            if load.error:
                raise load.error
            return [*missing_data(api, dashboards), *rule_problems(api)]

        eventually("every panel shows data, and every rule is evaluated", find_problems)
        rules = [(rule["name"], rule["query"]) for rule in api.rules()]
        metrics = KnownMetrics(api)
        problems = metrics.problems(queries + rules)
        for where, expr in queries + rules:
            if not metrics.problems([(where, misspell(expr))]):
                problems.append(f"{where}: {misspell(expr)} is not noticed")
        print_table(api, dashboards)
        load.stop()
    print("\n".join(problems) or f"{len(queries)} queries and {len(rules)} rules of {len(services)} services, after {load.rounds} rounds of load")
    sys.exit(1 if problems or not queries else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
