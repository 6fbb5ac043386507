//! What the log says of a reservation, whatever the order in which it is read. Pure.

use std::collections::{BTreeSet, HashMap};

use service_kit::messaging::waiters::Progress;
use shared_events::{Count, Event, MovieId, ReservationId};

/// The status that a reservation came to. It only moves forward: `Cancelled` is final.
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

/// A row of the list; as an input, what one event says that it should be.
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
    /// What an event says of a reservation. `None`: nothing that the list shows.
    pub fn of(event: &Event) -> Option<Self> {
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
            // Nothing is decided yet.
            Event::ReservationPlaced(_) => None,
            // The movie's facts, should someone put them here: the list follows the reservation.
            Event::MoviePublished(_)
            | Event::MovieUpdated(_)
            | Event::TicketsAdded(_)
            | Event::TicketsAllocated(_)
            | Event::AllocationRejected(_)
            | Event::TicketsReleased(_) => None,
        }
    }
}

/// Where the reservations that the inputs name stand, as far as they have a row.
pub type State = HashMap<ReservationId, Status>;

/// What is to be written: plain data.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    /// In the order of the log.
    pub new: Vec<Reservation>,
    /// Rows that were there, and are cancelled now.
    pub cancelled: BTreeSet<ReservationId>,
}

impl Writes {
    /// The rows that are inserted or changed, and their status then.
    pub fn changes(&self) -> impl Iterator<Item = (ReservationId, Status)> {
        let new = self.new.iter().map(|row| (row.id, row.status));
        new.chain(self.cancelled.iter().map(|id| (*id, Status::Cancelled)))
    }
}

/// Decides all inputs, in order.
pub fn fold(state: State, inputs: Vec<Reservation>) -> Writes {
    let mut statuses = state;
    let mut writes = Writes::default();
    let mut places: HashMap<ReservationId, usize> = HashMap::new();
    for input in inputs {
        match (statuses.get(&input.id), input.status) {
            (None, Status::Confirmed | Status::Cancelled) => {
                statuses.insert(input.id, input.status);
                places.insert(input.id, writes.new.len());
                writes.new.push(input);
            }
            (Some(Status::Confirmed), Status::Cancelled) => {
                statuses.insert(input.id, Status::Cancelled);
                match places.get(&input.id) {
                    Some(place) => writes.new[*place].status = Status::Cancelled,
                    None => {
                        writes.cancelled.insert(input.id);
                    }
                }
            }
            // The event again.
            (Some(Status::Confirmed), Status::Confirmed) | (Some(Status::Cancelled), Status::Cancelled) => {}
            // An older event after a newer one: what is cancelled stays so.
            (Some(Status::Cancelled), Status::Confirmed) => {}
        }
    }
    writes
}

#[cfg(test)]
mod tests;
