//! The domain logic of a reservation. Pure and total: [`fold`] has an arm for every pair of command and status. The status only
//! moves forward. A repeated or late command has an arm that changes nothing and publishes no event.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use service_kit::messaging::waiters::Progress;
use shared_events::{
    CancelReason, Count, Event, MovieId, Origin, RejectReason, ReservationCancelled, ReservationConfirmed,
    ReservationId, ReservationPlaced, Timestamp,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Pending,
    Confirmed,
    Cancelled(CancelReason),
}

impl Progress for Status {
    fn rank(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Confirmed => Self::DECIDED,
            Self::Cancelled(_) => Self::FINAL,
        }
    }
}

impl Status {
    /// The lowest rank of an outcome.
    pub const DECIDED: u8 = 1;

    /// The rank of the status that never changes again.
    pub const FINAL: u8 = 2;

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Confirmed => "CONFIRMED",
            Self::Cancelled(_) => "CANCELLED",
        }
    }

    pub const fn reason(self) -> Option<CancelReason> {
        match self {
            Self::Cancelled(reason) => Some(reason),
            Self::Pending | Self::Confirmed => None,
        }
    }
}

/// What a customer asks for. Its JSON is part of the fingerprint by which an `Idempotency-Key` recognizes a repeated call,
/// so a field that is added must be left out of the JSON while it is unset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Request {
    pub user_id: String,
    pub user_name: String,
    pub email: Option<String>,
    pub movie_id: MovieId,
    pub count: Count,
    /// `None` means the moment of placing.
    pub date: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reservation {
    pub id: ReservationId,
    pub request: Request,
    pub movie_name: Option<String>,
    pub status: Status,
    pub placed_at: Timestamp,
    pub traceparent: Option<String>,
}

impl Reservation {
    pub fn date(&self) -> String {
        self.request.date.clone().unwrap_or_else(|| self.placed_at.to_string())
    }
}

/// The reservations that the inputs name, as far as they exist.
pub type State = HashMap<ReservationId, Reservation>;

#[derive(Clone, Debug)]
pub enum Command {
    Place(Request),
    /// Movie allocated the tickets.
    Confirm {
        movie_name: String,
    },
    /// Movie could not allocate the tickets.
    Reject {
        reason: RejectReason,
        movie_name: Option<String>,
    },
    /// The customer cancels.
    Cancel,
    /// The deadline has passed.
    Expire,
}

#[derive(Clone, Debug)]
pub struct Input {
    pub id: ReservationId,
    pub command: Command,
    pub origin: Origin,
}

/// The result of one input, for its caller over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The reservation after the command; `changed` is false for a repeated or late one.
    Done {
        reservation: Box<Reservation>,
        changed: bool,
    },
    NotFound,
    /// The id belongs to a call with another body.
    Conflict,
}

/// A change of status, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub status: Status,
    pub placed_at: Timestamp,
    pub decided_at: Timestamp,
    /// False if a confirmed reservation was cancelled.
    pub was_pending: bool,
}

/// The rows and events to be written, and the inputs' results.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    pub new: Vec<Reservation>,
    pub changed: Vec<Reservation>,
    pub events: Vec<(Event, Origin)>,
    pub answers: Vec<Answer>,
    pub outcomes: Vec<Outcome>,
}

/// Decides all inputs, in order.
pub fn fold(state: State, inputs: &[Input], now: Timestamp) -> Writes {
    let mut fold = Fold::new(state, now);
    for input in inputs {
        let answer = fold.decide(input);
        fold.writes.answers.push(answer);
    }
    fold.finish()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Touch {
    New,
    Changed,
}

/// A fold in progress, for a caller that needs the answer to one input before the next (`placement`).
pub(crate) struct Fold {
    state: State,
    now: Timestamp,
    touched: BTreeMap<ReservationId, Touch>,
    writes: Writes,
}

impl Fold {
    pub(crate) fn new(state: State, now: Timestamp) -> Self {
        Self { state, now, touched: BTreeMap::new(), writes: Writes::default() }
    }

    pub(crate) fn decide(&mut self, input: &Input) -> Answer {
        let Some(reservation) = self.state.get(&input.id) else {
            return match &input.command {
                Command::Place(request) => self.place(input, request),
                Command::Confirm { .. } | Command::Reject { .. } | Command::Cancel | Command::Expire => {
                    Answer::NotFound
                }
            };
        };
        let (status, movie_name) = match (&input.command, reservation.status) {
            // The id exists: repeated if the body is the same.
            (Command::Place(request), _) => {
                return if *request == reservation.request {
                    unchanged(reservation)
                } else {
                    Answer::Conflict
                };
            }
            (Command::Confirm { movie_name }, Status::Pending) => {
                (Status::Confirmed, Some(movie_name.clone()))
            }
            // Repeated, or too late: movie releases the tickets when it reads the cancellation.
            (Command::Confirm { .. }, Status::Confirmed | Status::Cancelled(_)) => {
                return unchanged(reservation);
            }
            (Command::Reject { reason, movie_name }, Status::Pending) => {
                (Status::Cancelled((*reason).into()), movie_name.clone())
            }
            // Repeated, or too late.
            (Command::Reject { .. }, Status::Confirmed | Status::Cancelled(_)) => {
                return unchanged(reservation);
            }
            (Command::Cancel, Status::Pending | Status::Confirmed) => {
                (Status::Cancelled(CancelReason::Customer), None)
            }
            // Repeated.
            (Command::Cancel, Status::Cancelled(_)) => return unchanged(reservation),
            (Command::Expire, Status::Pending) => (Status::Cancelled(CancelReason::Deadline), None),
            (Command::Expire, Status::Confirmed | Status::Cancelled(_)) => return unchanged(reservation),
        };
        self.advance(input, status, movie_name)
    }

    fn place(&mut self, input: &Input, request: &Request) -> Answer {
        let reservation = Reservation {
            id: input.id,
            request: request.clone(),
            movie_name: None,
            status: Status::Pending,
            placed_at: self.now,
            traceparent: input.origin.traceparent.clone(),
        };
        let placed = ReservationPlaced {
            timestamp: self.now,
            reservation_id: reservation.id,
            movie_id: request.movie_id,
            user_id: request.user_id.clone(),
            user_name: request.user_name.clone(),
            email: request.email.clone(),
            count: request.count,
            date: reservation.date(),
        };
        self.writes.events.push((placed.into(), input.origin.clone()));
        self.touched.insert(input.id, Touch::New);
        self.state.insert(input.id, reservation.clone());
        Answer::Done { reservation: Box::new(reservation), changed: true }
    }

    fn advance(&mut self, input: &Input, status: Status, movie_name: Option<String>) -> Answer {
        let Some(reservation) = self.state.get_mut(&input.id) else { return Answer::NotFound };
        let was_pending = reservation.status == Status::Pending;
        reservation.status = status;
        reservation.movie_name = movie_name.or(reservation.movie_name.take());
        let reservation = reservation.clone();
        // One trace covers the saga: a change that no event caused continues the reservation's trace.
        let origin = match &input.origin.causation {
            Some(_) => input.origin.clone(),
            None => Origin { traceparent: reservation.traceparent.clone(), causation: None },
        };
        self.writes.events.push((outcome_event(&reservation, self.now), origin));
        self.writes.outcomes.push(Outcome {
            status,
            placed_at: reservation.placed_at,
            decided_at: self.now,
            was_pending,
        });
        self.touched.entry(input.id).or_insert(Touch::Changed);
        Answer::Done { reservation: Box::new(reservation), changed: true }
    }

    pub(crate) fn finish(mut self) -> Writes {
        for (id, touch) in std::mem::take(&mut self.touched) {
            let Some(reservation) = self.state.remove(&id) else { continue };
            match touch {
                Touch::New => self.writes.new.push(reservation),
                Touch::Changed => self.writes.changed.push(reservation),
            }
        }
        self.writes
    }
}

fn unchanged(reservation: &Reservation) -> Answer {
    Answer::Done { reservation: Box::new(reservation.clone()), changed: false }
}

/// `ReservationCancelled` or `ReservationConfirmed`.
fn outcome_event(reservation: &Reservation, now: Timestamp) -> Event {
    let Reservation { id, request, movie_name, status, .. } = reservation;
    let date = reservation.date();
    let request = request.clone();
    match status.reason() {
        Some(reason) => ReservationCancelled {
            timestamp: now,
            reservation_id: *id,
            movie_id: request.movie_id,
            movie_name: movie_name.clone(),
            user_id: request.user_id,
            user_name: request.user_name,
            email: request.email,
            count: request.count,
            date,
            reason,
        }
        .into(),
        None => ReservationConfirmed {
            timestamp: now,
            reservation_id: *id,
            movie_id: request.movie_id,
            movie_name: movie_name.clone().unwrap_or_default(),
            user_id: request.user_id,
            user_name: request.user_name,
            email: request.email,
            count: request.count,
            date,
        }
        .into(),
    }
}

#[cfg(test)]
mod tests;
