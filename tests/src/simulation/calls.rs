//! What customers and vendors ask for, and whether they were answered: whoever was not asks again, with the same id
//! or under the same key ([`keys`]).

pub mod keys;

use movie::movie as stock;
use reservation::placement::PlaceRequest;
use reservation::reservation as seat;
use shared_events::{Count, DeliveryId, MovieId, Origin, ReservationId};
use uuid::Uuid;

use crate::simulation::calls::keys::{Body, Key, Keys};
use crate::simulation::checks::Violation;
use crate::simulation::choices::Choices;
use crate::simulation::tables::{Service, Tables, Work, Writes};
use crate::simulation::tally::Tally;

/// Movies that may be asked for; the last one is never published.
const MOVIES: usize = 4;
/// Tickets that a movie is published with at most, and tickets in a reservation: stock must run out.
const QTY_MAX: usize = 14;
const COUNT_MAX: usize = 4;
/// Of the calls, as many are made again.
const AGAIN: usize = 4;

#[derive(Clone, Debug)]
pub enum Call {
    Place {
        id: ReservationId,
        movie: MovieId,
        count: Count,
    },
    /// Without an id of the customer's own.
    PlaceUnder {
        key: Key,
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
            Self::Place { .. } | Self::PlaceUnder { .. } | Self::Cancel { .. } => Service::Reservation,
            Self::Publish { .. } | Self::Deliver { .. } | Self::Edit { .. } => Service::Movie,
        }
    }

    /// For the tally.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Place { .. } => "call: place",
            Self::PlaceUnder { .. } => "call: place under a key",
            Self::Cancel { .. } => "call: cancel",
            Self::Publish { .. } => "call: publish",
            Self::Deliver { .. } => "call: deliver",
            Self::Edit { .. } => "call: edit",
        }
    }

    /// What a service is asked when these calls, all of one service and none under a key, come in one transaction.
    pub fn work(calls: &[&Self]) -> (Service, Work) {
        let requests: Vec<seat::Input> = calls.iter().filter_map(|call| of_reservation(call)).collect();
        if requests.is_empty() {
            return (Service::Movie, Work::Movie(calls.iter().filter_map(|call| of_movie(call)).collect()));
        }
        (Service::Reservation, Work::Reservation(requests))
    }

    /// As the history shows it.
    pub fn described(id: ReservationId, command: &seat::Command) -> String {
        let number = id.0.as_u128();
        match command {
            seat::Command::Place(request) => {
                format!("place r{number} (m{} × {})", request.movie_id.0.as_u128(), request.count.get())
            }
            seat::Command::Cancel => format!("cancel r{number}"),
            seat::Command::Confirm { .. } => format!("confirm r{number}"),
            seat::Command::Reject { .. } => format!("reject r{number}"),
            seat::Command::Expire => format!("expire r{number}"),
        }
    }
}

#[derive(Clone, Debug)]
struct Made {
    call: Call,
    answered: bool,
}

/// Every call that was made.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    made: Vec<Made>,
    ids: u128,
    keys: Keys,
}

impl Calls {
    /// Calls of a service that come in one transaction: new ones, or some that were made before.
    pub fn choose(&mut self, service: Service, choices: &mut Choices, tally: &mut Tally) -> Vec<usize> {
        // Only the intake of placings takes several.
        let many = if service == Service::Reservation { 1 + choices.below(3) } else { 1 };
        let mut calls: Vec<usize> = (0..many).map(|_| self.choose_one(service, choices, tally)).collect();
        let cancels = |call: usize| matches!(self.made[call].call, Call::Cancel { .. });
        // A cancellation has a transaction of its own. The others are made later on.
        let alone = cancels(calls[0]);
        calls.truncate(if alone { 1 } else { many });
        calls.retain(|&call| alone || !cancels(call));
        calls
    }

    fn choose_one(&mut self, service: Service, choices: &mut Choices, tally: &mut Tally) -> usize {
        let before: Vec<usize> =
            (0..self.made.len()).filter(|&number| self.made[number].call.service() == service).collect();
        if !before.is_empty() && choices.once_in(AGAIN) {
            tally.count("call: again");
            return before[choices.below(before.len())];
        }
        let call = match service {
            Service::Movie => self.vendors(choices),
            _ => self.customers(choices),
        };
        tally.count(call.kind());
        self.made.push(Made { call, answered: false });
        self.made.len() - 1
    }

    fn customers(&mut self, choices: &mut Choices) -> Call {
        let placed: Vec<ReservationId> = self
            .made
            .iter()
            .filter_map(|made| if let Call::Place { id, .. } = made.call { Some(id) } else { None })
            .collect();
        if !placed.is_empty() && choices.once_in(3) {
            // The last ones are still on their way.
            let back = choices.below(placed.len().min(4));
            return Call::Cancel { id: placed[placed.len() - 1 - back] };
        }
        let unheard_of = choices.once_in(8);
        let movie = movie(if unheard_of { MOVIES - 1 } else { choices.below(MOVIES - 1) });
        let count = count(choices);
        if choices.once_in(3) {
            return Call::PlaceUnder { key: self.keys.choose(choices), body: (movie, count) };
        }
        Call::Place { id: ReservationId(self.id()), movie, count }
    }

    fn vendors(&mut self, choices: &mut Choices) -> Call {
        let movie = movie(choices.below(MOVIES - 1));
        match choices.below(4) {
            0 | 1 => {
                Call::Publish { movie, qty: i64::try_from(choices.below(QTY_MAX + 1)).unwrap_or_default() }
            }
            2 => Call::Deliver { movie, delivery: DeliveryId(self.id()), count: count(choices) },
            _ => Call::Edit { movie, name: format!("edition {}", self.ids) },
        }
    }

    fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    /// What a service is asked when these calls, all of one service, come in one transaction.
    pub fn work(&mut self, calls: &[usize]) -> (Service, Work) {
        let calls: Vec<Call> = calls.iter().map(|&number| self.made[number].call.clone()).collect();
        if !calls.iter().any(|call| matches!(call, Call::PlaceUnder { .. })) {
            return Call::work(&calls.iter().collect::<Vec<_>>());
        }
        let requests = calls.iter().filter_map(|call| match call {
            Call::PlaceUnder { key, body } => {
                // The service makes one each time.
                let id = ReservationId(self.id());
                Some(self.keys.placing(*key, *body, id))
            }
            call => Some(PlaceRequest { input: of_reservation(call)?, key: None }),
        });
        (Service::Reservation, Work::Place(requests.collect()))
    }

    /// These calls came in one transaction, and are told what it has decided.
    ///
    /// # Errors
    /// An answer that a key does not allow.
    pub fn answered(&mut self, calls: &[usize], writes: &Writes, tally: &mut Tally) -> Result<(), Violation> {
        for &call in calls {
            self.made[call].answered = true;
        }
        let Writes::Place(_, _, answers) = writes else { return Ok(()) };
        for (&call, answer) in calls.iter().zip(answers) {
            if let Call::PlaceUnder { key, body } = self.made[call].call {
                self.keys.answered(key, body, answer, tally)?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// A key with more than one effect, or none.
    pub fn at_rest(&self, tables: &Tables) -> Result<(), Violation> {
        self.keys.at_rest(tables)
    }

    pub fn unanswered(&self) -> Vec<usize> {
        (0..self.made.len()).filter(|&number| !self.made[number].answered).collect()
    }

    /// Reservations whose placing was answered.
    pub fn accepted(&self) -> impl Iterator<Item = ReservationId> {
        self.made.iter().filter(|made| made.answered).filter_map(|made| match made.call {
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

fn request(movie_id: MovieId, count: Count) -> seat::Request {
    let (user_id, user_name) = ("7".to_owned(), "Jane".to_owned());
    seat::Request { user_id, user_name, email: None, movie_id, count, date: None }
}

fn of_reservation(call: &Call) -> Option<seat::Input> {
    let (id, command) = match call {
        Call::Place { id, movie, count } => (*id, seat::Command::Place(request(*movie, *count))),
        Call::Cancel { id } => (*id, seat::Command::Cancel),
        Call::PlaceUnder { .. } | Call::Publish { .. } | Call::Deliver { .. } | Call::Edit { .. } => {
            return None;
        }
    };
    Some(seat::Input { id, command, origin: Origin::default() })
}

fn of_movie(call: &Call) -> Option<stock::Input> {
    let command = match call {
        Call::Publish { movie, qty } => stock::Command::Publish {
            movie_id: *movie,
            name: "LALALand".to_owned(),
            description: String::new(),
            qty: *qty,
        },
        Call::Deliver { movie, delivery, count } => {
            stock::Command::Deliver { movie_id: *movie, delivery_id: *delivery, count: *count }
        }
        Call::Edit { movie, name } => stock::Command::Edit {
            movie_id: *movie,
            name: Some(name.clone()),
            description: None,
            editions: stock::Editions::Any,
        },
        Call::Place { .. } | Call::PlaceUnder { .. } | Call::Cancel { .. } => return None,
    };
    Some(stock::Input { command, origin: Origin::default() })
}
