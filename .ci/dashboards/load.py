"""Customers who come and go for as long as they are wanted, so that everything that is counted is counted."""

import itertools
import json
import threading
import urllib.error
import urllib.request
import uuid

from confluent_kafka import Producer

PATIENCE_SECS = 15


class Load(threading.Thread):
    """Plays one round after another until it is stopped; `failed` is why it stopped before."""

    def __init__(self, gateway):
        super().__init__(daemon=True)
        self.gateway = gateway
        self.wanted = threading.Event()
        self.wanted.set()
        self.failed = None
        self.rounds = 0

    def run(self):
        try:
            for number in itertools.count():
                if not self.wanted.is_set():
                    return
                self.round(number)
                self.rounds += 1
        except Exception as error:
            self.failed = error

    def stop(self):
        self.wanted.clear()
        self.join(PATIENCE_SECS * 2)

    def round(self, number):
        movie = self.call(201, "POST", "/movies", {"movieName": f"LALALand {number}", "qty": 100})["id"]
        jane = self.reserve(movie, 45, "CONFIRMED")
        self.reserve(movie, 57, "CANCELLED")
        self.reserve(str(uuid.uuid4()), 1, "CANCELLED")
        self.reserve(movie, 55, "CONFIRMED")
        self.call(202, "DELETE", f"/reservations/{jane}")
        for path in (f"/reservations/{jane}", "/reservationLists", f"/movies?q=lala+{number}", "/notifications?userId=7"):
            self.call(200, "GET", path)
        # And those who do it wrong.
        self.call(404, "GET", f"/movies/{uuid.uuid4()}")
        self.call(404, "GET", "/nowhere")
        self.call(405, "PUT", "/reservations")
        self.call(422, "POST", "/reservations", {"userId": "7", "userName": "Jane", "movieId": movie, "count": 0})

    def reserve(self, movie, count, status):
        """Waits for the outcome, and makes the call a second time."""
        body = {"userId": "7", "userName": "Jane", "email": "jane@example.org", "movieId": movie, "count": count}
        headers = {"Prefer": "wait=10", "Idempotency-Key": str(uuid.uuid4())}
        placed = self.call(201, "POST", "/reservations", body, headers)
        if placed["reserveStatus"] != status:
            raise AssertionError(f"{placed} is not {status}")
        self.call(201, "POST", "/reservations", body, headers)
        return placed["id"]

    def call(self, status, method, path, body=None, headers={}):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.gateway + path, data, {"Content-Type": "application/json", **headers}, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=PATIENCE_SECS)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
        if answer.status != status:
            raise AssertionError(f"{method} {path}: {answer.status}, expected {status}: {content[:500]!r}")
        return json.loads(content)


def write_nonsense(kafka, prefix):
    """A record on each topic that nobody can read, and one of a type that nobody knows."""
    producer = Producer({"bootstrap.servers": kafka})
    for topic in ("reservations", "movies"):
        for value in ("not JSON", '{"eventType": "SeatsPainted"}'):
            producer.produce(prefix + topic, value, "nonsense")
    if producer.flush(PATIENCE_SECS):
        raise AssertionError("Kafka didn't take the nonsense")
