"""Holds an Azure pipeline against the schema of its service, as check-jsonschema carries it: azure.py FILE. Prints what is wrong,
a line for each thing.

The schema is a tree of alternatives, and a single fault fails every one of them: what is told is what is wrong by the one that goes
along the furthest.
"""

import json
import sys
from importlib.resources import files
from itertools import groupby

import jsonschema
import ruamel.yaml


def faults(error):
    """What is wrong by the alternative that was meant."""
    if not error.context:
        return [error]
    alternatives = groupby(sorted(error.context, key=lambda one: one.schema_path[0]), lambda one: one.schema_path[0])
    return min(([fault for one in errors for fault in faults(one)] for _, errors in alternatives), key=distance)


def distance(found):
    return -min(len(fault.absolute_path) for fault in found), len(found)


def main(file):
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/azure-pipelines.json").read_text())
    with open(file) as text:
        # To Azure every scalar is a string.
        pipeline = ruamel.yaml.YAML(typ="base").load(text)
    found = [fault for error in jsonschema.Draft7Validator(schema).iter_errors(pipeline) for fault in faults(error)]
    for fault in found:
        print(f"{file}: {'/'.join(map(str, fault.absolute_path))}: {fault.message}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main(sys.argv[1])
