"""Checks rendered manifests: check.py TOOLS FILE…, or check.py --wrong TOOLS FILE… for ones that must be refused.

Each object is held against the definition of its kind: Kubernetes' own by their JSON schemas, with no field that they
don't have; other projects' by kinds.mjs and Strimzi.java. What no schema can tell is in rules.py. A file whose first
line is `# refused: WORDS` is wrong on purpose: there must be one complaint, and it must say that.
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import kubernetes_validate
import yaml

import rules

KUBERNETES = "1.34"
# Groups that Kubernetes itself serves and that have a dot all the same.
OWN_GROUPS = ("rbac.authorization.k8s.io", "networking.k8s.io", "storage.k8s.io", "policy", "apps", "batch", "autoscaling")
# It has nothing to log, and says so.
STRIMZI = ("java", "-Dslf4j.internal.verbosity=ERROR")


def by_schema(things):
    """Complaints about objects of Kubernetes' own kinds, each with its object's number."""
    for number, thing in enumerate(things):
        try:
            kubernetes_validate.validate(thing, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield number, f"{'/'.join(map(str, error.path))}: {error.message}"


def by_program(command, things):
    """Complaints of a program that is given the objects as JSON, each with its object's number."""
    if not things:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(things, file)
        file.flush()
        said = subprocess.run([*command, file.name], check=True, text=True, stdout=subprocess.PIPE).stdout
    for line in said.splitlines():
        number, what = line.split("\t", 1)
        yield int(number), what


def judge(thing):
    group = thing["apiVersion"].rpartition("/")[0]
    if not group or group in OWN_GROUPS:
        return "kubernetes"
    return "strimzi" if group == "kafka.strimzi.io" else "types"


def text(thing):
    return json.dumps(thing, sort_keys=True)


def single_complaints(things, tools):
    """What is wrong with each object by itself, by its text: most are in several renderings, and are looked at once."""
    judges = {
        "kubernetes": by_schema,
        "strimzi": partial(by_program, [*STRIMZI, "-cp", f"{tools}/strimzi/*", str(Path(__file__).with_name("Strimzi.java"))]),
        "types": partial(by_program, ["node", f"{tools}/kinds.mjs"]),
    }
    found = {text(thing): [] for thing in things}
    for name, complaints in judges.items():
        mine = [one for one in map(json.loads, found) if judge(one) == name]
        for number, what in complaints(mine):
            found[text(mine[number])].append(f"{rules.title(mine[number])}: {what}")
    return found


def report_right(file, things, found):
    print(f"{file.stem}: {len(things)} objects, {len(found)} complaints")
    print("".join(f"  {complaint}\n" for complaint in found), end="")
    return bool(things) and not found


def report_wrong(file, found):
    words = file.read_text().splitlines()[0].removeprefix("# refused: ")
    right = len(found) == 1 and words in found[0]
    print(f"{file.stem}: {'refused: ' + found[0] if right else f'must be refused once, for: {words}; but: {found}'}")
    return right


def main(args):
    wrong = args[0] == "--wrong"
    tools, *files = args[wrong:]
    renderings = {file: [thing for thing in yaml.safe_load_all(file.read_text()) if thing] for file in map(Path, files)}
    single = single_complaints([thing for things in renderings.values() for thing in things], tools)
    passed = bool(renderings)
    for file, things in renderings.items():
        found = [complaint for thing in things for complaint in single[text(thing)]] + list(rules.complaints(things))
        passed &= report_wrong(file, found) if wrong else report_right(file, things, found)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
