"""Plays the golden run with a client that was generated from the description: golden_run.py GATEWAY."""

import sys
import time
from uuid import uuid4

from theater_client import Client
from theater_client.api.movies import get_movie, publish_movie
from theater_client.api.notifications import list_notifications
from theater_client.api.reservation_lists import list_reservation_lists
from theater_client.api.reservations import cancel_reservation, get_reservation, place_reservation
from theater_client.models import Movie, NewMovie, NewReservation, Problem, Reservation

WAIT_SECS = 10

client = Client(base_url=sys.argv[1], timeout=WAIT_SECS + 5)
movie_id = uuid4()


def check(name, actual, expected):
    if actual != expected:
        sys.exit(f"{name}: {actual!r}, expected {expected!r}")
    print(f"{name}: {actual}")


def eventually(name, query, expected):
    """Queries until the answer is as expected: projections are updated a moment later."""
    deadline = time.monotonic() + WAIT_SECS
    while (actual := query()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    check(name, actual, expected)


def tickets_left():
    return get_movie.sync(movie_id, client=client).qty


def reserve(user, count, status, reason=None):
    body = NewReservation(user_id=user, user_name="Jane", movie_id=movie_id, count=count)
    response = place_reservation.sync_detailed(
        client=client, body=body, idempotency_key=str(uuid4()), prefer=f"wait={WAIT_SECS}"
    )
    check(f"{user} reserves {count}", (response.status_code.value, type(response.parsed)), (201, Reservation))
    reservation = response.parsed
    check("its outcome", (reservation.reserve_status.value, reservation.cancel_reason or None), (status, reason))
    check("read back", get_reservation.sync(reservation.id, client=client), reservation)
    return reservation.id


def listed(user):
    page = list_reservation_lists.sync(client=client, user_id=user)
    return [(row.reserve_id, row.count) for row in page.items]


def notified(user):
    page = list_notifications.sync(client=client, user_id=user)
    return [(note.reserve_id, note.reserve_status.value) for note in page.items]


movie = publish_movie.sync(client=client, body=NewMovie(id=movie_id, movie_name="LALALand", qty=100))
check("published", (type(movie), movie.id, movie.qty), (Movie, movie_id, 100))

# New customers: the theater may have others already.
first, second, third = (f"{name}-{movie_id}" for name in ("jane", "joe", "ann"))

jane = reserve(first, 45, "CONFIRMED")
eventually("Jane's list", lambda: listed(first), [(jane, 45)])
check("left", tickets_left(), 55)

joe = reserve(second, 57, "CANCELLED", "OUT_OF_STOCK")
eventually("Joe's notifications", lambda: notified(second), [(joe, "CANCELLED")])
check("Joe's list", listed(second), [])
check("left", tickets_left(), 55)

ann = reserve(third, 55, "CONFIRMED")
eventually("Ann's list", lambda: listed(third), [(ann, 55)])
check("left", tickets_left(), 0)

cancelled = cancel_reservation.sync(jane, client=client)
check("Jane cancels", cancelled.reserve_status.value, "CANCELLED")
eventually("Jane's list", lambda: listed(first), [])
eventually("Jane's notifications", lambda: notified(first), [(jane, "CANCELLED"), (jane, "CONFIRMED")])
eventually("left", tickets_left, 45)

refused = publish_movie.sync_detailed(client=client, body=NewMovie(id=movie_id, movie_name="LALALand", qty=101))
check("the same movie with another body", (refused.status_code.value, type(refused.parsed)), (409, Problem))
