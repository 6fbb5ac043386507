"""The golden run, played by a client that was generated from the description: golden_run.py GATEWAY."""

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


def said(name, what, expected):
    if what != expected:
        sys.exit(f"{name}: {what!r}, expected {expected!r}")
    print(f"{name}: {what}")


def eventually(name, ask, expected):
    """Projections follow a moment later."""
    deadline = time.monotonic() + WAIT_SECS
    while (what := ask()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    said(name, what, expected)


def left():
    return get_movie.sync(movie_id, client=client).qty


def reserve(user, count, status, reason=None):
    body = NewReservation(user_id=user, user_name="Jane", movie_id=movie_id, count=count)
    answer = place_reservation.sync_detailed(
        client=client, body=body, idempotency_key=str(uuid4()), prefer=f"wait={WAIT_SECS}"
    )
    said(f"{user} reserves {count}", (answer.status_code.value, type(answer.parsed)), (201, Reservation))
    reservation = answer.parsed
    said("its outcome", (reservation.reserve_status.value, reservation.cancel_reason or None), (status, reason))
    said("as it is shown", get_reservation.sync(reservation.id, client=client), reservation)
    return reservation.id


def listed(user):
    page = list_reservation_lists.sync(client=client, user_id=user)
    return [(row.reserve_id, row.count) for row in page.items]


def notified(user):
    page = list_notifications.sync(client=client, user_id=user)
    return [(note.reserve_id, note.reserve_status.value) for note in page.items]


movie = publish_movie.sync(client=client, body=NewMovie(id=movie_id, movie_name="LALALand", qty=100))
said("published", (type(movie), movie.id, movie.qty), (Movie, movie_id, 100))

# Customers of their own: the theater may have others.
first, second, third = (f"{name}-{movie_id}" for name in ("jane", "joe", "ann"))

jane = reserve(first, 45, "CONFIRMED")
eventually("Jane's list", lambda: listed(first), [(jane, 45)])
said("left", left(), 55)

joe = reserve(second, 57, "CANCELLED", "OUT_OF_STOCK")
eventually("Joe is told", lambda: notified(second), [(joe, "CANCELLED")])
said("Joe's list", listed(second), [])
said("left", left(), 55)

ann = reserve(third, 55, "CONFIRMED")
eventually("Ann's list", lambda: listed(third), [(ann, 55)])
said("left", left(), 0)

cancelled = cancel_reservation.sync(jane, client=client)
said("Jane cancels", cancelled.reserve_status.value, "CANCELLED")
eventually("Jane's list", lambda: listed(first), [])
eventually("Jane is told", lambda: notified(first), [(jane, "CANCELLED"), (jane, "CONFIRMED")])
eventually("left", left, 45)

refused = publish_movie.sync_detailed(client=client, body=NewMovie(id=movie_id, movie_name="LALALand", qty=101))
said("another body", (refused.status_code.value, type(refused.parsed)), (409, Problem))
