//! The scenarios of one reservation's saga. The production folds run each once, in the log's order.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use movie::movie as movie_domain;
use reservation::reservation as reservation_domain;
use shared_events::{Count, DeliveryId, Event, EventId, MovieId, Origin, ReservationId, Timestamp, Topic};
use theater_tests::simulation::log::{Record, topic_consumed_by};
use theater_tests::simulation::tables::{Locks, Service, Tables, Work, Writes, apply, fold};
use uuid::Uuid;

pub(crate) const ID: ReservationId = ReservationId(Uuid::from_u128(1));
pub(crate) const MOVIE: MovieId = MovieId(Uuid::from_u128(2));
/// Tickets of the reservation, and of a delivery.
pub(crate) const COUNT: i64 = 3;
pub(crate) const DELIVERED: i64 = 2;

/// A step of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Place,
    Cancel,
    Expire,
    Deliver,
    /// A service consumes all records that it has not consumed yet.
    Consume(Service),
}

/// A scenario: the tables before and after it, and its events.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// The initial tickets; `None` if the movie doesn't exist.
    pub(crate) qty: Option<i64>,
    /// The movie is published, nothing is reserved.
    pub(crate) before: Tables,
    /// As `before`, with the reservation placed.
    pub(crate) placed: Tables,
    pub(crate) after: Tables,
    pub(crate) reservations: Vec<Record>,
    pub(crate) movies: Vec<Record>,
}

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

/// Commits `work`. Returns the writes and the events.
pub(crate) fn commit(tables: &mut Tables, work: &Work) -> (Writes, Vec<Event>) {
    let writes = fold(tables, work, &Locks::new(), Timestamp::new(now()));
    apply(tables, &writes, now()).expect("there are no concurrent writes");
    let events = writes.events().iter().map(|(event, _)| event.clone()).collect();
    (writes, events)
}

/// The work of a step that is a call.
pub(crate) fn call_work(step: Step) -> Work {
    let reservation_work = |command| {
        Work::Reservation(vec![reservation_domain::Input { id: ID, command, origin: Origin::default() }])
    };
    match step {
        Step::Place => reservation_work(reservation_domain::Command::Place(request())),
        Step::Cancel => reservation_work(reservation_domain::Command::Cancel),
        Step::Expire => reservation_work(reservation_domain::Command::Expire),
        Step::Deliver => {
            let (delivery_id, count) = (DeliveryId(Uuid::from_u128(3)), count(DELIVERED));
            movie_work(movie_domain::Command::Deliver { movie_id: MOVIE, delivery_id, count })
        }
        Step::Consume(_) => panic!("consuming is not a call"),
    }
}

fn movie_work(command: movie_domain::Command) -> Work {
    Work::Movie(vec![movie_domain::Input { command, origin: Origin::default() }])
}

fn count(count: i64) -> Count {
    Count::new(count).expect("a count of at least 1")
}

fn request() -> reservation_domain::Request {
    reservation_domain::Request {
        user_id: "7".into(),
        user_name: "Jane".into(),
        email: Some("jane@example.org".into()),
        movie_id: MOVIE,
        count: count(COUNT),
        date: None,
    }
}

impl Scenario {
    fn run(name: &'static str, qty: Option<i64>, steps: &[Step]) -> Self {
        let mut before = Tables::default();
        if let Some(qty) = qty {
            let (name, description) = ("LALALand".into(), String::new());
            commit(
                &mut before,
                &movie_work(movie_domain::Command::Publish { movie_id: MOVIE, name, description, qty }),
            );
        }
        let (mut after, mut placed) = (before.clone(), before.clone());
        commit(&mut placed, &call_work(Step::Place));
        let mut log: HashMap<Topic, Vec<Record>> = HashMap::new();
        let mut read: HashMap<Service, usize> = HashMap::new();
        // Finally every service consumes everything.
        let all = Service::ALL.map(Step::Consume);
        for step in steps.iter().chain(&all).chain(&all).chain(&all) {
            let work = match step {
                Step::Consume(service) => {
                    let records = log.entry(topic_consumed_by(*service)).or_default();
                    let from = read.insert(*service, records.len()).unwrap_or_default();
                    Work::Batch(*service, records[from..].iter().map(Record::delivery).collect())
                }
                step => call_work(*step),
            };
            for event in commit(&mut after, &work).1 {
                // Deliveries don't concern this reservation.
                if event.reservation_id().is_some() {
                    let records = log.entry(event.topic()).or_default();
                    let id = EventId(format!("{:?}-{}", event.topic(), records.len()));
                    records.push(Record { id, event, causation: None });
                }
            }
        }
        let mut take = |topic| log.remove(&topic).unwrap_or_default();
        let (reservations, movies) = (take(Topic::Reservations), take(Topic::Movies));
        Self { name, qty, before, placed, after, reservations, movies }
    }

    /// Its events by type and reason.
    pub(crate) fn events(&self) -> Vec<String> {
        let described = self.reservations.iter().map(|record| match &record.event {
            Event::ReservationCancelled(event) => format!("ReservationCancelled {}", event.reason.as_str()),
            event => event.event_type().to_owned(),
        });
        described.chain(self.movie_events()).collect()
    }

    /// movie's events by type and reason.
    pub(crate) fn movie_events(&self) -> Vec<String> {
        let described = self.movies.iter().map(|record| match &record.event {
            Event::AllocationRejected(event) => format!("AllocationRejected {:?}", event.reason),
            event => event.event_type().to_owned(),
        });
        described.collect()
    }

    /// Every scenario of the saga.
    pub(crate) fn all() -> Vec<Self> {
        use Service::{Movie, Reservation};
        use Step::{Cancel, Consume, Deliver, Expire, Place};
        let (enough, short) = (Some(COUNT + 1), Some(COUNT - 1));
        vec![
            Self::run("confirmed", enough, &[Place]),
            Self::run("the last tickets", Some(COUNT), &[Place]),
            Self::run(
                "confirmed, then cancelled",
                enough,
                &[Place, Consume(Movie), Consume(Reservation), Cancel],
            ),
            Self::run("rejected", short, &[Place]),
            Self::run("rejected, then more tickets", short, &[Place, Consume(Movie), Deliver]),
            Self::run("more tickets just in time", short, &[Place, Deliver]),
            Self::run("no such movie", None, &[Place]),
            Self::run("cancelled before the allocation", enough, &[Place, Cancel]),
            Self::run("cancelled after the allocation", enough, &[Place, Consume(Movie), Cancel]),
            Self::run("cancelled before the rejection", short, &[Place, Cancel]),
            Self::run("cancelled, no such movie", None, &[Place, Cancel]),
            Self::run("too late before the allocation", enough, &[Place, Expire]),
            Self::run("too late after the allocation", enough, &[Place, Consume(Movie), Expire]),
            Self::run("too late, rejected", short, &[Place, Expire]),
            Self::run("too late, cancelled", enough, &[Place, Expire, Cancel]),
        ]
    }
}
