"""Prints the objects of a file whose kinds a cluster knows: filter_known_kinds.py KINDS FILE.

KINDS is the output of `kubectl api-resources`.
"""

import sys

import yaml

kinds, file = sys.argv[1:]
with open(kinds) as lines:
    # The last three columns are the version, whether the kind is namespaced, and the kind.
    known = {(columns[-3], columns[-1]) for columns in map(str.split, lines)}
with open(file) as text:
    objects = [thing for thing in yaml.safe_load_all(text) if thing]
yaml.safe_dump_all([thing for thing in objects if (thing["apiVersion"], thing["kind"]) in known], sys.stdout)
