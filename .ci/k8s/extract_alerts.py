"""Extracts the alerts from the manifest for promtool: extract_alerts.py FOLDER writes groups.yaml there.

Also checks what promtool can't: every named metric exists in a service, alerts_test.yaml shows each alert both firing and
silent, and the runbook has a section about each.
"""

import sys
from pathlib import Path

import yaml

from promql import metric_names

here = Path(__file__).parent
root = here.parents[1]
folder = Path(sys.argv[1])

spec = yaml.safe_load((root / "k8s/components/monitoring/alerts.yaml").read_text())["spec"]
rules = [rule for group in spec["groups"] for rule in group["rules"]]
tests = [test for case in yaml.safe_load((here / "alerts_test.yaml").read_text())["tests"] for test in case["alert_rule_test"]]
runbook = (root / "k8s/runbook.md").read_text()
# In the code of a service, the name of a metric is a string literal.
sources = "\n".join(path.read_text() for path in root.glob("*/src/**/*.rs"))
problems = []

alerts = [rule for rule in rules if "alert" in rule]
recorded = {rule["record"] for rule in rules if "record" in rule}

for rule in rules:
    names = metric_names(rule["expr"])
    for name in names - recorded - {"up"}:
        if f'"{name.removesuffix("_count")}"' not in sources:
            problems.append(f"{rule.get('alert') or rule['record']}: no service has a metric {name}")
    if not names:
        problems.append(f"{rule.get('alert') or rule['record']}: names no metric")

for rule in alerts:
    shown = {bool(test["exp_alerts"]) for test in tests if test["alertname"] == rule["alert"]}
    if shown != {True, False}:
        problems.append(f"{rule['alert']}: has no test that shows it firing, or none that shows it silent")
    if rule["annotations"]["runbook_url"] != f"k8s/runbook.md#{rule['alert'].lower()}" or f"\n## {rule['alert']}\n" not in runbook:
        problems.append(f"{rule['alert']}: has no section in the runbook")

(folder / "groups.yaml").write_text(yaml.safe_dump(spec))
print("\n".join(problems) or f"{len(alerts)} alerts, {len(tests)} tests")
sys.exit(1 if problems else 0)
