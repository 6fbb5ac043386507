//! A notification, and the decision that each outcome of a reservation is notified once. Pure: ids are passed in, and the
//! database's clock sets the time.

use std::collections::{BTreeSet, HashSet};

use shared_events::{
    CancelReason, Count, Event, MovieId, ReservationCancelled, ReservationConfirmed, ReservationId,
};
use uuid::Uuid;

/// The status that an outcome leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Confirmed,
    Cancelled,
}

impl Status {
    pub const ALL: [Self; 2] = [Self::Confirmed, Self::Cancelled];

    /// As it is written in answers and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "CONFIRMED",
            Self::Cancelled => "CANCELLED",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Confirmed,
    Cancelled(CancelReason),
}

impl Outcome {
    pub const fn status(self) -> Status {
        match self {
            Self::Confirmed => Status::Confirmed,
            Self::Cancelled(_) => Status::Cancelled,
        }
    }

    pub const fn reason(self) -> Option<CancelReason> {
        match self {
            Self::Confirmed => None,
            Self::Cancelled(reason) => Some(reason),
        }
    }
}

/// Identifies a notification, so that a repeated event is recognised.
pub type Key = (ReservationId, Status);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    pub id: Uuid,
    pub reservation_id: ReservationId,
    pub outcome: Outcome,
    pub user_id: String,
    pub user_name: String,
    pub email: Option<String>,
    pub movie_id: MovieId,
    pub movie_name: Option<String>,
    pub count: Count,
    pub message: String,
}

impl Notification {
    /// The notification of an event's outcome, under an id that is used if it is new. `None` if the event is no outcome.
    pub fn from_event(event: &Event, id: Uuid) -> Option<Self> {
        match event {
            Event::ReservationConfirmed(event) => Some(Self::confirmed(event, id)),
            Event::ReservationCancelled(event) => Some(Self::cancelled(event, id)),
            // Undecided.
            Event::ReservationPlaced(_) => None,
            // Events of the movie service, which belong to another topic.
            Event::MoviePublished(_)
            | Event::MovieUpdated(_)
            | Event::TicketsAdded(_)
            | Event::TicketsAllocated(_)
            | Event::AllocationRejected(_)
            | Event::TicketsReleased(_) => None,
        }
    }

    fn confirmed(event: &ReservationConfirmed, id: Uuid) -> Self {
        let (your, are) = if event.count.get() == 1 { ("ticket", "is") } else { ("tickets", "are") };
        let number = if event.count.get() == 1 { String::new() } else { format!("{} ", event.count.get()) };
        let message =
            format!("{}, your {number}{your} for {} {are} confirmed.", event.user_name, event.movie_name);
        Self {
            id,
            reservation_id: event.reservation_id,
            outcome: Outcome::Confirmed,
            user_id: event.user_id.clone(),
            user_name: event.user_name.clone(),
            email: event.email.clone(),
            movie_id: event.movie_id,
            movie_name: Some(event.movie_name.clone()),
            count: event.count,
            message,
        }
    }

    fn cancelled(event: &ReservationCancelled, id: Uuid) -> Self {
        let tickets = if event.count.get() == 1 { "ticket" } else { "tickets" };
        let movie = event.movie_name.as_ref().map(|name| format!(" for {name}")).unwrap_or_default();
        let why = match event.reason {
            CancelReason::OutOfStock => ": not enough tickets are left.",
            CancelReason::MovieNotFound => ": there is no such movie.",
            CancelReason::Customer => ", as you asked.",
            CancelReason::Deadline => ": it could not be confirmed in time. Please try again.",
        };
        let message = format!(
            "{}, your reservation of {} {tickets}{movie} is cancelled{why}",
            event.user_name,
            event.count.get()
        );
        Self {
            id,
            reservation_id: event.reservation_id,
            outcome: Outcome::Cancelled(event.reason),
            user_id: event.user_id.clone(),
            user_name: event.user_name.clone(),
            email: event.email.clone(),
            movie_id: event.movie_id,
            movie_name: event.movie_name.clone(),
            count: event.count,
            message,
        }
    }

    pub const fn key(&self) -> Key {
        (self.reservation_id, self.outcome.status())
    }
}

/// The notifications of the inputs' reservations that exist already.
pub type State = HashSet<Key>;

/// The rows to insert, in the order of the log.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    pub new: Vec<Notification>,
    /// Reservations whose confirmation is read after their cancellation: it is recorded, but not sent.
    pub superseded: BTreeSet<ReservationId>,
}

impl Writes {
    /// The notifications that are e-mailed, if there is an address.
    pub fn to_send(&self) -> impl Iterator<Item = &Notification> {
        self.new.iter().filter(|new| {
            new.outcome.status() != Status::Confirmed || !self.superseded.contains(&new.reservation_id)
        })
    }
}

/// Decides all inputs, in order.
pub fn fold(mut state: State, inputs: Vec<Notification>) -> Writes {
    let mut writes = Writes::default();
    for input in inputs {
        let is_repeat = !state.insert(input.key());
        match (is_repeat, input.outcome) {
            (false, outcome @ (Outcome::Confirmed | Outcome::Cancelled(_))) => {
                // A customer who was told of the cancellation must not be told afterwards that it is confirmed.
                if outcome == Outcome::Confirmed && state.contains(&(input.reservation_id, Status::Cancelled))
                {
                    writes.superseded.insert(input.reservation_id);
                }
                writes.new.push(input);
            }
            // Repeated, before or after the other outcome: the customer was notified already.
            (true, Outcome::Confirmed | Outcome::Cancelled(_)) => {}
        }
    }
    writes
}

#[cfg(test)]
mod tests;
