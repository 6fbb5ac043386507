//! Decides how events change the list. Pure. The result is the same in whatever order, and however often, events are
//! read.

use std::collections::{BTreeSet, HashMap};

use service_kit::messaging::waiters::Progress;
use shared_events::{Count, Event, MovieId, ReservationId};

/// A reservation's outcome. It only moves forward: `Cancelled` is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    Confirmed,
    Cancelled,
}

impl Progress for Status {
    fn rank(self) -> u8 {
        match self {
            Self::Confirmed => 1,
            Self::Cancelled => 2,
        }
    }
}

impl Status {
    pub const ALL: [Self; 2] = [Self::Confirmed, Self::Cancelled];

    /// The name in responses and in the table.
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

/// A row of the list; as an input, the row that follows from one event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reservation {
    pub id: ReservationId,
    pub status: Status,
    pub user_id: String,
    pub movie_id: MovieId,
    pub movie_name: Option<String>,
    pub count: Count,
    pub date: String,
}

impl Reservation {
    /// The row that follows from an event. `None` if the list doesn't show the event.
    pub fn from_event(event: &Event) -> Option<Self> {
        match event {
            Event::ReservationConfirmed(event) => Some(Self {
                id: event.reservation_id,
                status: Status::Confirmed,
                user_id: event.user_id.clone(),
                movie_id: event.movie_id,
                movie_name: Some(event.movie_name.clone()),
                count: event.count,
                date: event.date.clone(),
            }),
            Event::ReservationCancelled(event) => Some(Self {
                id: event.reservation_id,
                status: Status::Cancelled,
                user_id: event.user_id.clone(),
                movie_id: event.movie_id,
                movie_name: event.movie_name.clone(),
                count: event.count,
                date: event.date.clone(),
            }),
            // The reservation has no outcome yet.
            Event::ReservationPlaced(_) => None,
            // A movie's events, should they be in this topic: the list follows only the reservation.
            Event::MoviePublished(_)
            | Event::MovieUpdated(_)
            | Event::TicketsAdded(_)
            | Event::TicketsAllocated(_)
            | Event::AllocationRejected(_)
            | Event::TicketsReleased(_) => None,
        }
    }
}

/// The statuses of the inputs' reservations, as far as they have a row.
pub type State = HashMap<ReservationId, Status>;

/// The rows to write: plain data.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    /// In the order of the log.
    pub new: Vec<Reservation>,
    /// Existing rows that become cancelled.
    pub cancelled: BTreeSet<ReservationId>,
}

impl Writes {
    /// The rows that are inserted or changed, with their new status.
    pub fn changes(&self) -> impl Iterator<Item = (ReservationId, Status)> {
        let new = self.new.iter().map(|row| (row.id, row.status));
        new.chain(self.cancelled.iter().map(|id| (*id, Status::Cancelled)))
    }
}

/// Decides all inputs, in order.
pub fn fold(state: State, inputs: Vec<Reservation>) -> Writes {
    let mut statuses = state;
    let mut writes = Writes::default();
    let mut new_indices: HashMap<ReservationId, usize> = HashMap::new();
    for input in inputs {
        match (statuses.get(&input.id), input.status) {
            (None, Status::Confirmed | Status::Cancelled) => {
                statuses.insert(input.id, input.status);
                new_indices.insert(input.id, writes.new.len());
                writes.new.push(input);
            }
            (Some(Status::Confirmed), Status::Cancelled) => {
                statuses.insert(input.id, Status::Cancelled);
                match new_indices.get(&input.id) {
                    // The same batch inserts the row.
                    Some(index) => writes.new[*index].status = Status::Cancelled,
                    None => {
                        writes.cancelled.insert(input.id);
                    }
                }
            }
            // Repeated: the list shows it already.
            (Some(Status::Confirmed), Status::Confirmed) | (Some(Status::Cancelled), Status::Cancelled) => {}
            // A late confirmation: the newer cancellation was read before it, and `Cancelled` is final.
            (Some(Status::Cancelled), Status::Confirmed) => {}
        }
    }
    writes
}

#[cfg(test)]
mod tests;
