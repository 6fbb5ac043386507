//! Given listed rows and events, `fold` makes the list agree with the reservations.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use shared_events::{CancelReason, Decoded, ReservationCancelled, decode};
use uuid::Uuid;

use super::*;

fn golden(json: &str) -> Event {
    match decode(Some(json.as_bytes())).unwrap() {
        Decoded::Event(event) => event,
        Decoded::Unknown(event_type) => panic!("{event_type} is unknown"),
    }
}

fn placed() -> Event {
    golden(include_str!("../../../shared-events/golden/ReservationPlaced.v1.json"))
}

fn confirmed() -> Event {
    golden(include_str!("../../../shared-events/golden/ReservationConfirmed.v1.json"))
}

fn cancelled() -> Event {
    golden(include_str!("../../../shared-events/golden/ReservationCancelled.v1.json"))
}

/// Cancelled before the movie service answered: the movie's name was never known.
fn cancelled_unnamed() -> Event {
    match cancelled() {
        Event::ReservationCancelled(event) => {
            Event::from(ReservationCancelled { movie_name: None, reason: CancelReason::Deadline, ..event })
        }
        other => other,
    }
}

fn of_reservation(mut event: Event, number: u128) -> Event {
    let id = ReservationId(Uuid::from_u128(number));
    match &mut event {
        Event::ReservationPlaced(event) => event.reservation_id = id,
        Event::ReservationConfirmed(event) => event.reservation_id = id,
        Event::ReservationCancelled(event) => event.reservation_id = id,
        _ => {}
    }
    event
}

fn inputs(events: &[Event]) -> Vec<Reservation> {
    events.iter().filter_map(Reservation::from_event).collect()
}

fn id() -> ReservationId {
    confirmed().reservation_id().unwrap()
}

fn given(status: Status) -> State {
    State::from([(id(), status)])
}

fn changes_nothing(state: State, events: &[Event]) {
    let writes = fold(state, inputs(events));
    assert_eq!(writes.new, []);
    assert!(writes.cancelled.is_empty());
}

#[test]
fn a_confirmed_reservation_is_listed() {
    let writes = fold(State::new(), inputs(&[placed(), confirmed()]));
    let [row] = &writes.new[..] else { panic!("{writes:?}") };
    assert_eq!((row.id, row.status), (id(), Status::Confirmed));
    assert_eq!((row.user_id.as_str(), row.count.get()), ("7", 45));
    assert_eq!((row.movie_name.as_deref(), row.date.as_str()), (Some("LALALand"), "2026-12-24"));
}

#[test]
fn a_cancellation_cancels_the_row() {
    let writes = fold(given(Status::Confirmed), inputs(&[cancelled()]));
    assert_eq!(writes.new, []);
    assert_eq!(writes.cancelled, BTreeSet::from([id()]));
}

#[test]
fn confirmed_and_cancelled_in_one_batch_is_one_cancelled_row() {
    let writes = fold(State::new(), inputs(&[confirmed(), cancelled()]));
    assert_eq!(writes.new.len(), 1);
    assert_eq!(writes.new[0].status, Status::Cancelled);
    assert!(writes.cancelled.is_empty());
}

#[test]
fn a_cancellation_without_a_confirmation_is_a_cancelled_row() {
    let writes = fold(State::new(), inputs(&[cancelled_unnamed()]));
    assert_eq!(writes.new.len(), 1);
    assert_eq!((writes.new[0].status, &writes.new[0].movie_name), (Status::Cancelled, &None));
}

#[test]
fn repeats_and_late_confirmations_change_nothing() {
    changes_nothing(given(Status::Confirmed), &[confirmed(), confirmed()]);
    changes_nothing(given(Status::Cancelled), &[cancelled()]);
    changes_nothing(given(Status::Cancelled), &[confirmed()]);
    changes_nothing(given(Status::Cancelled), &[confirmed(), cancelled(), confirmed()]);
}

#[test]
fn other_events_are_ignored() {
    let movies = [
        golden(include_str!("../../../shared-events/golden/MoviePublished.v1.json")),
        golden(include_str!("../../../shared-events/golden/MovieUpdated.v1.json")),
        golden(include_str!("../../../shared-events/golden/TicketsAdded.v1.json")),
        golden(include_str!("../../../shared-events/golden/TicketsAllocated.v1.json")),
        golden(include_str!("../../../shared-events/golden/AllocationRejected.v1.json")),
        golden(include_str!("../../../shared-events/golden/TicketsReleased.v1.json")),
    ];
    changes_nothing(State::new(), &[placed()]);
    changes_nothing(given(Status::Confirmed), &movies);
}

/// The possible histories of a reservation, in order.
fn history(number: u128) -> impl Strategy<Value = Vec<Event>> {
    let ends = prop_oneof![
        Just(vec![confirmed()]),
        Just(vec![confirmed(), cancelled()]),
        Just(vec![cancelled()]),
        Just(vec![cancelled_unnamed()]),
    ];
    ends.prop_map(move |end| {
        [placed()].into_iter().chain(end).map(|event| of_reservation(event, number)).collect()
    })
}

/// The events of some reservations in order; and the same events, each at least once, in any order and any batches.
fn deliveries() -> impl Strategy<Value = (Vec<Event>, Vec<Vec<Event>>)> {
    (history(1), history(2), history(3))
        .prop_flat_map(|(a, b, c)| {
            let log = [a, b, c].concat();
            let repeats = vec(proptest::sample::select(log.clone()), 0..20);
            (Just(log), repeats, 1..8_usize)
        })
        .prop_flat_map(|(log, repeats, size)| {
            let all = [log.clone(), repeats].concat();
            (Just(log), Just(all).prop_shuffle(), Just(size))
        })
        .prop_map(|(log, all, size)| (log, all.chunks(size).map(<[Event]>::to_vec).collect()))
}

/// The table after the batches. Asserts that no status goes back and no row is inserted twice.
fn run(batches: &[Vec<Event>]) -> BTreeMap<ReservationId, Reservation> {
    let mut table: BTreeMap<ReservationId, Reservation> = BTreeMap::new();
    for batch in batches {
        let before = table.clone();
        let state = table.values().map(|row| (row.id, row.status)).collect();
        let writes = fold(state, inputs(batch));
        for row in writes.new {
            assert!(table.insert(row.id, row).is_none(), "a row is inserted twice");
        }
        for id in writes.cancelled {
            table.get_mut(&id).unwrap().status = Status::Cancelled;
        }
        assert!(before.values().all(|row| table[&row.id].status >= row.status), "a status went back");
    }
    table
}

proptest! {
    #[test]
    fn any_order_and_repetition_ends_in_the_same_list((log, batches) in deliveries()) {
        prop_assert_eq!(run(&batches), run(&[log]));
    }
}
