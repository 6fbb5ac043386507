"""Fetches the description of the calls from a gateway: fetch.py GATEWAY FILE."""

import sys
import urllib.request

gateway, file = sys.argv[1:]
with urllib.request.urlopen(f"{gateway}/openapi.json", timeout=10) as answer, open(file, "wb") as out:
    out.write(answer.read())
