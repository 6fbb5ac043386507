//! How things are called in a history.

use shared_events::Event;

use crate::simulation::bus::{Entry, Record};
use crate::simulation::calls::Call;
use crate::simulation::tables::Work;

/// `TicketsAllocated of r3 (#7)`.
pub fn short(record: &Record) -> String {
    let about = match record.event.reservation_id() {
        Some(id) => format!("r{}", id.0.as_u128()),
        None => format!("m{}", record.event.movie_id().0.as_u128()),
    };
    format!("{} of {about} (#{})", record.event.event_type(), record.id.0)
}

/// What a transaction is asked to do.
pub fn work(work: &Work) -> String {
    match work {
        Work::Reservation(inputs) => {
            listed(inputs.iter().map(|input| Call::described(input.id, &input.command)))
        }
        Work::Place(requests) => listed(requests.iter().map(|placing| {
            let call = Call::described(placing.input.id, &placing.input.command);
            match &placing.key {
                Some(key) => format!("{call} under {}", key.scoped_key().1),
                None => call,
            }
        })),
        Work::Movie(inputs) => listed(inputs.iter().map(|input| {
            let command = format!("{:?}", input.command);
            let name = command.split_whitespace().next().unwrap_or_default().to_lowercase();
            format!("{name} m{}", input.command.movie_id().0.as_u128())
        })),
        Work::Batch(_, batch) => {
            let names = batch.iter().map(|delivery| delivery.event.event_type()).zip(batch);
            listed(names.map(|(name, delivery)| format!("{name} (#{})", delivery.id.0)))
        }
        Work::Sweep => "the deadlines".to_owned(),
    }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// What a transaction tells.
pub fn rows(rows: &[(u64, Record)]) -> String {
    if rows.is_empty() {
        return "no event".to_owned();
    }
    listed(rows.iter().map(|(seq, record)| format!("{} at seq {seq}", short(record))))
}

pub fn entry(entry: &Entry) -> String {
    match entry {
        Entry::Ours(record) => short(record),
        Entry::Foreign(foreign) => format!("{foreign:?}"),
    }
}

/// For the tally: an event's type, and a cancellation's reason.
pub const fn kind(event: &Event) -> &'static str {
    use shared_events::CancelReason as Reason;
    match event {
        Event::ReservationCancelled(event) => match event.reason {
            Reason::OutOfStock => "cancelled: out of stock",
            Reason::MovieNotFound => "cancelled: no such movie",
            Reason::Customer => "cancelled by the customer",
            Reason::Deadline => "cancelled by the deadline",
        },
        event => event.event_type(),
    }
}
