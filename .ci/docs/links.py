"""Every relative link of the documents leads to a file that is there, and to a heading in it: links.py <LIST-OF-DOCUMENTS

A path from the root of the repository that a document names as code, such as `tests/src/mutants`, must exist as well.
"""

import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote

CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
DEFINITION = re.compile(r"^\[[^\]]+\]:\s*(\S+)")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
PATH = re.compile(r"\.?[\w-]+/[\w./-]*\w/?")
ROOT = Path.cwd()
# Made by commands.
MADE = {"target"}


def prose(file):
    """(number, line) outside of fenced blocks."""
    fenced = False
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


@cache
def anchors(file):
    """The names that GitHub gives to a document's headings."""
    found = set()
    for _, line in prose(file):
        if heading := re.match(r"#{1,6}\s+(.*)", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            name = base = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            count = 0
            while name in found:
                count += 1
                name = f"{base}-{count}"
            found.add(name)
    return found


def complaint(file, target):
    """What is wrong with a link, or nothing."""
    if SCHEME.match(target):
        return None
    path, _, anchor = unquote(target).partition("#")
    other = (file.parent / path).resolve() if path else file.resolve()
    if not other.is_relative_to(ROOT) or not other.exists():
        return f"there is no {path}"
    if anchor and other.suffix == ".md" and anchor not in anchors(other):
        return f"{path or file.name} has no heading #{anchor}"
    return None


def main():
    files = [Path(line) for line in sys.stdin.read().splitlines()]
    folders = {folder.name for folder in ROOT.iterdir() if folder.is_dir()} - MADE
    complaints, links = [], 0
    for file in files:
        for number, line in prose(file):
            targets = [*LINK.findall(CODE.sub("", line)), *DEFINITION.findall(line)]
            links += len(targets)
            wrong = [complaint(file, target) for target in targets]
            named = [code for code in CODE.findall(line) if PATH.fullmatch(code) and code.split("/")[0] in folders]
            wrong += [f"there is no {path}" for path in named if not (ROOT / path).exists()]
            complaints += [f"{file}:{number}: {one}" for one in wrong if one]
    print("\n".join(complaints) or f"{len(files)} documents, {links} links")
    sys.exit(1 if complaints or not links else 0)


if __name__ == "__main__":
    main()
