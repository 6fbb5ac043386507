"""What a document asks its reader to do, in order: commands, and the answers that it shows for them.

Only fenced blocks count. `sh` holds commands. The block that follows it shows the answer to the last of them, in `json`,
`http` (status line, headers, body) or `text`. `event-stream` shows what the open stream says next.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ANSWERS = ("json", "http", "text")
STREAM = "event-stream"
GATEWAY = "localhost:8088"
THEATER = re.compile(r"((?:[A-Z_]+=\S+ )+)cargo run")


@dataclass
class Block:
    line: int  # of the fence
    language: str
    text: str


@dataclass
class Step:
    """`kind` is one of: heading; theater, with its `settings`; calls; stream; skipped."""

    kind: str
    line: int
    commands: tuple = ()
    answer: Block | None = None
    settings: dict | None = None


def steps(file):
    """The steps of a document, in order."""
    found = []
    for block in blocks(file):
        if block.language == "heading":
            found.append(Step("heading", block.line))
        elif block.language == "sh":
            found.append(step(block))
        elif block.language == STREAM:
            found.append(Step("stream", block.line, answer=block))
        elif block.language in ANSWERS and found and found[-1].kind == "calls" and found[-1].answer is None:
            found[-1].answer = block
    return found


def step(block):
    commands = tuple(split(block))
    started = THEATER.fullmatch(block.text.strip())
    if started:
        settings = dict(setting.split("=", 1) for setting in started[1].split())
        return Step("theater", block.line, commands, settings=settings)
    playable = all(command.startswith("curl ") and GATEWAY in command for command in commands)
    return Step("calls" if playable else "skipped", block.line, commands)


def split(block):
    """A block's commands, of which each may span lines: by backslashes, or within quotes."""
    command = ""
    for line in block.text.splitlines():
        command += line + "\n"
        try:
            words = shlex.split(command)
        except ValueError:
            continue
        if words and not line.endswith("\\"):
            yield command.strip()
            command = ""
    if command.strip():
        raise SystemExit(f"docs: line {block.line}: a command doesn't end: {command}")


def blocks(file):
    """Fenced blocks and headings."""
    fence = None
    for number, line in enumerate(Path(file).read_text().splitlines(), 1):
        if fence is None and line.startswith("```"):
            fence = Block(number, line[3:].strip(), "")
        elif fence is not None and line.startswith("```"):
            yield fence
            fence = None
        elif fence is not None:
            fence.text += line + "\n"
        elif line.startswith("#"):
            yield Block(number, "heading", line)


def is_get(command):
    """Whether a command may be repeated until its answer is the expected one."""
    options = {"-X", "-d", "--data", "--json", "--request", "-T", "-F"}
    return not options & set(shlex.split(command))
