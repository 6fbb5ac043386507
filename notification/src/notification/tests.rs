//! Given the notifications that exist, when events are folded, then exactly the new outcomes are notified.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use shared_events::{Decoded, decode};

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

fn cancelled(reason: CancelReason) -> Event {
    match golden(include_str!("../../../shared-events/golden/ReservationCancelled.v1.json")) {
        Event::ReservationCancelled(event) => Event::from(ReservationCancelled { reason, ..event }),
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

fn notifications(events: &[Event]) -> Vec<Notification> {
    let ids = (1..).map(Uuid::from_u128);
    events.iter().zip(ids).filter_map(|(event, id)| Notification::from_event(event, id)).collect()
}

fn message(event: &Event) -> String {
    Notification::from_event(event, Uuid::nil()).unwrap().message
}

fn with_count_and_name(event: Event, count: i64, name: Option<&str>) -> Event {
    let count = Count::new(count).unwrap();
    match event {
        Event::ReservationConfirmed(event) => Event::from(ReservationConfirmed { count, ..event }),
        Event::ReservationCancelled(event) => {
            Event::from(ReservationCancelled { count, movie_name: name.map(str::to_owned), ..event })
        }
        other => other,
    }
}

#[test]
fn both_outcomes_of_a_reservation_are_notified() {
    let writes = fold(State::new(), notifications(&[confirmed(), cancelled(CancelReason::Customer)]));
    let outcomes: Vec<_> = writes.new.iter().map(|notification| notification.outcome).collect();
    assert_eq!(outcomes, [Outcome::Confirmed, Outcome::Cancelled(CancelReason::Customer)]);
    assert_eq!(writes.new[0].id, Uuid::from_u128(1));
}

#[test]
fn a_confirmation_after_the_cancellation_is_recorded_and_not_sent() {
    let events = [cancelled(CancelReason::Customer), confirmed()];
    let one = fold(State::new(), notifications(&events));
    let known = notifications(&events[..1]).iter().map(Notification::key).collect();
    let two = fold(known, notifications(&events[1..]));
    for (writes, sent) in [(one, 1), (two, 0)] {
        let last = writes.new.last().unwrap();
        assert_eq!(last.outcome, Outcome::Confirmed);
        let to_send: Vec<_> = writes.to_send().map(|new| new.outcome.status()).collect();
        assert_eq!(to_send, vec![Status::Cancelled; sent]);
    }
    // In the order of the saga, both are sent.
    let events = [confirmed(), cancelled(CancelReason::Customer)];
    assert_eq!(fold(State::new(), notifications(&events)).to_send().count(), 2);
}

#[test]
fn outcomes_of_an_earlier_batch_are_not_notified_again() {
    let events = [confirmed(), cancelled(CancelReason::Customer)];
    let known: State = notifications(&events).iter().map(Notification::key).collect();
    assert_eq!(fold(known.clone(), notifications(&events)).new, []);
    // Nor with another reason: the first reason stands.
    assert_eq!(fold(known, notifications(&[cancelled(CancelReason::Deadline)])).new, []);
}

#[test]
fn repeats_within_a_batch_are_notified_once() {
    let events = [confirmed(), confirmed(), cancelled(CancelReason::Customer), confirmed()];
    assert_eq!(fold(State::new(), notifications(&events)).new.len(), 2);
}

#[test]
fn other_events_are_not_notified() {
    let movies = [
        golden(include_str!("../../../shared-events/golden/MoviePublished.v1.json")),
        golden(include_str!("../../../shared-events/golden/MovieUpdated.v1.json")),
        golden(include_str!("../../../shared-events/golden/TicketsAdded.v1.json")),
        golden(include_str!("../../../shared-events/golden/TicketsAllocated.v1.json")),
        golden(include_str!("../../../shared-events/golden/AllocationRejected.v1.json")),
        golden(include_str!("../../../shared-events/golden/TicketsReleased.v1.json")),
    ];
    assert_eq!(notifications(&[placed()]), []);
    assert_eq!(notifications(&movies), []);
}

#[test]
fn every_outcome_has_its_message() {
    assert_eq!(message(&confirmed()), "Jane, your 45 tickets for LALALand are confirmed.");
    let one = with_count_and_name(confirmed(), 1, None);
    assert_eq!(message(&one), "Jane, your ticket for LALALand is confirmed.");
    let cancelled_message = |reason| message(&cancelled(reason));
    assert_eq!(
        cancelled_message(CancelReason::OutOfStock),
        "Jane, your reservation of 45 tickets for LALALand is cancelled: not enough tickets are left."
    );
    assert_eq!(
        cancelled_message(CancelReason::Customer),
        "Jane, your reservation of 45 tickets for LALALand is cancelled, as you asked."
    );
    assert_eq!(
        cancelled_message(CancelReason::Deadline),
        "Jane, your reservation of 45 tickets for LALALand is cancelled: it could not be confirmed in \
         time. Please try again."
    );
    let unknown = with_count_and_name(cancelled(CancelReason::MovieNotFound), 1, None);
    assert_eq!(message(&unknown), "Jane, your reservation of 1 ticket is cancelled: there is no such movie.");
}

/// The events of one reservation, in their order.
fn history(number: u128) -> impl Strategy<Value = Vec<Event>> {
    let ends = prop_oneof![
        Just(vec![confirmed()]),
        Just(vec![confirmed(), cancelled(CancelReason::Customer)]),
        proptest::sample::select(CancelReason::ALL.to_vec()).prop_map(|reason| vec![cancelled(reason)]),
    ];
    ends.prop_map(move |end| {
        [placed()].into_iter().chain(end).map(|event| of_reservation(event, number)).collect()
    })
}

/// The events of three reservations in order; and all of them, each at least once, in any order and any batches.
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

/// The messages by key that a table with the unique key holds after the batches.
fn run(batches: &[Vec<Event>]) -> BTreeMap<(ReservationId, &'static str), String> {
    let mut table = BTreeMap::new();
    let mut state = State::new();
    for batch in batches {
        for notification in fold(state.clone(), notifications(batch)).new {
            let (reservation_id, status) = notification.key();
            assert!(state.insert(notification.key()), "{status:?} of {reservation_id} is notified twice");
            table.insert((reservation_id, status.as_str()), notification.message);
        }
    }
    table
}

proptest! {
    #[test]
    fn any_order_and_repetition_notifies_the_same((log, batches) in deliveries()) {
        prop_assert_eq!(run(&batches), run(&[log]));
    }
}
