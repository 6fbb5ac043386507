//! The calls of customers and vendors, and which of them were answered. An unanswered call is repeated with the same id or
//! the same `Idempotency-Key` ([`idempotency_keys`]).

pub mod idempotency_keys;

use movie::movie as movie_domain;
use reservation::placement::PlaceRequest;
use reservation::reservation as reservation_domain;
use shared_events::{Count, DeliveryId, MovieId, Origin, ReservationId};
use uuid::Uuid;

use crate::simulation::choices::Choices;
use crate::simulation::coverage::Coverage;
use crate::simulation::tables::{Service, Tables, Work, Writes};
use crate::simulation::violation::Violation;
use crate::simulation::workload::idempotency_keys::{Body, IdempotencyKeys, KeyNumber};

/// Movies that calls name. The last one is never published.
const MOVIES: usize = 4;
/// The maximum of tickets of a new movie, and of a reservation: stock must run out.
const QTY_MAX: usize = 14;
const COUNT_MAX: usize = 4;
/// One of so many calls repeats an earlier one.
const REPEAT_ONE_IN: usize = 4;

#[derive(Clone, Debug)]
pub enum Call {
    Place {
        id: ReservationId,
        movie: MovieId,
        count: Count,
    },
    /// Without an id of the client's.
    PlaceWithKey {
        key: KeyNumber,
        body: Body,
    },
    Cancel {
        id: ReservationId,
    },
    Publish {
        movie: MovieId,
        qty: i64,
    },
    Deliver {
        movie: MovieId,
        delivery: DeliveryId,
        count: Count,
    },
    Edit {
        movie: MovieId,
        name: String,
    },
}

impl Call {
    const fn service(&self) -> Service {
        match self {
            Self::Place { .. } | Self::PlaceWithKey { .. } | Self::Cancel { .. } => Service::Reservation,
            Self::Publish { .. } | Self::Deliver { .. } | Self::Edit { .. } => Service::Movie,
        }
    }

    /// Its name in the coverage.
    const fn coverage_name(&self) -> &'static str {
        match self {
            Self::Place { .. } => "call: place",
            Self::PlaceWithKey { .. } => "call: place under a key",
            Self::Cancel { .. } => "call: cancel",
            Self::Publish { .. } => "call: publish",
            Self::Deliver { .. } => "call: deliver",
            Self::Edit { .. } => "call: edit",
        }
    }

    /// The input of a transaction of these calls, which all concern one service and have no key.
    pub fn work(calls: &[&Self]) -> (Service, Work) {
        let inputs: Vec<_> = calls.iter().filter_map(|call| reservation_input(call)).collect();
        if inputs.is_empty() {
            return (
                Service::Movie,
                Work::Movie(calls.iter().filter_map(|call| movie_input(call)).collect()),
            );
        }
        (Service::Reservation, Work::Reservation(inputs))
    }

    /// Its description in a history.
    pub fn describe(id: ReservationId, command: &reservation_domain::Command) -> String {
        let number = id.0.as_u128();
        match command {
            reservation_domain::Command::Place(request) => {
                format!("place r{number} (m{} × {})", request.movie_id.0.as_u128(), request.count.get())
            }
            reservation_domain::Command::Cancel => format!("cancel r{number}"),
            reservation_domain::Command::Confirm { .. } => format!("confirm r{number}"),
            reservation_domain::Command::Reject { .. } => format!("reject r{number}"),
            reservation_domain::Command::Expire => format!("expire r{number}"),
        }
    }
}

#[derive(Clone, Debug)]
struct IssuedCall {
    call: Call,
    answered: bool,
}

/// All calls so far.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    issued: Vec<IssuedCall>,
    last_id: u128,
    keys: IdempotencyKeys,
}

impl Workload {
    /// Chooses calls that a service handles in one transaction: new ones or repeats. Returns their numbers.
    pub fn choose(&mut self, service: Service, choices: &mut Choices, coverage: &mut Coverage) -> Vec<usize> {
        // Only placements share a transaction.
        let count = if service == Service::Reservation { 1 + choices.below(3) } else { 1 };
        let mut calls: Vec<usize> = (0..count).map(|_| self.choose_one(service, choices, coverage)).collect();
        let is_cancellation = |call: usize| matches!(self.issued[call].call, Call::Cancel { .. });
        // A cancellation has a transaction of its own. The other calls stay unanswered, and are repeated later.
        let alone = is_cancellation(calls[0]);
        calls.truncate(if alone { 1 } else { count });
        calls.retain(|&call| alone || !is_cancellation(call));
        calls
    }

    fn choose_one(&mut self, service: Service, choices: &mut Choices, coverage: &mut Coverage) -> usize {
        let earlier: Vec<usize> =
            (0..self.issued.len()).filter(|&number| self.issued[number].call.service() == service).collect();
        if !earlier.is_empty() && choices.once_in(REPEAT_ONE_IN) {
            coverage.count("call: again");
            return earlier[choices.below(earlier.len())];
        }
        let call = match service {
            Service::Movie => self.new_vendor_call(choices),
            _ => self.new_customer_call(choices),
        };
        coverage.count(call.coverage_name());
        self.issued.push(IssuedCall { call, answered: false });
        self.issued.len() - 1
    }

    fn new_customer_call(&mut self, choices: &mut Choices) -> Call {
        let placed: Vec<ReservationId> = self
            .issued
            .iter()
            .filter_map(|issued| if let Call::Place { id, .. } = issued.call { Some(id) } else { None })
            .collect();
        if !placed.is_empty() && choices.once_in(3) {
            // One of the last reservations, as they may still be pending.
            let back = choices.below(placed.len().min(4));
            return Call::Cancel { id: placed[placed.len() - 1 - back] };
        }
        let unpublished = choices.once_in(8);
        let movie = movie(if unpublished { MOVIES - 1 } else { choices.below(MOVIES - 1) });
        let count = count(choices);
        if choices.once_in(3) {
            return Call::PlaceWithKey { key: self.keys.choose(choices), body: (movie, count) };
        }
        Call::Place { id: ReservationId(self.new_id()), movie, count }
    }

    fn new_vendor_call(&mut self, choices: &mut Choices) -> Call {
        let movie = movie(choices.below(MOVIES - 1));
        match choices.below(4) {
            0 | 1 => {
                Call::Publish { movie, qty: i64::try_from(choices.below(QTY_MAX + 1)).unwrap_or_default() }
            }
            2 => Call::Deliver { movie, delivery: DeliveryId(self.new_id()), count: count(choices) },
            _ => Call::Edit { movie, name: format!("edition {}", self.last_id) },
        }
    }

    fn new_id(&mut self) -> Uuid {
        self.last_id += 1;
        Uuid::from_u128(self.last_id)
    }

    /// The input of a transaction of these calls, which all concern one service.
    pub fn work(&mut self, calls: &[usize]) -> (Service, Work) {
        let calls: Vec<Call> = calls.iter().map(|&number| self.issued[number].call.clone()).collect();
        if !calls.iter().any(|call| matches!(call, Call::PlaceWithKey { .. })) {
            return Call::work(&calls.iter().collect::<Vec<_>>());
        }
        let requests = calls.iter().filter_map(|call| match call {
            Call::PlaceWithKey { key, body } => {
                // The service generates another id for each attempt.
                let id = ReservationId(self.new_id());
                Some(self.keys.place_request(*key, *body, id))
            }
            call => Some(PlaceRequest { input: reservation_input(call)?, key: None }),
        });
        (Service::Reservation, Work::Place(requests.collect()))
    }

    /// Records the answers to the calls of one transaction.
    ///
    /// # Errors
    /// If an answer contradicts an earlier one with the same key.
    pub fn record_answers(
        &mut self,
        calls: &[usize],
        writes: &Writes,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        for &call in calls {
            self.issued[call].answered = true;
        }
        let Writes::Place(_, _, outcomes) = writes else { return Ok(()) };
        for (&call, outcome) in calls.iter().zip(outcomes) {
            if let Call::PlaceWithKey { key, body } = self.issued[call].call {
                self.keys.record_answer(key, body, outcome, coverage)?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// If a key has not exactly one effect.
    pub fn check_at_rest(&self, tables: &Tables) -> Result<(), Violation> {
        self.keys.check_at_rest(tables)
    }

    pub fn unanswered(&self) -> Vec<usize> {
        (0..self.issued.len()).filter(|&number| !self.issued[number].answered).collect()
    }

    /// The reservations whose placement was answered.
    pub fn accepted_reservations(&self) -> impl Iterator<Item = ReservationId> {
        self.issued.iter().filter(|issued| issued.answered).filter_map(|issued| match issued.call {
            Call::Place { id, .. } => Some(id),
            _ => None,
        })
    }
}

fn movie(number: usize) -> MovieId {
    MovieId(Uuid::from_u128(number as u128 + 1))
}

fn count(choices: &mut Choices) -> Count {
    let count = i64::try_from(1 + choices.below(COUNT_MAX)).ok();
    count.and_then(Count::new).expect("a count of at least 1")
}

fn request(movie_id: MovieId, count: Count) -> reservation_domain::Request {
    let (user_id, user_name) = ("7".to_owned(), "Jane".to_owned());
    reservation_domain::Request { user_id, user_name, email: None, movie_id, count, date: None }
}

fn reservation_input(call: &Call) -> Option<reservation_domain::Input> {
    let (id, command) = match call {
        Call::Place { id, movie, count } => {
            (*id, reservation_domain::Command::Place(request(*movie, *count)))
        }
        Call::Cancel { id } => (*id, reservation_domain::Command::Cancel),
        Call::PlaceWithKey { .. } | Call::Publish { .. } | Call::Deliver { .. } | Call::Edit { .. } => {
            return None;
        }
    };
    Some(reservation_domain::Input { id, command, origin: Origin::default() })
}

fn movie_input(call: &Call) -> Option<movie_domain::Input> {
    let command = match call {
        Call::Publish { movie, qty } => movie_domain::Command::Publish {
            movie_id: *movie,
            name: "LALALand".to_owned(),
            description: String::new(),
            qty: *qty,
        },
        Call::Deliver { movie, delivery, count } => {
            movie_domain::Command::Deliver { movie_id: *movie, delivery_id: *delivery, count: *count }
        }
        Call::Edit { movie, name } => movie_domain::Command::Edit {
            movie_id: *movie,
            name: Some(name.clone()),
            description: None,
            editions: movie_domain::Editions::Any,
        },
        Call::Place { .. } | Call::PlaceWithKey { .. } | Call::Cancel { .. } => return None,
    };
    Some(movie_domain::Input { command, origin: Origin::default() })
}
