"""Has a real Prometheus scrape the open theater under load, and asks it what the dashboards ask: data.py FOLDER FILE…

FOLDER has the theater's log and runtime file, and a folder for Prometheus with the alerts. Every query must bring a number,
every rule must be evaluated, and each must name only metrics that a service has.
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

from load import Load, write_nonsense
from panels import Dashboard
from promql import metrics

root = Path(__file__).parents[2]
# Until every query has data: Prometheus scrapes once a second.
PATIENCE_SECS = 120
# What Grafana makes of a rate's range.
RATE_INTERVAL = "1m"
# The load's own doing. Whatever else rang would be wrong.
RINGING = {"DeadLetters"}


def eventually(what, look):
    """Returns once `look` has nothing to complain about."""
    end = time.monotonic() + PATIENCE_SECS
    while complaints := look():
        if time.monotonic() > end:
            sys.exit("\n".join([f"{what}: not within {PATIENCE_SECS} s", *complaints]))
        time.sleep(0.2)


def targets(log):
    """Where each service is, as the launcher says it."""
    found = dict(re.findall(r"^ {16}http://(\S+) (\S+)$", log, re.M))
    gateway = re.search(r"^  gateway +http://(\S+)$", log, re.M)[1]
    return {"gateway": gateway} | {name: address for address, name in found.items()}


@contextmanager
def prometheus(folder, services):
    """A running one that scrapes the services; gives its address."""
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
        print(f"--- Prometheus' last words\n{log.read_text()[-2000:]}", file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(30)


LISTENING = r'msg="Listening on" address=(\S+)'


def listening(process, log):
    if process.poll() is not None:
        sys.exit(f"Prometheus ended: {log}")
    return [] if re.search(LISTENING, log) else ["it does not yet"]


class Api:
    def __init__(self, address):
        self.url = f"http://{address}/api/v1/"

    def get(self, path, **parameters):
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def numbers(self, expr):
        values = [float(sample["value"][1]) for sample in self.get("query", query=expr)["result"]]
        return [value for value in values if not math.isnan(value)]

    def rules(self):
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


class Names:
    """The metrics that there are: in the theater, or in the sources where they are made as soon as something happens."""

    def __init__(self, api):
        self.scraped = set(api.get("label/__name__/values"))
        self.sources = "\n".join(path.read_text() for path in root.glob("*/src/**/*.rs"))

    def complaints(self, queries):
        return [f"{where}: there is no metric {name}" for where, expr in queries for name in metrics(expr) if not self.know(name)]

    def know(self, name):
        return name in self.scraped or f'"{name}"' in self.sources


def filled(api, dashboard, expr):
    """The query as Grafana would send it, with all that can be chosen chosen."""
    for name, variable in dashboard.variables.items():
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            chosen = api.get(f"label/{label}/values", **{"match[]": metric})
            expr = re.sub(rf"\${name}\b", "|".join(chosen), expr)
    return expr.replace("$__rate_interval", RATE_INTERVAL)


def without_data(api, dashboards):
    for dashboard in dashboards:
        for title, expr in dashboard.queries():
            if not api.numbers(filled(api, dashboard, expr)):
                yield f"{dashboard.name}, {title}: no number for {expr}"


def without_evaluation(api):
    for rule in api.rules():
        if rule["health"] != "ok":
            yield f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}"
    ringing = {rule["name"] for rule in api.rules() if rule.get("state") == "firing"}
    if ringing != RINGING:
        yield f"ringing: {ringing or 'nothing'}"


def misspelt(expr):
    """The same, with a letter too many in the name of its first metric."""
    first = min(metrics(expr), key=expr.index)
    return re.sub(rf"\b{first}\b", f"{first}s", expr, count=1)


def table(api, dashboards):
    rows = [("dashboard", "panel", "series", "first")]
    for dashboard in dashboards:
        for title, expr in dashboard.queries():
            numbers = api.numbers(filled(api, dashboard, expr))
            rows.append((dashboard.name, title, str(len(numbers)), f"{numbers[0]:.4g}" if numbers else "none"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main(folder, files):
    running = json.loads((folder / "theater.json").read_text())
    dashboards = [Dashboard(file) for file in files]
    queries = [(f"{dashboard.name}, {title}", expr) for dashboard in dashboards for title, expr in dashboard.queries()]
    load = Load(running["gateway"])
    services = targets((folder / "theater.log").read_text())
    with prometheus(folder / "prometheus", services) as address:
        api = Api(address)
        write_nonsense(running["kafka"], running["topicPrefix"])
        load.start()

        def look():
            if load.failed:
                raise load.failed
            return [*without_data(api, dashboards), *without_evaluation(api)]

        eventually("every panel shows something, and every rule is evaluated", look)
        rules = [(rule["name"], rule["query"]) for rule in api.rules()]
        names = Names(api)
        complaints = names.complaints(queries + rules)
        for where, expr in queries + rules:
            if not names.complaints([(where, misspelt(expr))]):
                complaints.append(f"{where}: {misspelt(expr)} is not noticed")
        table(api, dashboards)
        load.stop()
    print("\n".join(complaints) or f"{len(queries)} queries and {len(rules)} rules of {len(services)} services, after {load.rounds} rounds of load")
    sys.exit(1 if complaints or not queries else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
