#!/usr/bin/env python3
"""Checks each dependency's licence and source against deny.toml, as cargo-deny does.

Reads `cargo metadata --format-version 1` from standard input. Needs Python 3.11 (tomllib), nothing else.
"""

import json
import re
import sys
import tomllib
from pathlib import Path


class Expression:
    """An SPDX expression: `A OR B`, `A AND B`, `A WITH exception`, parentheses; `A/B` is an older OR."""

    def __init__(self, text):
        self.tokens = re.findall(r"[()/]|[^\s()/]+", text)

    def allowed(self, licences):
        result = self.any(licences)
        if self.tokens:
            raise ValueError(f"unexpected {self.tokens[0]!r}")
        return result

    def any(self, licences):
        result = self.all(licences)
        while self.tokens and self.tokens[0] in ("OR", "/"):
            self.tokens.pop(0)
            result = self.all(licences) or result
        return result

    def all(self, licences):
        result = self.one(licences)
        while self.tokens and self.tokens[0] == "AND":
            self.tokens.pop(0)
            result = self.one(licences) and result
        return result

    def one(self, licences):
        if not self.tokens:
            raise ValueError("unexpected end")
        token = self.tokens.pop(0)
        if token == "(":
            result = self.any(licences)
            if not self.tokens or self.tokens.pop(0) != ")":
                raise ValueError("a parenthesis is not closed")
            return result
        if token in (")", "/", "OR", "AND", "WITH"):
            raise ValueError(f"unexpected {token!r}")
        if self.tokens[:1] == ["WITH"]:
            self.tokens.pop(0)
            token = f"{token} WITH {self.tokens.pop(0)}"
        return token in licences


def problem(package, licences):
    """The problem with a package, or None."""
    name = f"{package['name']} {package['version']}"
    source = package["source"]
    # Path dependencies have no source. Every other dependency must come from the default registry.
    if source is not None and not source.endswith("//github.com/rust-lang/crates.io-index"):
        return f"{name}: comes from {source}"
    if not package["license"]:
        return f"{name}: has no licence"
    try:
        allowed = Expression(package["license"]).allowed(licences)
    except ValueError as error:
        return f"{name}: can't parse its licence {package['license']!r}: {error}"
    return None if allowed else f"{name}: licence {package['license']!r} is not in deny.toml"


def main():
    rules = tomllib.loads((Path(__file__).parent.parent / "deny.toml").read_text())
    licences = set(rules["licenses"]["allow"])
    banned = {entry["crate"] for entry in rules["bans"]["deny"]}
    packages = json.load(sys.stdin)["packages"]
    problems = [text for package in packages if (text := problem(package, licences))]
    problems += [f"{p['name']} {p['version']}: is banned" for p in packages if p["name"] in banned]
    for text in problems:
        print(text, file=sys.stderr)
    print(f"{len(packages)} packages, {len(licences)} licences allowed, {len(problems)} problems")
    return 1 if problems or not packages else 0


if __name__ == "__main__":
    sys.exit(main())
