//! A path of the exploration, told so that a person can follow it.

use shared_events::Event;

use crate::model::queue::{Facts, Queue};
use crate::model::theater::{Action, State, Theater};
use crate::simulation::calls::Call;

/// The lines of a path, and what is wrong at its end.
pub fn story(theater: &Theater, path: Vec<(State, Option<Action>)>) -> Vec<String> {
    let mut lines = Vec::new();
    for pair in path.windows(2) {
        let ((before, action), (after, _)) = (&pair[0], &pair[1]);
        let Some(action) = action else { continue };
        let told = names(theater, after.told.without(before.told));
        let told = if told.is_empty() { String::new() } else { format!(" → {told}") };
        lines.push(format!("{:>3}  {}{told}", lines.len() + 1, step(theater, before, *action)));
    }
    if let Some((last, _)) = path.last() {
        lines.push(format!("     {}", wrong(theater, last)));
    }
    lines
}

fn wrong(theater: &Theater, state: &State) -> String {
    if let Some(broken) = state.broken {
        return theater.transactions.violation(broken).what().to_owned();
    }
    let all =
        theater.together(state).and_then(|()| theater.batches(state)).and_then(|()| theater.at_rest(state));
    match all {
        Ok(()) => "nothing is wrong".to_owned(),
        Err(violation) => violation.what().to_owned(),
    }
}

fn step(theater: &Theater, state: &State, action: Action) -> String {
    let row = |queue: Queue| {
        let facts = queue.facts().map(|fact| name(theater.transactions.event(fact)));
        facts.collect::<Vec<_>>().join(", ")
    };
    match action {
        Action::Call(number) => call(theater.transactions.call(number)),
        Action::Again(number) => format!("again: {}", call(theater.transactions.call(number))),
        Action::Expire(id) => format!("the deadline of r{} passes", id.0.as_u128()),
        Action::Send(service, partition) => {
            format!("{service:?} sends {}", row(state.outbox(service, partition).first(1)))
        }
        Action::Read(service, partition) => {
            format!("{service:?} reads {}", row(state.unread(service, partition).first(1)))
        }
        Action::Crash(service, partition, count) => {
            let sent = row(state.outbox(service, partition).first(count));
            format!("{service:?} sends {sent} and dies before it deletes the rows")
        }
        Action::Repeat(fact) => {
            format!("again in the log: {}", name(theater.transactions.event(fact)))
        }
        Action::SetAside(service, partition) => {
            let aside = row(state.unread(service, partition).first(1));
            format!("{service:?} can't handle {aside}: a dead letter")
        }
        Action::Replay => {
            format!("the dead letter goes back into the log: {}", row(state.set_aside.first(1)))
        }
    }
}

fn call(call: &Call) -> String {
    match call {
        Call::Place { id, movie, count } => {
            format!("place r{} (m{} × {})", id.0.as_u128(), movie.0.as_u128(), count.get())
        }
        Call::PlaceUnder { .. } => "place under a key".to_owned(),
        Call::Cancel { id } => format!("cancel r{}", id.0.as_u128()),
        Call::Publish { movie, qty } => format!("publish m{} ({qty})", movie.0.as_u128()),
        Call::Deliver { movie, count, .. } => format!("deliver m{} (+{})", movie.0.as_u128(), count.get()),
        Call::Edit { movie, .. } => format!("edit m{}", movie.0.as_u128()),
    }
}

fn names(theater: &Theater, facts: Facts) -> String {
    theater.transactions.events(facts).map(name).collect::<Vec<_>>().join(", ")
}

/// `TicketsAllocated of r3`.
fn name(event: &Event) -> String {
    match event.reservation_id() {
        Some(id) => format!("{} of r{}", event.event_type(), id.0.as_u128()),
        None => format!("{} of m{}", event.event_type(), event.movie_id().0.as_u128()),
    }
}
