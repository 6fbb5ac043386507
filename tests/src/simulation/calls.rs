//! What customers and vendors ask for, and whether they were answered: whoever was not asks again, with the same id.

use movie::movie as stock;
use reservation::reservation as seat;
use shared_events::{Count, DeliveryId, MovieId, Origin, ReservationId};
use uuid::Uuid;

use crate::simulation::choices::Choices;
use crate::simulation::tables::{Service, Work};

/// Movies that may be asked for; the last one is never published.
const MOVIES: usize = 4;
/// Tickets that a movie is published with at most, and tickets in a reservation: stock must run out.
const QTY_MAX: usize = 9;
const COUNT_MAX: usize = 4;
/// Of the calls, as many are made again.
const AGAIN: usize = 4;

#[derive(Clone, Debug)]
pub enum Call {
    Place { id: ReservationId, movie: MovieId, count: Count },
    Cancel { id: ReservationId },
    Publish { movie: MovieId, qty: i64 },
    Deliver { movie: MovieId, delivery: DeliveryId, count: Count },
    Edit { movie: MovieId, name: String },
}

impl Call {
    const fn service(&self) -> Service {
        match self {
            Self::Place { .. } | Self::Cancel { .. } => Service::Reservation,
            Self::Publish { .. } | Self::Deliver { .. } | Self::Edit { .. } => Service::Movie,
        }
    }

    /// What a service is asked when these calls, all of one service, come in one transaction.
    pub fn work(calls: &[&Self]) -> (Service, Work) {
        let placings: Vec<seat::Input> = calls.iter().filter_map(|call| of_reservation(call)).collect();
        if placings.is_empty() {
            return (Service::Movie, Work::Movie(calls.iter().filter_map(|call| of_movie(call)).collect()));
        }
        (Service::Reservation, Work::Reservation(placings))
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
}

impl Calls {
    /// A call of a service: a new one, or one that was made before.
    pub fn choose(&mut self, service: Service, choices: &mut Choices) -> usize {
        let before: Vec<usize> =
            (0..self.made.len()).filter(|&number| self.made[number].call.service() == service).collect();
        if !before.is_empty() && choices.once_in(AGAIN) {
            return before[choices.below(before.len())];
        }
        let call = match service {
            Service::Movie => self.vendors(choices),
            _ => self.customers(choices),
        };
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
        let id = ReservationId(self.id());
        Call::Place { id, movie: movie(choices.below(MOVIES)), count: count(choices) }
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
    pub fn work(&self, calls: &[usize]) -> (Service, Work) {
        Call::work(&calls.iter().map(|&number| &self.made[number].call).collect::<Vec<_>>())
    }

    pub fn answered(&mut self, call: usize) {
        self.made[call].answered = true;
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

fn of_reservation(call: &Call) -> Option<seat::Input> {
    let (id, command) = match call {
        Call::Place { id, movie, count } => {
            let request = seat::Request {
                user_id: "7".to_owned(),
                user_name: "Jane".to_owned(),
                email: None,
                movie_id: *movie,
                count: *count,
                date: None,
            };
            (*id, seat::Command::Place(request))
        }
        Call::Cancel { id } => (*id, seat::Command::Cancel),
        Call::Publish { .. } | Call::Deliver { .. } | Call::Edit { .. } => return None,
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
        Call::Place { .. } | Call::Cancel { .. } => return None,
    };
    Some(stock::Input { command, origin: Origin::default() })
}
