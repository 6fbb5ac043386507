"""Checks rendered manifests: check.py TOOLS FILE…, or check.py --wrong TOOLS FILE… for ones that must be refused.

Each object is held against the definition of its kind: Kubernetes' own by their JSON schemas, with no field that they
don't have; other projects' by kinds.mjs and Strimzi.java. What no schema can tell is in rules.py. A file whose first
line is `# refused: WORDS` is wrong on purpose: there must be one complaint, and it must say that.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

import rules

KUBERNETES = "1.34"
# Groups that Kubernetes itself serves and that have a dot all the same.
OWN_GROUPS = ("rbac.authorization.k8s.io", "networking.k8s.io", "storage.k8s.io", "policy", "apps", "batch", "autoscaling")


def name(thing):
    return f"{thing['kind']}/{thing['metadata']['name']}"


def by_schema(thing):
    try:
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = "/".join(str(part) for part in error.path)
        yield f"{where}: {error.message}"


def by_program(command, things):
    """Complaints of a program that is given the objects as JSON, by an object's number."""
    if not things:
        return []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(things, file)
        file.flush()
        said = subprocess.run([*command, file.name], check=True, text=True, stdout=subprocess.PIPE).stdout
    pairs = (line.split("\t", 1) for line in said.splitlines())
    return [f"{name(things[int(number)]) if int(number) >= 0 else 'types'}: {what}" for number, what in pairs]


def complaints(things, tools):
    own, strimzi, others = [], [], []
    for thing in things:
        group = thing["apiVersion"].rpartition("/")[0]
        if not group or group in OWN_GROUPS:
            own.append(thing)
        else:
            (strimzi if group == "kafka.strimzi.io" else others).append(thing)
    yield from (f"{name(thing)}: {what}" for thing in own for what in by_schema(thing))
    yield from by_program(["node", f"{tools}/kinds.mjs"], others)
    yield from by_program(["java", "-cp", f"{tools}/strimzi/*", str(Path(__file__).with_name("Strimzi.java"))], strimzi)
    yield from rules.complaints(things)


def main(args):
    wrong = args[0] == "--wrong"
    tools, *files = args[wrong:]
    failed = 0
    for file in map(Path, files):
        text = file.read_text()
        things = [thing for thing in yaml.safe_load_all(text) if thing]
        found = list(complaints(things, tools))
        if not wrong:
            print(f"{file.stem}: {len(things)} objects, {len(found)} complaints")
            print("".join(f"  {complaint}\n" for complaint in found), end="")
            failed += bool(found) or not things
            continue
        words = text.splitlines()[0].removeprefix("# refused: ")
        right = len(found) == 1 and words in found[0]
        print(f"{file.stem}: {'refused: ' + found[0] if right else f'must be refused once, for: {words}; but: {found}'}")
        failed += not right
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
