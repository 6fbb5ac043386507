//! The courses that one reservation's saga can take, each played once by the production folds, in the log's order.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use movie::movie as stock;
use reservation::reservation as seat;
use shared_events::{Count, DeliveryId, Event, EventId, MovieId, Origin, ReservationId, Timestamp, Topic};
use theater_tests::simulation::bus::{Record, topic};
use theater_tests::simulation::tables::{Locks, Service, Tables, Work, Writes, apply, fold};
use uuid::Uuid;

pub(crate) const ID: ReservationId = ReservationId(Uuid::from_u128(1));
pub(crate) const MOVIE: MovieId = MovieId(Uuid::from_u128(2));
/// Tickets that are reserved, and that a delivery brings.
pub(crate) const COUNT: i64 = 3;
pub(crate) const DELIVERED: i64 = 2;

/// What somebody does, in the order of a course.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Place,
    Cancel,
    Expire,
    Deliver,
    /// Reads all that it has not read yet.
    Reads(Service),
}

/// What happened, and the tables of before: the movie published, nothing reserved.
pub(crate) struct Course {
    pub(crate) name: &'static str,
    /// Tickets at first; `None`: there is no such movie.
    pub(crate) qty: Option<i64>,
    pub(crate) before: Tables,
    /// As `before`, with the reservation placed.
    pub(crate) placed: Tables,
    pub(crate) after: Tables,
    pub(crate) reservations: Vec<Record>,
    pub(crate) movies: Vec<Record>,
}

fn at() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

/// Commits `work`; what it tells.
pub(crate) fn commit(tables: &mut Tables, work: &Work) -> (Writes, Vec<Event>) {
    let writes = fold(tables, work, &Locks::new(), Timestamp::new(at()));
    apply(tables, &writes, at()).expect("nobody else writes");
    let events = writes.events().iter().map(|(event, _)| event.clone()).collect();
    (writes, events)
}

pub(crate) fn asked(turn: Turn) -> Work {
    let seat = |command| Work::Reservation(vec![seat::Input { id: ID, command, origin: Origin::default() }]);
    match turn {
        Turn::Place => seat(seat::Command::Place(request())),
        Turn::Cancel => seat(seat::Command::Cancel),
        Turn::Expire => seat(seat::Command::Expire),
        Turn::Deliver => {
            let (delivery_id, count) = (DeliveryId(Uuid::from_u128(3)), count(DELIVERED));
            stock_work(stock::Command::Deliver { movie_id: MOVIE, delivery_id, count })
        }
        Turn::Reads(_) => panic!("nobody asks for that"),
    }
}

fn stock_work(command: stock::Command) -> Work {
    Work::Movie(vec![stock::Input { command, origin: Origin::default() }])
}

fn count(count: i64) -> Count {
    Count::new(count).expect("a count of at least 1")
}

fn request() -> seat::Request {
    seat::Request {
        user_id: "7".into(),
        user_name: "Jane".into(),
        email: Some("jane@example.org".into()),
        movie_id: MOVIE,
        count: count(COUNT),
        date: None,
    }
}

impl Course {
    fn play(name: &'static str, qty: Option<i64>, turns: &[Turn]) -> Self {
        let mut before = Tables::default();
        if let Some(qty) = qty {
            let (name, description) = ("LALALand".into(), String::new());
            commit(
                &mut before,
                &stock_work(stock::Command::Publish { movie_id: MOVIE, name, description, qty }),
            );
        }
        let (mut after, mut placed) = (before.clone(), before.clone());
        commit(&mut placed, &asked(Turn::Place));
        let mut log: HashMap<Topic, Vec<Record>> = HashMap::new();
        let mut read: HashMap<Service, usize> = HashMap::new();
        // At last everybody has read everything.
        let all = Service::ALL.map(Turn::Reads);
        for turn in turns.iter().chain(&all).chain(&all).chain(&all) {
            let work = match turn {
                Turn::Reads(service) => {
                    let records = log.entry(topic(*service)).or_default();
                    let from = read.insert(*service, records.len()).unwrap_or_default();
                    Work::Batch(*service, records[from..].iter().map(Record::delivery).collect())
                }
                turn => asked(*turn),
            };
            for event in commit(&mut after, &work).1 {
                // Deliveries concern the stock, not this reservation.
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

    /// Its events, by type and reason.
    pub(crate) fn events(&self) -> Vec<String> {
        let described = self.reservations.iter().map(|record| match &record.event {
            Event::ReservationCancelled(event) => format!("ReservationCancelled {}", event.reason.as_str()),
            event => event.event_type().to_owned(),
        });
        described.chain(self.answers()).collect()
    }

    /// Those of the stock.
    pub(crate) fn answers(&self) -> Vec<String> {
        let described = self.movies.iter().map(|record| match &record.event {
            Event::AllocationRejected(event) => format!("AllocationRejected {:?}", event.reason),
            event => event.event_type().to_owned(),
        });
        described.collect()
    }

    /// Every course that the saga can take.
    pub(crate) fn all() -> Vec<Self> {
        use Service::{Movie, Reservation};
        use Turn::{Cancel, Deliver, Expire, Place, Reads};
        let (enough, short) = (Some(COUNT + 1), Some(COUNT - 1));
        vec![
            Self::play("confirmed", enough, &[Place]),
            Self::play("the last tickets", Some(COUNT), &[Place]),
            Self::play(
                "confirmed, then cancelled",
                enough,
                &[Place, Reads(Movie), Reads(Reservation), Cancel],
            ),
            Self::play("rejected", short, &[Place]),
            Self::play("rejected, then more tickets", short, &[Place, Reads(Movie), Deliver]),
            Self::play("more tickets just in time", short, &[Place, Deliver]),
            Self::play("no such movie", None, &[Place]),
            Self::play("cancelled before the allocation", enough, &[Place, Cancel]),
            Self::play("cancelled after the allocation", enough, &[Place, Reads(Movie), Cancel]),
            Self::play("cancelled before the rejection", short, &[Place, Cancel]),
            Self::play("cancelled, no such movie", None, &[Place, Cancel]),
            Self::play("too late before the allocation", enough, &[Place, Expire]),
            Self::play("too late after the allocation", enough, &[Place, Reads(Movie), Expire]),
            Self::play("too late, rejected", short, &[Place, Expire]),
            Self::play("too late, cancelled", enough, &[Place, Expire, Cancel]),
        ]
    }
}
