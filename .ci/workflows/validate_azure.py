"""Validates an Azure pipeline with the service's schema, which check-jsonschema contains: validate_azure.py FILE.

Prints a line for each error. The schema is a tree of alternatives, and a single error fails all of them. Only the errors of the
alternative that matches the furthest are printed.
"""

import json
import sys
from importlib.resources import files
from itertools import groupby

import jsonschema
import ruamel.yaml


def leaf_errors(error):
    """The errors of the best matching alternative."""
    if not error.context:
        return [error]
    alternatives = groupby(sorted(error.context, key=lambda one: one.schema_path[0]), lambda one: one.schema_path[0])
    return min(([leaf for one in errors for leaf in leaf_errors(one)] for _, errors in alternatives), key=mismatch)


def mismatch(errors):
    return -min(len(error.absolute_path) for error in errors), len(errors)


def main(file):
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/azure-pipelines.json").read_text())
    with open(file) as text:
        # Azure reads every scalar as a string.
        pipeline = ruamel.yaml.YAML(typ="base").load(text)
    found = [leaf for error in jsonschema.Draft7Validator(schema).iter_errors(pipeline) for leaf in leaf_errors(error)]
    for error in found:
        print(f"{file}: {'/'.join(map(str, error.absolute_path))}: {error.message}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main(sys.argv[1])
