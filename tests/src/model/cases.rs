//! The small theaters that are explored: each asks about something else, so that none gets too large.

use shared_events::{Count, DeliveryId, MovieId, ReservationId};
use uuid::Uuid;

use crate::model::{Case, Misfortunes, Pace};
use crate::simulation::calls::Call;
use crate::simulation::tables;

const NONE: Misfortunes = Misfortunes { repeats: 0, crashes: 0, set_aside: 0, again: 0 };

fn movie(number: u128) -> MovieId {
    MovieId(Uuid::from_u128(number))
}

fn count(count: i64) -> Count {
    Count::new(count).expect("a count of at least 1")
}

fn place(number: u128, of: u128, tickets: i64) -> Call {
    Call::Place { id: ReservationId(Uuid::from_u128(number)), movie: movie(of), count: count(tickets) }
}

fn cancel(number: u128) -> Call {
    Call::Cancel { id: ReservationId(Uuid::from_u128(number)) }
}

fn publish(number: u128, qty: i64) -> Call {
    Call::Publish { movie: movie(number), qty }
}

fn deliver(to: u128, tickets: i64) -> Call {
    Call::Deliver { movie: movie(to), delivery: DeliveryId(Uuid::from_u128(9)), count: count(tickets) }
}

/// All at one moment but what a case is about: one partition, the production folds.
fn case(name: &'static str, before: Vec<Call>, calls: Vec<Call>, misfortunes: Misfortunes) -> Case {
    let (relays, last_readers) = (Pace::AtOnce, Pace::AtOnce);
    Case { name, before, calls, partitions: 1, relays, last_readers, misfortunes, decide: tables::fold }
}

/// One reservation; relays and all readers take their time.
fn alone(name: &'static str, misfortunes: Misfortunes) -> Case {
    let case = case(name, vec![publish(1, 2)], vec![place(1, 1, 2), cancel(1)], misfortunes);
    Case { relays: Pace::AtAnyTime, last_readers: Pace::AtAnyTime, ..case }
}

/// Two that can't both be served, unless one gives back.
fn rivals(name: &'static str, misfortunes: Misfortunes) -> Case {
    let calls = vec![place(1, 1, 2), place(2, 1, 1), cancel(1), cancel(2)];
    case(name, vec![publish(1, 2)], calls, misfortunes)
}

/// Three reservations of two movies; the second movie is published at some time or never, if it is at all.
fn three(name: &'static str, published: bool, cancels: u128, misfortunes: Misfortunes) -> Case {
    let mut calls = vec![place(1, 1, 2), place(2, 1, 1), place(3, 2, 1)];
    calls.extend((1..=cancels).map(cancel));
    if published {
        calls.push(publish(2, 1));
    }
    case(name, vec![publish(1, 2)], calls, misfortunes)
}

/// What every run of the tests explores.
pub fn small() -> Vec<Case> {
    let repeat = Misfortunes { repeats: 1, ..NONE };
    vec![
        alone("one reservation, a crash", Misfortunes { crashes: 1, ..repeat }),
        Case {
            relays: Pace::AtOnce,
            ..alone("one reservation, dead letters", Misfortunes { set_aside: 1, again: 1, ..repeat })
        },
        Case {
            relays: Pace::AtAnyTime,
            ..rivals("two rivals, a crash", Misfortunes { crashes: 1, again: 1, ..NONE })
        },
        rivals("two rivals, dead letters", Misfortunes { set_aside: 1, ..repeat }),
        three("three reservations, two movies", true, 2, NONE),
        three("three reservations, a repeat", false, 1, repeat),
        Case { partitions: 2, ..three("three reservations, two partitions", true, 2, NONE) },
    ]
}

/// What takes minutes.
pub fn large() -> Vec<Case> {
    let repeat = Misfortunes { repeats: 1, ..NONE };
    let mut delivered = rivals("two rivals, tickets arrive", Misfortunes { again: 1, ..repeat });
    delivered.calls.push(deliver(1, 1));
    vec![
        alone("one reservation, everything", Misfortunes { repeats: 1, crashes: 1, set_aside: 1, again: 1 }),
        Case {
            relays: Pace::AtAnyTime,
            ..rivals("two rivals, a crash and a repeat", Misfortunes { crashes: 1, ..repeat })
        },
        rivals("two rivals, everything", Misfortunes { set_aside: 1, again: 1, ..repeat }),
        delivered,
        three("three reservations, all cancelled", false, 3, repeat),
        Case { partitions: 2, ..three("three reservations, two partitions, a repeat", true, 2, repeat) },
    ]
}
