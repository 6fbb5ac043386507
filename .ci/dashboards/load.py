"""Calls of customers and vendors, until they are stopped, so that every metric gets a value."""

import itertools
import json
import threading
import urllib.error
import urllib.request
import uuid

from confluent_kafka import Producer

TIMEOUT_SECS = 15


class Load(threading.Thread):
    """Plays one round after another until it is stopped. `error` is set if a round fails."""

    def __init__(self, gateway):
        super().__init__(daemon=True)
        self.gateway = gateway
        self.running = threading.Event()
        self.running.set()
        self.error = None
        self.rounds = 0

    def run(self):
        try:
            for number in itertools.count():
                if not self.running.is_set():
                    return
                self.round(number)
                self.rounds += 1
        except Exception as error:
            self.error = error

    def stop(self):
        self.running.clear()
        self.join(TIMEOUT_SECS * 2)

    def round(self, number):
        movie = self.call(201, "POST", "/movies", {"movieName": f"LALALand {number}", "qty": 100})["id"]
        jane = self.reserve(movie, 45, "CONFIRMED")
        self.reserve(movie, 57, "CANCELLED")
        self.reserve(str(uuid.uuid4()), 1, "CANCELLED")
        self.reserve(movie, 55, "CONFIRMED")
        self.call(202, "DELETE", f"/reservations/{jane}")
        for path in (f"/reservations/{jane}", "/reservationLists", f"/movies?q=lala+{number}", "/notifications?userId=7"):
            self.call(200, "GET", path)
        # Wrong calls.
        self.call(404, "GET", f"/movies/{uuid.uuid4()}")
        self.call(404, "GET", "/nowhere")
        self.call(405, "PUT", "/reservations")
        self.call(422, "POST", "/reservations", {"userId": "7", "userName": "Jane", "movieId": movie, "count": 0})

    def reserve(self, movie, count, status):
        """Reserves, waits for the outcome, and repeats the call."""
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
            response = urllib.request.urlopen(request, timeout=TIMEOUT_SECS)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            content = response.read()
        if response.status != status:
            raise AssertionError(f"{method} {path}: {response.status}, expected {status}: {content[:500]!r}")
        return json.loads(content)


def write_invalid_records(kafka, prefix):
    """Writes a malformed record to each topic, and one of an unknown type."""
    producer = Producer({"bootstrap.servers": kafka})
    for topic in ("reservations", "movies"):
        for value in ("not JSON", '{"eventType": "SeatsPainted"}'):
            producer.produce(prefix + topic, value, "invalid")
    if producer.flush(TIMEOUT_SECS):
        raise AssertionError("Kafka didn't accept the invalid records")
