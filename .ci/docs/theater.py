"""A theater of its own for the examples, with the settings that they ask for."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

START_SECS = 120
STOP_SECS = 30
PORTS = ("gateway", "reservation", "movie", "notification", "reservation-list")
# Not taken from the environment of this check: the documents say which settings their examples need.
SETTINGS = ("RATE_LIMIT", "SMTP_URL", "TRUSTED_PROXIES", "CORS_ORIGINS", "EXPORTS_DIR", "RESERVATION_DEADLINE_SECS")


class Theater:
    def __init__(self, programs, folder, settings):
        folder.mkdir()
        self.processes = []
        self.log = folder / "theater.log"
        environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        environment.update(settings, XDG_RUNTIME_DIR=str(folder))
        if "SMTP_URL" in settings:
            environment["SMTP_URL"] = f"smtp://127.0.0.1:{self.mail_server(programs, folder)}"
        ports = [word for name in PORTS for word in (f"--{name}-port", "0")]
        self.theater = self.start([programs / "theater", *ports], environment, self.log)
        try:
            self.gateway = self.opened(folder)
        except BaseException:
            self.stop()
            raise

    def start(self, command, environment, log):
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process

    def mail_server(self, programs, folder):
        """Answers the port of one that takes all mail."""
        ports, mails = [free_port(), free_port()], folder / "mails"
        mails.mkdir()
        command = [programs / "theater-tests", "mail", *map(str, ports), mails, ""]
        self.start(command, os.environ, folder / "mail.log")
        eventually("the mail server listens", lambda: socket.create_connection(("127.0.0.1", ports[1])).close() or True)
        return ports[0]

    def opened(self, folder):
        """Waits for the file that a launcher writes once all is open; answers the gateway's host and port."""

        def announced():
            if self.theater.poll() is not None:
                raise SystemExit(f"docs: the theater did not start:\n{self.log.read_text()}")
            return next((folder / "theater").glob("*.json"), None)

        file = eventually("the theater opens", announced)
        return json.loads(file.read_text())["gateway"].removeprefix("http://")

    def stop(self):
        """Answers whether the theater ended well."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT if process is self.theater else signal.SIGTERM)
        try:
            return [process.wait(STOP_SECS) for process in self.processes][-1] == 0
        finally:
            for process in self.processes:
                process.kill()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def eventually(what, ask):
    deadline = time.monotonic() + START_SECS
    while time.monotonic() < deadline:
        try:
            found = ask()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise SystemExit(f"docs: not within {START_SECS} s: {what}")
