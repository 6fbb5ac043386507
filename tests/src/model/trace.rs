//! A readable description of a path of the exploration.

use shared_events::Event;

use crate::model::event_queue::{EventQueue, EventSet};
use crate::model::state::{Action, State};
use crate::model::theater_model::TheaterModel;
use crate::simulation::workload::Call;

/// A line for each step of a path, and the violation at its end.
pub fn describe_path(theater: &TheaterModel, path: Vec<(State, Option<Action>)>) -> Vec<String> {
    let mut lines = Vec::new();
    for pair in path.windows(2) {
        let ((before, action), (after, _)) = (&pair[0], &pair[1]);
        let Some(action) = action else { continue };
        let published = names(theater, after.published.without(before.published));
        let published = if published.is_empty() { String::new() } else { format!(" → {published}") };
        lines.push(format!("{:>3}  {}{published}", lines.len() + 1, describe_step(theater, before, *action)));
    }
    if let Some((last, _)) = path.last() {
        lines.push(format!("     {}", describe_violation(theater, last)));
    }
    lines
}

fn describe_violation(theater: &TheaterModel, state: &State) -> String {
    if let Some(violation) = state.violation {
        return theater.transactions.violation(violation).message().to_owned();
    }
    let checked = theater
        .check_consistency(state)
        .and_then(|()| theater.check_batches(state))
        .and_then(|()| theater.check_at_rest(state));
    match checked {
        Ok(()) => "nothing is wrong".to_owned(),
        Err(violation) => violation.message().to_owned(),
    }
}

fn describe_step(theater: &TheaterModel, state: &State, action: Action) -> String {
    let list = |queue: EventQueue| {
        let names = queue.events().map(|event| name(theater.transactions.event(event)));
        names.collect::<Vec<_>>().join(", ")
    };
    match action {
        Action::Call(number) => describe_call(theater.transactions.call(number)),
        Action::RepeatCall(number) => format!("again: {}", describe_call(theater.transactions.call(number))),
        Action::Expire(id) => format!("the deadline of r{} passes", id.0.as_u128()),
        Action::Send(service, partition) => {
            format!("{service:?} sends {}", list(state.outbox(service, partition).first(1)))
        }
        Action::Read(service, partition) => {
            format!("{service:?} reads {}", list(state.unread(service, partition).first(1)))
        }
        Action::Crash(service, partition, count) => {
            let sent = list(state.outbox(service, partition).first(count));
            format!("{service:?} sends {sent} and dies before it deletes the rows")
        }
        Action::Redeliver(event) => {
            format!("again in the log: {}", name(theater.transactions.event(event)))
        }
        Action::DeadLetter(service, partition) => {
            let record = list(state.unread(service, partition).first(1));
            format!("{service:?} can't handle {record}: a dead letter")
        }
        Action::Replay => {
            format!("the dead letter goes back into the log: {}", list(state.dead_letters.first(1)))
        }
    }
}

fn describe_call(call: &Call) -> String {
    match call {
        Call::Place { id, movie, count } => {
            format!("place r{} (m{} × {})", id.0.as_u128(), movie.0.as_u128(), count.get())
        }
        Call::PlaceWithKey { .. } => "place under a key".to_owned(),
        Call::Cancel { id } => format!("cancel r{}", id.0.as_u128()),
        Call::Publish { movie, qty } => format!("publish m{} ({qty})", movie.0.as_u128()),
        Call::Deliver { movie, count, .. } => format!("deliver m{} (+{})", movie.0.as_u128(), count.get()),
        Call::Edit { movie, .. } => format!("edit m{}", movie.0.as_u128()),
    }
}

fn names(theater: &TheaterModel, events: EventSet) -> String {
    theater.transactions.events(events).map(name).collect::<Vec<_>>().join(", ")
}

/// `TicketsAllocated of r3`.
fn name(event: &Event) -> String {
    match event.reservation_id() {
        Some(id) => format!("{} of r{}", event.event_type(), id.0.as_u128()),
        None => format!("{} of m{}", event.event_type(), event.movie_id().0.as_u128()),
    }
}
