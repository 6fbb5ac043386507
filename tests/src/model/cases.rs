//! The small theaters that are explored. Each examines one subject, so that none gets too large.

use shared_events::{Count, DeliveryId, MovieId, ReservationId};
use uuid::Uuid;

use crate::model::{Case, Faults, Scheduling};
use crate::simulation::tables;
use crate::simulation::workload::Call;

const NONE: Faults = Faults { redeliveries: 0, crashes: 0, dead_letters: 0, repeated_calls: 0 };

fn movie(number: u128) -> MovieId {
    MovieId(Uuid::from_u128(number))
}

fn count(count: i64) -> Count {
    Count::new(count).expect("a count of at least 1")
}

fn place(number: u128, movie_number: u128, tickets: i64) -> Call {
    Call::Place {
        id: ReservationId(Uuid::from_u128(number)),
        movie: movie(movie_number),
        count: count(tickets),
    }
}

fn cancel(number: u128) -> Call {
    Call::Cancel { id: ReservationId(Uuid::from_u128(number)) }
}

fn publish(number: u128, qty: i64) -> Call {
    Call::Publish { movie: movie(number), qty }
}

fn deliver(movie_number: u128, tickets: i64) -> Call {
    Call::Deliver {
        movie: movie(movie_number),
        delivery: DeliveryId(Uuid::from_u128(9)),
        count: count(tickets),
    }
}

/// A case with the production folds, one partition, and relays and leaf consumers that act immediately.
fn case(name: &'static str, before: Vec<Call>, calls: Vec<Call>, faults: Faults) -> Case {
    let (relays, leaf_consumers) = (Scheduling::Immediate, Scheduling::Immediate);
    Case { name, before, calls, partitions: 1, relays, leaf_consumers, faults, decide: tables::fold }
}

/// One reservation; relays and all consumers are interleaved.
fn alone(name: &'static str, faults: Faults) -> Case {
    let case = case(name, vec![publish(1, 2)], vec![place(1, 1, 2), cancel(1)], faults);
    Case { relays: Scheduling::Interleaved, leaf_consumers: Scheduling::Interleaved, ..case }
}

/// Two reservations for more tickets than there are.
fn rivals(name: &'static str, faults: Faults) -> Case {
    let calls = vec![place(1, 1, 2), place(2, 1, 1), cancel(1), cancel(2)];
    case(name, vec![publish(1, 2)], calls, faults)
}

/// Three reservations of two movies. The second movie is published at any time or never.
fn three(name: &'static str, published: bool, cancels: u128, faults: Faults) -> Case {
    let mut calls = vec![place(1, 1, 2), place(2, 1, 1), place(3, 2, 1)];
    calls.extend((1..=cancels).map(cancel));
    if published {
        calls.push(publish(2, 1));
    }
    case(name, vec![publish(1, 2)], calls, faults)
}

/// What every run of the tests explores.
pub fn small() -> Vec<Case> {
    let redelivery = Faults { redeliveries: 1, ..NONE };
    vec![
        alone("one reservation, a crash", Faults { crashes: 1, ..redelivery }),
        Case {
            relays: Scheduling::Immediate,
            ..alone(
                "one reservation, dead letters",
                Faults { dead_letters: 1, repeated_calls: 1, ..redelivery },
            )
        },
        Case {
            relays: Scheduling::Interleaved,
            ..rivals("two rivals, a crash", Faults { crashes: 1, repeated_calls: 1, ..NONE })
        },
        rivals("two rivals, dead letters", Faults { dead_letters: 1, ..redelivery }),
        three("three reservations, two movies", true, 2, NONE),
        three("three reservations, a repeat", false, 1, redelivery),
        Case { partitions: 2, ..three("three reservations, two partitions", true, 2, NONE) },
    ]
}

/// The cases that take minutes.
pub fn large() -> Vec<Case> {
    let redelivery = Faults { redeliveries: 1, ..NONE };
    let mut delivered = rivals("two rivals, tickets arrive", Faults { repeated_calls: 1, ..redelivery });
    delivered.calls.push(deliver(1, 1));
    vec![
        alone(
            "one reservation, everything",
            Faults { redeliveries: 1, crashes: 1, dead_letters: 1, repeated_calls: 1 },
        ),
        Case {
            relays: Scheduling::Interleaved,
            ..rivals("two rivals, a crash and a repeat", Faults { crashes: 1, ..redelivery })
        },
        rivals("two rivals, everything", Faults { dead_letters: 1, repeated_calls: 1, ..redelivery }),
        delivered,
        three("three reservations, all cancelled", false, 3, redelivery),
        Case { partitions: 2, ..three("three reservations, two partitions, a repeat", true, 2, redelivery) },
    ]
}
