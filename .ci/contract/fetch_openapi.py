"""Fetches a gateway's OpenAPI description: fetch_openapi.py GATEWAY FILE."""

import sys
import urllib.request

gateway, file = sys.argv[1:]
with urllib.request.urlopen(f"{gateway}/openapi.json", timeout=10) as response, open(file, "wb") as out:
    out.write(response.read())
