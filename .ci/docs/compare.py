"""Answers as a document shows them, held against real ones.

JSON is compared as values, everything else as text, line by line. What may differ:

- A UUID that no command of the document names, a moment (`2026-11-21T13:20:38.377Z`) and a cursor (`WyI…`) stand for any
  other of their kind. But the same text stands for the same value wherever the document shows it, and two UUIDs
  stand for different ones.
- `…` stands for anything within a line; in a JSON object, for any further fields.
- Headers that are not shown.
"""

import copy
import json
import re
from dataclasses import dataclass

KINDS = {
    "uuid": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "moment": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z",
    "cursor": r"WyI[A-Za-z0-9_-]{8,}",
}
MORE = "…"
TOKEN = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in KINDS.items()) + f"|(?P<more>{MORE})")


class Names:
    """What the variable texts of a document stand for. Those that its commands name stand for themselves."""

    def __init__(self, commands):
        self.fixed = {match[0] for match in TOKEN.finditer("\n".join(commands)) if match.lastgroup in ("uuid", "moment")}
        self.values = {}

    def value(self, text):
        return text if text in self.fixed else self.values.get(text)

    def replaced(self, command):
        """A command, with the values of what the document shows."""
        return TOKEN.sub(lambda match: self.value(match[0]) or match[0], command)

    def accept(self, expected, actual):
        """Whether a text is what a document shows; then its variable texts are known."""
        pattern, groups = "", {}
        at = 0
        for token in TOKEN.finditer(expected):
            pattern += re.escape(expected[at : token.start()])
            at = token.end()
            if token.lastgroup == "more":
                pattern += "[^\n]*"
            elif self.value(token[0]) is not None:
                pattern += re.escape(self.value(token[0]))
            elif token[0] in groups:
                pattern += f"(?P={groups[token[0]]})"
            else:
                groups[token[0]] = f"t{len(groups)}"
                pattern += f"(?P<{groups[token[0]]}>{KINDS[token.lastgroup]})"
        match = re.fullmatch(pattern + re.escape(expected[at:]), actual)
        if not match:
            return False
        new = {text: match[group] for text, group in groups.items()}
        uuids = [value for text, value in {**self.values, **new}.items() if re.fullmatch(KINDS["uuid"], text)]
        if len(uuids) != len(set(uuids)) or self.fixed & set(new.values()):
            return False
        self.values.update(new)
        return True


@dataclass
class Answer:
    """`body` is None if it is not shown, a list of lines if it is no JSON."""

    status: str | None
    headers: list
    body: object


def shown(block):
    """An answer as a document shows it."""
    if block.language == "http":
        head, _, body = block.text.partition("\n\n")
        status, *headers = head.strip().splitlines()
        headers = [tuple(header.split(": ", 1)) for header in headers]
        return Answer(status, headers, value(body) if body.strip() else None)
    return Answer(None, [], value(block.text))


def received(output, with_head):
    """An answer as curl prints it."""
    if not with_head:
        return Answer(None, [], value(output))
    head, _, body = output.replace("\r\n", "\n").partition("\n\n")
    status, *headers = head.splitlines() or [""]
    headers = [tuple(header.split(": ", 1)) for header in headers if ": " in header]
    return Answer(status.strip(), headers, value(body))


def value(text):
    """JSON if it is some, else the lines."""
    try:
        return Json(json.loads(re.sub(rf'("(?:[^"\\]|\\.)*")|{MORE}', lambda found: found[1] or f'"{MORE}": null', text)))
    except ValueError:
        return text.rstrip().splitlines()


@dataclass
class Json:
    value: object


def difference(expected, actual, names):
    """What differs, or nothing; then `names` knows more."""
    tried = copy.deepcopy(names)
    found = answers_differ(expected, actual, tried)
    if found is None:
        names.values = tried.values
    return found


def answers_differ(expected, actual, names):
    if expected.status is not None and expected.status != actual.status:
        return f"the status is `{actual.status}`, expected `{expected.status}`"
    for name, text in expected.headers:
        values = [value for other, value in actual.headers if other.lower() == name.lower()]
        if not any(names.accept(text, value) for value in values):
            return f"{name} is {values}, expected `{text}`"
    if isinstance(expected.body, Json) and isinstance(actual.body, Json):
        return values_differ("body", expected.body.value, actual.body.value, names)
    if expected.body is not None and not (isinstance(expected.body, list) and isinstance(actual.body, list)):
        return "one body is JSON, the other is not"
    return lines_differ(expected.body, actual.body, names) if expected.body is not None else None


def lines_differ(expected, actual, names):
    for number, (one, other) in enumerate(zip(expected, actual), 1):
        if not names.accept(one, other):
            return f"line {number} is `{other}`, expected `{one}`"
    if len(expected) != len(actual):
        return f"there are {len(actual)} lines, expected {len(expected)}"
    return None


def values_differ(where, expected, actual, names):
    if isinstance(expected, str) and isinstance(actual, str):
        return None if names.accept(expected, actual) else f"{where} is `{actual}`, expected `{expected}`"
    if type(expected) is not type(actual):
        return f"{where} is {actual!r}, expected {expected!r}"
    if isinstance(expected, dict):
        wanted = expected.keys() - {MORE}
        if not wanted <= actual.keys() or (MORE not in expected and wanted != actual.keys()):
            return f"{where} has the fields {sorted(actual)}, expected {sorted(expected)}"
        pairs = [(f"{where}.{key}", expected[key], actual[key]) for key in expected if key != MORE]
    elif isinstance(expected, list):
        if len(expected) != len(actual):
            return f"{where} has {len(actual)} items, expected {len(expected)}"
        pairs = [(f"{where}[{index}]", *pair) for index, pair in enumerate(zip(expected, actual))]
    else:
        return None if expected == actual else f"{where} is {actual!r}, expected {expected!r}"
    return next(filter(None, (values_differ(*pair, names) for pair in pairs)), None)


def wrong(answer):
    """The answer with one thing changed, each time another: none of these is what was received."""
    if answer.status is not None:
        yield Answer(changed(answer.status), answer.headers, answer.body)
    for index, (name, text) in enumerate(answer.headers):
        yield Answer(answer.status, [*answer.headers[:index], (name, changed(text)), *answer.headers[index + 1 :]], answer.body)
    if isinstance(answer.body, Json):
        for body in wrong_values(answer.body.value):
            yield Answer(answer.status, answer.headers, Json(body))
    elif answer.body:
        for body in wrong_values(answer.body):
            yield Answer(answer.status, answer.headers, body)


def changed(text):
    return f"!{text}" if text.endswith(MORE) else f"{text}!"


def wrong_values(value):
    if isinstance(value, dict):
        for key, field in value.items():
            if key == MORE:
                continue
            others = {other: one for other, one in value.items() if other != key}
            if MORE not in value:
                yield others
            for one in wrong_values(field):
                yield {**others, key: one}
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield [*value[:index], *value[index + 1 :]]
            for one in wrong_values(item):
                yield [*value[:index], one, *value[index + 1 :]]
    elif isinstance(value, str):
        if value != MORE:
            yield changed(value)
    else:
        yield "!" if value is None else not value if isinstance(value, bool) else value + 1
