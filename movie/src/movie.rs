//! The domain logic of a movie. Pure and total: [`fold`] has an arm for every pair of state and command.
//!
//! - The stock is decremented in `allocate`, and incremented in `release` and `deliver`.
//! - A repeated event or call changes nothing and publishes no event: the arms say "Repeated". A placement or cancellation
//!   is recognized by the decision that is recorded for its reservation, a delivery by its id, a movie by its id.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared_events::{
    AllocationRejected, Count, DeliveryId, Event, MovieId, MoviePublished, MovieUpdated, Origin,
    RejectReason, ReservationId, TicketsAdded, TicketsAllocated, TicketsReleased, Timestamp,
};

/// The most tickets that a movie may have left, also after a delivery.
pub const QTY_MAX: i64 = 1_000_000;

/// A movie in the catalogue. Always `published + added = qty + allocated`, and `qty ≥ 0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Movie {
    pub id: MovieId,
    pub name: String,
    pub description: String,
    pub published_name: String,
    pub published_description: String,
    pub published: i64,
    pub added: i64,
    pub allocated: i64,
    /// Tickets left.
    pub qty: i64,
    /// Increases by one with each event that changes the movie.
    pub version: i64,
    /// Increases by one with each edit by the vendor.
    pub edition: i64,
}

/// What was decided about a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Allocated,
    Rejected,
    /// Allocated, and released later.
    Released,
    /// Cancelled before its placement was read.
    Void,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    pub movie_id: MovieId,
    pub outcome: Outcome,
    pub count: Count,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    pub movie_id: MovieId,
    pub count: Count,
}

/// The rows that the inputs name, as far as they exist.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub movies: BTreeMap<MovieId, Movie>,
    pub decisions: HashMap<ReservationId, Decision>,
    pub deliveries: HashMap<DeliveryId, Delivery>,
}

#[derive(Clone, Debug)]
pub enum Command {
    Publish { movie_id: MovieId, name: String, description: String, qty: i64 },
    Edit { movie_id: MovieId, name: Option<String>, description: Option<String>, editions: Editions },
    Deliver { movie_id: MovieId, delivery_id: DeliveryId, count: Count },
    Allocate { movie_id: MovieId, reservation_id: ReservationId, count: Count },
    Release { movie_id: MovieId, reservation_id: ReservationId, count: Count },
}

/// The editions that an edit may be applied to (`If-Match`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Editions {
    Any,
    OneOf(Vec<i64>),
}

impl Command {
    pub const fn movie_id(&self) -> MovieId {
        match self {
            Self::Publish { movie_id, .. }
            | Self::Edit { movie_id, .. }
            | Self::Deliver { movie_id, .. }
            | Self::Allocate { movie_id, .. }
            | Self::Release { movie_id, .. } => *movie_id,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Input {
    pub command: Command,
    pub origin: Origin,
}

/// The result of one input, for its caller over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The movie after the command, also if the command was a repeat.
    Done(Box<Movie>),
    NoSuchMovie,
    /// The id belongs to a call with another body.
    Conflict,
    /// The edit is for another edition than the present one.
    Stale,
    /// More than [`QTY_MAX`] would be left.
    TooMany {
        qty: i64,
    },
    /// The command came from an event, so there is no caller.
    NoCaller,
}

/// The rows and events to be written, and the inputs' results.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    pub new_movies: Vec<Movie>,
    pub changed_movies: Vec<Movie>,
    /// Those of the changed movies that the vendor edited.
    pub edited_movies: Vec<Movie>,
    pub new_decisions: Vec<(ReservationId, Decision)>,
    pub released: Vec<ReservationId>,
    pub new_deliveries: Vec<(DeliveryId, Delivery)>,
    pub events: Vec<(Event, Origin)>,
    pub answers: Vec<Answer>,
}

/// Decides all inputs, in order.
pub fn fold(state: State, inputs: &[Input], now: Timestamp) -> Writes {
    let mut fold = Fold::new(state, now);
    for input in inputs {
        let answer = fold.decide(&input.command, &input.origin);
        fold.answers.push(answer);
    }
    fold.finish()
}

struct Fold {
    state: State,
    now: Timestamp,
    new_movies: BTreeSet<MovieId>,
    changed_movies: BTreeSet<MovieId>,
    edited_movies: BTreeSet<MovieId>,
    new_decisions: BTreeSet<ReservationId>,
    released: BTreeSet<ReservationId>,
    new_deliveries: BTreeSet<DeliveryId>,
    events: Vec<(Event, Origin)>,
    answers: Vec<Answer>,
}

impl Fold {
    fn new(state: State, now: Timestamp) -> Self {
        Self {
            state,
            now,
            new_movies: BTreeSet::new(),
            changed_movies: BTreeSet::new(),
            edited_movies: BTreeSet::new(),
            new_decisions: BTreeSet::new(),
            released: BTreeSet::new(),
            new_deliveries: BTreeSet::new(),
            events: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn decide(&mut self, command: &Command, origin: &Origin) -> Answer {
        match command {
            Command::Publish { movie_id, name, description, qty } => {
                self.publish(*movie_id, name, description, *qty, origin)
            }
            Command::Edit { movie_id, name, description, editions } => {
                self.edit(*movie_id, name.as_deref(), description.as_deref(), editions, origin)
            }
            Command::Deliver { movie_id, delivery_id, count } => {
                self.deliver(*movie_id, *delivery_id, *count, origin)
            }
            Command::Allocate { movie_id, reservation_id, count } => {
                self.allocate(*movie_id, *reservation_id, *count, origin);
                Answer::NoCaller
            }
            Command::Release { movie_id, reservation_id, count } => {
                self.release(*movie_id, *reservation_id, *count, origin);
                Answer::NoCaller
            }
        }
    }

    fn publish(&mut self, id: MovieId, name: &str, description: &str, qty: i64, origin: &Origin) -> Answer {
        if let Some(movie) = self.state.movies.get(&id) {
            // Repeated, if the body is the same.
            let is_same = movie.published_name == name
                && movie.published_description == description
                && movie.published == qty;
            return if is_same { Answer::Done(Box::new(movie.clone())) } else { Answer::Conflict };
        }
        let movie = Movie {
            id,
            name: name.to_owned(),
            description: description.to_owned(),
            published_name: name.to_owned(),
            published_description: description.to_owned(),
            published: qty,
            added: 0,
            allocated: 0,
            qty,
            version: 1,
            edition: 1,
        };
        self.publish_event(
            MoviePublished {
                timestamp: self.now,
                movie_id: id,
                movie_name: movie.name.clone(),
                description: movie.description.clone(),
                qty,
                version: movie.version,
            },
            origin,
        );
        self.new_movies.insert(id);
        self.state.movies.insert(id, movie.clone());
        Answer::Done(Box::new(movie))
    }

    fn edit(
        &mut self,
        id: MovieId,
        name: Option<&str>,
        description: Option<&str>,
        editions: &Editions,
        origin: &Origin,
    ) -> Answer {
        let Some(movie) = self.state.movies.get_mut(&id) else { return Answer::NoSuchMovie };
        if let Editions::OneOf(editions) = editions
            && !editions.contains(&movie.edition)
        {
            return Answer::Stale;
        }
        let (name, description) = (name.unwrap_or(&movie.name), description.unwrap_or(&movie.description));
        if name == movie.name && description == movie.description {
            return Answer::Done(Box::new(movie.clone()));
        }
        (movie.name, movie.description) = (name.to_owned(), description.to_owned());
        movie.edition += 1;
        movie.version += 1;
        let movie = movie.clone();
        self.publish_event(
            MovieUpdated {
                timestamp: self.now,
                movie_id: id,
                movie_name: movie.name.clone(),
                description: movie.description.clone(),
                qty: movie.qty,
                version: movie.version,
            },
            origin,
        );
        self.changed_movies.insert(id);
        self.edited_movies.insert(id);
        Answer::Done(Box::new(movie))
    }

    fn deliver(&mut self, id: MovieId, delivery_id: DeliveryId, count: Count, origin: &Origin) -> Answer {
        let Some(movie) = self.state.movies.get_mut(&id) else { return Answer::NoSuchMovie };
        let delivery = Delivery { movie_id: id, count };
        match self.state.deliveries.get(&delivery_id) {
            // Repeated, if the body is the same.
            Some(before) if *before == delivery => return Answer::Done(Box::new(movie.clone())),
            Some(_) => return Answer::Conflict,
            None => {}
        }
        if movie.qty + count.get() > QTY_MAX {
            return Answer::TooMany { qty: movie.qty };
        }
        movie.added += count.get();
        movie.qty += count.get();
        movie.version += 1;
        let movie = movie.clone();
        self.publish_event(
            TicketsAdded {
                timestamp: self.now,
                delivery_id,
                movie_id: id,
                movie_name: movie.name.clone(),
                count,
                qty: movie.qty,
                version: movie.version,
            },
            origin,
        );
        self.state.deliveries.insert(delivery_id, delivery);
        self.new_deliveries.insert(delivery_id);
        self.changed_movies.insert(id);
        Answer::Done(Box::new(movie))
    }

    /// Checks the stock, and decrements it if there are enough tickets.
    fn allocate(&mut self, id: MovieId, reservation_id: ReservationId, count: Count, origin: &Origin) {
        if let Some(decision) = self.state.decisions.get(&reservation_id) {
            match decision.outcome {
                // Repeated: its answer has been published already.
                Outcome::Allocated | Outcome::Rejected | Outcome::Released => {}
                // Cancelled before: nothing is allocated, and no one waits for an answer.
                Outcome::Void => {}
            }
            return;
        }
        let outcome = match self.state.movies.get_mut(&id) {
            Some(movie) if movie.qty >= count.get() => {
                movie.allocated += count.get();
                movie.qty -= count.get();
                movie.version += 1;
                let allocated = TicketsAllocated {
                    timestamp: self.now,
                    reservation_id,
                    movie_id: id,
                    movie_name: movie.name.clone(),
                    count,
                    qty: movie.qty,
                    version: movie.version,
                };
                self.changed_movies.insert(id);
                self.publish_event(allocated, origin);
                Outcome::Allocated
            }
            movie => {
                let rejected = AllocationRejected {
                    timestamp: self.now,
                    reservation_id,
                    movie_id: id,
                    movie_name: movie.as_ref().map(|movie| movie.name.clone()),
                    count,
                    qty: movie.as_ref().map(|movie| movie.qty),
                    version: movie.as_ref().map(|movie| movie.version),
                    reason: match movie {
                        Some(_) => RejectReason::OutOfStock,
                        None => RejectReason::MovieNotFound,
                    },
                };
                self.publish_event(rejected, origin);
                Outcome::Rejected
            }
        };
        self.record_decision(reservation_id, Decision { movie_id: id, outcome, count });
    }

    /// Returns the tickets of a cancelled reservation to the stock.
    fn release(&mut self, id: MovieId, reservation_id: ReservationId, count: Count, origin: &Origin) {
        let Some(decision) = self.state.decisions.get_mut(&reservation_id) else {
            // The placement has not been read yet: it must find that its reservation is cancelled.
            self.record_decision(reservation_id, Decision { movie_id: id, outcome: Outcome::Void, count });
            return;
        };
        match decision.outcome {
            // Repeated, or nothing was allocated.
            Outcome::Rejected | Outcome::Released | Outcome::Void => return,
            // The reservation is of another movie: only a faulty event names this one.
            Outcome::Allocated if decision.movie_id != id => return,
            Outcome::Allocated => decision.outcome = Outcome::Released,
        }
        // As many tickets are released as were allocated, whatever the event says.
        let count = decision.count;
        let Some(movie) = self.state.movies.get_mut(&id) else { return };
        movie.allocated -= count.get();
        movie.qty += count.get();
        movie.version += 1;
        let released = TicketsReleased {
            timestamp: self.now,
            reservation_id,
            movie_id: id,
            movie_name: movie.name.clone(),
            count,
            qty: movie.qty,
            version: movie.version,
        };
        self.changed_movies.insert(id);
        self.released.insert(reservation_id);
        self.publish_event(released, origin);
    }

    fn record_decision(&mut self, reservation_id: ReservationId, decision: Decision) {
        self.state.decisions.insert(reservation_id, decision);
        self.new_decisions.insert(reservation_id);
    }

    fn publish_event(&mut self, event: impl Into<Event>, origin: &Origin) {
        self.events.push((event.into(), origin.clone()));
    }

    fn finish(self) -> Writes {
        let Self { state, .. } = self;
        let movies = |ids: BTreeSet<MovieId>| -> Vec<Movie> {
            ids.into_iter().filter_map(|id| state.movies.get(&id).cloned()).collect()
        };
        let existing = |ids: &BTreeSet<MovieId>| movies(ids.difference(&self.new_movies).copied().collect());
        Writes {
            changed_movies: existing(&self.changed_movies),
            edited_movies: existing(&self.edited_movies),
            new_movies: movies(self.new_movies),
            // A decision that was made and released in this batch is inserted as released.
            released: self.released.difference(&self.new_decisions).copied().collect(),
            new_decisions: self
                .new_decisions
                .into_iter()
                .filter_map(|id| Some((id, *state.decisions.get(&id)?)))
                .collect(),
            new_deliveries: self
                .new_deliveries
                .into_iter()
                .filter_map(|id| Some((id, *state.deliveries.get(&id)?)))
                .collect(),
            events: self.events,
            answers: self.answers,
        }
    }
}

#[cfg(test)]
mod tests;
