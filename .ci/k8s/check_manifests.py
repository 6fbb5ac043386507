"""Checks rendered manifests: check_manifests.py TOOLS FILE…, or --wrong TOOLS FILE… for manifests that must be refused.

Each object is checked against the definition of its kind: Kubernetes' own kinds by their JSON schemas, without unknown fields;
other projects' kinds by custom_resources.mjs and StrimziResources.java. rules.py checks what no schema can express. A file
whose first line is `# refused: WORDS` is wrong on purpose: there must be exactly one problem, whose text contains WORDS.
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
# API groups of Kubernetes itself.
KUBERNETES_GROUPS = ("rbac.authorization.k8s.io", "networking.k8s.io", "storage.k8s.io", "policy", "apps", "batch", "autoscaling")
# Without this, slf4j warns that it has no logger.
STRIMZI = ("java", "-Dslf4j.internal.verbosity=ERROR")


def schema_problems(things):
    """(number, problem) for objects of Kubernetes' own kinds."""
    for number, thing in enumerate(things):
        try:
            kubernetes_validate.validate(thing, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield number, f"{'/'.join(map(str, error.path))}: {error.message}"


def program_problems(command, things):
    """(number, problem) from a program that reads the objects as JSON."""
    if not things:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(things, file)
        file.flush()
        output = subprocess.run([*command, file.name], check=True, text=True, stdout=subprocess.PIPE).stdout
    for line in output.splitlines():
        number, problem = line.split("\t", 1)
        yield int(number), problem


def validator(thing):
    group = thing["apiVersion"].rpartition("/")[0]
    if not group or group in KUBERNETES_GROUPS:
        return "kubernetes"
    return "strimzi" if group == "kafka.strimzi.io" else "custom"


def text(thing):
    return json.dumps(thing, sort_keys=True)


def object_problems(things, tools):
    """The problems of each object by itself, by the object's text. Most objects are in several renderings, but are checked once."""
    validators = {
        "kubernetes": schema_problems,
        "strimzi": partial(program_problems, [*STRIMZI, "-cp", f"{tools}/strimzi/*", str(Path(__file__).with_name("StrimziResources.java"))]),
        "custom": partial(program_problems, ["node", f"{tools}/custom_resources.mjs"]),
    }
    found = {text(thing): [] for thing in things}
    for name, problems in validators.items():
        objects = [thing for thing in map(json.loads, found) if validator(thing) == name]
        for number, problem in problems(objects):
            found[text(objects[number])].append(f"{rules.title(objects[number])}: {problem}")
    return found


def report_valid(file, things, found):
    print(f"{file.stem}: {len(things)} objects, {len(found)} problems")
    print("".join(f"  {problem}\n" for problem in found), end="")
    return bool(things) and not found


def report_wrong(file, found):
    words = file.read_text().splitlines()[0].removeprefix("# refused: ")
    refused = len(found) == 1 and words in found[0]
    print(f"{file.stem}: {'refused: ' + found[0] if refused else f'must have exactly one problem, which contains: {words}; but it has: {found}'}")
    return refused


def main(args):
    wrong = args[0] == "--wrong"
    tools, *files = args[wrong:]
    renderings = {file: [thing for thing in yaml.safe_load_all(file.read_text()) if thing] for file in map(Path, files)}
    single = object_problems([thing for things in renderings.values() for thing in things], tools)
    passed = bool(renderings)
    for file, things in renderings.items():
        found = [problem for thing in things for problem in single[text(thing)]] + list(rules.problems(things))
        passed &= report_wrong(file, found) if wrong else report_valid(file, things, found)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
