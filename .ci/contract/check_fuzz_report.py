"""Prints what schemathesis did, and fails if it was not enough: check_fuzz_report.py REPORT."""

import json
import sys

CASES_MIN = 2000

with open(sys.argv[1]) as file:
    report = json.load(file)
cases, operations = report["test_cases"], report["operations"]
print(f"{cases['generated']} cases of {operations['tested']} operations, seed {report['seed']}")
problems = []
if cases["generated"] < CASES_MIN:
    problems.append(f"at least {CASES_MIN} cases are required")
if operations["tested"] < operations["total"]:
    problems.append(f"the description has {operations['total']} operations")
for name, phase in report["phases"].items():
    if phase["status"] != "success":
        problems.append(f"the phase {name} ended as {phase['status']}: {phase['skip_reason']}")
sys.exit("; ".join(problems) or None)
