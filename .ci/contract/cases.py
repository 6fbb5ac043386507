"""Says what schemathesis did, and that it was enough: cases.py REPORT."""

import json
import sys

CASES_MIN = 2000

with open(sys.argv[1]) as file:
    report = json.load(file)
cases, operations = report["test_cases"], report["operations"]
print(f"{cases['generated']} cases of {operations['tested']} operations, seed {report['seed']}")
complaints = []
if cases["generated"] < CASES_MIN:
    complaints.append(f"at least {CASES_MIN} cases are asked for")
if operations["tested"] < operations["total"]:
    complaints.append(f"{operations['total']} operations are described")
for name, phase in report["phases"].items():
    if phase["status"] != "success":
        complaints.append(f"the phase {name} ended as {phase['status']}: {phase['skip_reason']}")
sys.exit("; ".join(complaints) or None)
