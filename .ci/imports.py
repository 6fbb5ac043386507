"""Finds import cycles between the modules of each crate: imports.py [CRATE…].

At each level of the module tree, a module is one node together with everything below it. A path into a sibling is an edge.
A module and its parent may use each other: that is how a folder's own file and its parts belong together. Unit tests are not
checked.
"""

import pathlib
import re
import sys
import tomllib

PATH = re.compile(r"\b(?:crate|self|super)(?:::\w+)+")


def modules(crate):
    """The text of each module, by its path below the crate's root."""
    source = pathlib.Path(crate, "src")
    texts = {}
    for file in source.rglob("*.rs"):
        path = file.relative_to(source).with_suffix("").parts
        if path[0] in ("bin", "main") or path[-1] == "tests":
            continue
        text = re.sub(r"//.*", "", file.read_text())
        texts[() if path == ("lib",) else path] = text.split("#[cfg(test)]\nmod tests {")[0]
    return texts


def leaves(tree, prefix=()):
    """The paths of a `use` tree: `a::{b, c::d}` has `a::b` and `a::c::d`."""
    depth, start = 0, 0
    for at, char in enumerate(tree + ","):
        depth += (char == "{") - (char == "}")
        if char != "," or depth:
            continue
        part, start = tree[start:at].strip(), at + 1
        if nested := re.fullmatch(r"(?:([\w:]+?)::)?\{(.*)\}", part, re.DOTALL):
            yield from leaves(nested[2], prefix + tuple((nested[1] or "").split("::") if nested[1] else ()))
        elif part:
            yield prefix + tuple(part.split(" as ")[0].split("::"))


def paths(text):
    uses = re.compile(r"\buse\s+([^;]+);")
    for use in uses.finditer(text):
        yield from leaves(use[1])
    for path in PATH.finditer(uses.sub("", text)):
        yield tuple(path[0].split("::"))


def target(module, path, texts):
    """The module that a path leads into, or None if it leaves the crate."""
    head, rest = path[0], path[1:]
    if head == "crate":
        base = ()
    elif head == "self":
        base = module
    elif head == "super":
        base = module[:-1]
        while rest and rest[0] == "super":
            base, rest = base[:-1], rest[1:]
    elif module + (head,) in texts:
        base, rest = module, path
    else:
        return None
    found = base + rest
    while found not in texts and found:
        found = found[:-1]
    return found


def edges(crate):
    """For each parent, which of its children uses which, and the path that does."""
    texts = modules(crate)
    graph = {}
    for module, text in texts.items():
        for path in paths(text):
            used = target(module, path, texts)
            if used is None:
                continue
            level = next((i for i, (a, b) in enumerate(zip(module, used)) if a != b), None)
            if level is not None:
                children = graph.setdefault(module[:level], {}).setdefault(module[level], {})
                children.setdefault(used[level], f"{'::'.join(module)} uses {'::'.join(path)}")
    return graph


def cycles(children):
    """The groups of children that reach one another."""

    def reached(child):
        seen, open_ = set(), [child]
        while open_:
            for used in children.get(open_.pop(), ()):
                if used not in seen:
                    seen.add(used)
                    open_.append(used)
        return seen

    reach = {child: reached(child) for child in children}
    return {
        frozenset(other for other in reach[child] if child in reach.get(other, ()))
        for child in children
        if child in reach[child]
    }


def main():
    members = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["workspace"]["members"]
    found = checked = 0
    for crate in sys.argv[1:] or members:
        for parent, children in edges(crate).items():
            checked += len(children)
            for cycle in cycles(children):
                found += 1
                print("::".join((crate, *parent)) + ": " + " ↔ ".join(sorted(cycle)), file=sys.stderr)
                for child in sorted(cycle):
                    for used in sorted(cycle & children[child].keys()):
                        print(f"    {children[child][used]}", file=sys.stderr)
    if found or not checked:
        sys.exit(f"imports: {found} cycles, {checked} modules with imports")
    print(f"imports: no cycle among {checked} modules")


main()
