//! Descriptions of records and steps, as a history shows them.

use shared_events::Event;

use crate::simulation::log::{Entry, Record};
use crate::simulation::tables::Work;
use crate::simulation::workload::Call;

/// `TicketsAllocated of r3 (#7)`.
pub fn describe_record(record: &Record) -> String {
    let subject = match record.event.reservation_id() {
        Some(id) => format!("r{}", id.0.as_u128()),
        None => format!("m{}", record.event.movie_id().0.as_u128()),
    };
    format!("{} of {subject} (#{})", record.event.event_type(), record.id.0)
}

/// The input of a transaction.
pub fn describe_work(work: &Work) -> String {
    match work {
        Work::Reservation(inputs) => {
            joined(inputs.iter().map(|input| Call::describe(input.id, &input.command)))
        }
        Work::Place(requests) => joined(requests.iter().map(|request| {
            let call = Call::describe(request.input.id, &request.input.command);
            match &request.key {
                Some(key) => format!("{call} under {}", key.scoped_key().1),
                None => call,
            }
        })),
        Work::Movie(inputs) => joined(inputs.iter().map(|input| {
            let command = format!("{:?}", input.command);
            let name = command.split_whitespace().next().unwrap_or_default().to_lowercase();
            format!("{name} m{}", input.command.movie_id().0.as_u128())
        })),
        Work::Batch(_, batch) => {
            let names = batch.iter().map(|delivery| delivery.event.event_type()).zip(batch);
            joined(names.map(|(name, delivery)| format!("{name} (#{})", delivery.id.0)))
        }
        Work::Sweep => "the deadlines".to_owned(),
    }
}

fn joined(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// The outbox rows of a transaction.
pub fn describe_rows(rows: &[(u64, Record)]) -> String {
    if rows.is_empty() {
        return "no event".to_owned();
    }
    joined(rows.iter().map(|(seq, record)| format!("{} at seq {seq}", describe_record(record))))
}

pub fn describe_entry(entry: &Entry) -> String {
    match entry {
        Entry::Own(record) => describe_record(record),
        Entry::Foreign(foreign) => format!("{foreign:?}"),
    }
}

/// The name of an event in the coverage: its type, or a cancellation's reason.
pub const fn coverage_name(event: &Event) -> &'static str {
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
