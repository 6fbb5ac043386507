"""Plays the examples of documents: play.py FOLDER-WITH-PROGRAMS DOCUMENT…

Each document is played from top to bottom on a new theater. A block `NAME=VALUE cargo run` starts another one with that
setting, for what follows until the next heading. A GET is repeated until its answer is the one that is shown, since
outcomes follow a moment later. A command without an answer in the document must succeed.
"""

import copy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import compare
import document
from theater import Theater

LIMIT_SECS = 20
PERIOD_SECS = 0.1
ANSWERS_MIN = 20


class Failed(Exception):
    pass


class Stream:
    """The output of a command that goes on."""

    def __init__(self, command):
        self.process = subprocess.Popen(["bash", "-c", f"exec {command}"], stdout=subprocess.PIPE, text=True)
        self.lines = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            # A comment only shows that the stream lives.
            if not line.startswith(":"):
                self.lines.append(line.rstrip("\n"))

    def unread(self):
        return "\n".join(self.lines).strip("\n").splitlines()

    def stop(self):
        self.process.kill()
        self.process.wait()


class Player:
    def __init__(self, programs, file, folder):
        self.programs, self.file, self.folder = programs, file, folder
        self.steps = document.steps(file)
        self.names = compare.Names([command for step in self.steps if step.kind == "calls" for command in step.commands])
        self.theaters = []
        self.stream = None
        self.answers = self.unanswered = self.noticed = 0
        self.skipped = []

    def play(self):
        try:
            self.open({})
            for step in self.steps:
                getattr(self, f"on_{step.kind}")(step)
            while self.theaters:
                self.close()
        except Failed as failure:
            log = self.theaters[-1].log.read_text()[-4000:]
            raise Failed(f"{failure}\n--- the theater's last words\n{log}") from None
        finally:
            for theater in self.theaters:
                theater.stop()
            if self.stream:
                self.stream.stop()

    def open(self, settings):
        number = len(list(self.folder.iterdir()))
        self.theaters.append(Theater(self.programs, self.folder / str(number), settings))

    def close(self):
        if not self.theaters[-1].stop():
            raise Failed(f"{self.file}: the theater ended badly")
        self.theaters.pop()

    # --- steps, by their kind ---

    def on_heading(self, _):
        if len(self.theaters) > 1:
            self.close()

    def on_theater(self, step):
        self.open(step.settings)

    def on_skipped(self, step):
        self.skipped.append(f"{self.file}:{step.line}: {step.commands[0].splitlines()[0]}")

    def on_calls(self, step):
        *first, last = [self.command(command) for command in step.commands]
        for command in first:
            self.succeed(step, command)
        if " -sN " in last:
            if self.stream:
                self.stream.stop()
            self.stream = Stream(last)
        elif step.answer is None:
            self.succeed(step, last)
        else:
            self.answer(step, last)

    def command(self, text):
        gateway = self.theaters[-1].gateway
        return self.names.replaced(text).replace(document.GATEWAY, gateway)

    def succeed(self, step, command):
        run = curl(command, "--fail")
        self.unanswered += 1
        if run.returncode != 0:
            raise Failed(f"{self.file}:{step.line}: {command}\nhas failed: {run.stderr}{run.stdout}")

    def answer(self, step, command):
        expected, with_head = compare.shown(step.answer), step.answer.language == "http"

        def received():
            run = curl(command)
            if run.returncode != 0:
                raise Failed(f"{self.file}:{step.line}: {command}\nhas failed: {run.stderr}")
            return compare.received(run.stdout, with_head), run.stdout

        self.expect(step, command, expected, received, LIMIT_SECS if document.is_get(command) else 0)

    def on_stream(self, step):
        if self.stream is None:
            raise Failed(f"{self.file}:{step.line}: no stream is open")
        expected = compare.Answer(None, [], step.answer.text.rstrip().splitlines())

        def received():
            lines = self.stream.unread()
            return compare.Answer(None, [], lines), "\n".join(lines)

        self.expect(step, "the stream goes on", expected, received, LIMIT_SECS)
        self.stream.lines.clear()

    def expect(self, step, command, expected, received, limit):
        """Waits until what is received is as expected; then makes sure that nothing else would have passed."""
        deadline = time.monotonic() + limit
        while True:
            before = copy.deepcopy(self.names)
            actual, text = received()
            difference = compare.difference(expected, actual, self.names)
            if difference is None:
                break
            if time.monotonic() > deadline:
                raise Failed(
                    f"{self.file}:{step.answer.line}: {difference}\n--- {command}\n"
                    f"--- expected\n{step.answer.text.strip()}\n--- got\n{text.strip()}"
                )
            time.sleep(PERIOD_SECS)
        self.answers += 1
        for wrong in compare.wrong(expected):
            if compare.difference(wrong, actual, copy.deepcopy(before)) is None:
                raise Failed(f"{self.file}:{step.answer.line}: this would pass too: {wrong}")
            self.noticed += 1


def curl(command, *options):
    """Runs a command, with further options for curl."""
    wrapped = f'curl() {{ command curl --max-time {LIMIT_SECS} {" ".join(options)} "$@"; }}\n{command}'
    return subprocess.run(["bash", "-c", wrapped], capture_output=True, text=True)


def main(programs, *files):
    answers = unanswered = noticed = 0
    skipped = []
    for file in files:
        with tempfile.TemporaryDirectory(prefix="theater-docs.") as folder:
            player = Player(Path(programs), file, Path(folder))
            player.play()
        print(f"{file}: {player.answers} answers are as shown, {player.unanswered} commands without one succeed")
        answers += player.answers
        unanswered += player.unanswered
        noticed += player.noticed
        skipped += player.skipped
    print(f"{noticed} answers with one thing changed were all told from the real ones")
    print(*[f"{len(skipped)} blocks with other commands are not played", *skipped], sep="\n  ")
    # So that a change of the documents' form doesn't end in nothing being played.
    if answers < ANSWERS_MIN:
        raise Failed(f"only {answers} answers were found")


if __name__ == "__main__":
    # What was started is stopped then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main(*sys.argv[1:])
    except Failed as failure:
        sys.exit(f"docs: {failure}")
