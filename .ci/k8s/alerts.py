"""Takes the alerts out of the manifest for promtool: alerts.py FOLDER writes groups.yaml there.

Makes sure of what promtool can't know: that each metric named is one that a service has, that each alert is shown both
firing and silent by alerts.yaml, and that the runbook has a section on it.
"""

import sys
from pathlib import Path

import yaml

from promql import metrics

here = Path(__file__).parent
root = here.parents[1]
folder = Path(sys.argv[1])

spec = yaml.safe_load((root / "k8s/components/monitoring/alerts.yaml").read_text())["spec"]
rules = [rule for group in spec["groups"] for rule in group["rules"]]
tests = [test for case in yaml.safe_load((here / "alerts.yaml").read_text())["tests"] for test in case["alert_rule_test"]]
runbook = (root / "k8s/runbook.md").read_text()
# A metric's name is a text of its own in the service that has it.
sources = "\n".join(path.read_text() for path in root.glob("*/src/**/*.rs"))
complaints = []

alerts = [rule for rule in rules if "alert" in rule]
recorded = {rule["record"] for rule in rules if "record" in rule}

for rule in rules:
    names = metrics(rule["expr"])
    for name in names - recorded - {"up"}:
        if f'"{name.removesuffix("_count")}"' not in sources:
            complaints.append(f"{rule.get('alert') or rule['record']}: no service has a metric {name}")
    if not names:
        complaints.append(f"{rule.get('alert') or rule['record']}: names no metric")

for rule in alerts:
    shown = {bool(test["exp_alerts"]) for test in tests if test["alertname"] == rule["alert"]}
    if shown != {True, False}:
        complaints.append(f"{rule['alert']}: must be shown both firing and silent")
    if rule["annotations"]["runbook_url"] != f"k8s/runbook.md#{rule['alert'].lower()}" or f"\n## {rule['alert']}\n" not in runbook:
        complaints.append(f"{rule['alert']}: has no section in the runbook")

(folder / "groups.yaml").write_text(yaml.safe_dump(spec))
print("\n".join(complaints) or f"{len(alerts)} alerts, {len(tests)} tests of them")
sys.exit(1 if complaints else 0)
