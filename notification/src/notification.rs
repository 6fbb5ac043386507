//! What a customer is told, and that each outcome is told once. Pure: ids come in, the moment is the
//! database's.

use std::collections::{BTreeSet, HashSet};

use shared_events::{
    CancelReason, Count, Event, MovieId, ReservationCancelled, ReservationConfirmed, ReservationId,
};
use uuid::Uuid;

/// The status that a reservation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Confirmed,
    Cancelled,
}

impl Status {
    pub const ALL: [Self; 2] = [Self::Confirmed, Self::Cancelled];

    /// As it stands in answers and in the table.
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

/// What makes a notification the same one when its event comes again.
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
    /// What an event gives to tell, under an id that is used if it is news. `None`: nothing.
    pub fn of(event: &Event, id: Uuid) -> Option<Self> {
        match event {
            Event::ReservationConfirmed(event) => Some(Self::confirmed(event, id)),
            Event::ReservationCancelled(event) => Some(Self::cancelled(event, id)),
            // Nothing is decided yet.
            Event::ReservationPlaced(_) => None,
            // The movie's facts, should someone put them here: the customer hears from the reservation.
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

/// Which of the notifications that the inputs name were made before.
pub type State = HashSet<Key>;

/// What is to be written: plain data, in the order of the log.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    pub new: Vec<Notification>,
    /// Reservations whose confirmation is new and comes after their cancellation: recorded, but no news any more.
    pub overtaken: BTreeSet<ReservationId>,
}

impl Writes {
    /// What is to be sent to who left an address.
    pub fn news(&self) -> impl Iterator<Item = &Notification> {
        self.new.iter().filter(|new| {
            new.outcome.status() != Status::Confirmed || !self.overtaken.contains(&new.reservation_id)
        })
    }
}

/// Decides all inputs, in order.
pub fn fold(mut state: State, inputs: Vec<Notification>) -> Writes {
    let mut writes = Writes::default();
    for input in inputs {
        let told_before = !state.insert(input.key());
        match (told_before, input.outcome) {
            (false, outcome @ (Outcome::Confirmed | Outcome::Cancelled(_))) => {
                // Whose cancellation was recorded before must not be told that it is confirmed.
                if outcome == Outcome::Confirmed && state.contains(&(input.reservation_id, Status::Cancelled))
                {
                    writes.overtaken.insert(input.reservation_id);
                }
                writes.new.push(input);
            }
            // The event again, before or after the other outcome: what was told stays told.
            (true, Outcome::Confirmed | Outcome::Cancelled(_)) => {}
        }
    }
    writes
}

#[cfg(test)]
mod tests;
