//! The four databases as maps, and what a transaction of a service does to them: load and lock, the production
//! `fold`, and its `Writes` applied at the commit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use movie::movie as stock;
use notification::notification as told;
use reservation::http::accepted_response;
use reservation::placement::{self, PlaceOutcome, PlaceRequest};
use reservation::reservation as seat;
use reservation_list::projection as listed;
use service_kit::messaging::idempotency::{ScopedKey, StoredResponses};
use service_kit::messaging::{Delivery, IdempotencyKey, StoredResponse};
use shared_events::{DeliveryId, Event, MovieId, Origin, ReservationId, Timestamp};
use uuid::Uuid;

/// Seconds that a reservation may stay undecided; the simulation's clock moves in steps of some of them.
pub const DEADLINE_SECS: i64 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    Reservation,
    Movie,
    Notification,
    ReservationList,
}

impl Service {
    pub const ALL: [Self; 4] = [Self::Reservation, Self::Movie, Self::Notification, Self::ReservationList];
}

/// All services' tables; each database uses its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tables {
    pub reservations: BTreeMap<ReservationId, seat::Reservation>,
    pub deadlines: BTreeMap<ReservationId, DateTime<Utc>>,
    /// What accepted calls were answered, under their keys.
    pub stored_responses: BTreeMap<ScopedKey, (IdempotencyKey, StoredResponse)>,
    pub movies: BTreeMap<MovieId, stock::Movie>,
    pub decisions: BTreeMap<ReservationId, stock::Decision>,
    pub deliveries: BTreeMap<DeliveryId, stock::Delivery>,
    /// By whether it is a confirmation.
    pub notifications: BTreeMap<(ReservationId, bool), told::Notification>,
    /// Those of them that are sent.
    pub mails: BTreeSet<(ReservationId, bool)>,
    pub list: BTreeMap<ReservationId, listed::Reservation>,
}

/// What one transaction is asked to do.
#[derive(Clone, Debug)]
pub enum Work {
    Reservation(Vec<seat::Input>),
    /// What the intake puts into one transaction.
    Place(Vec<PlaceRequest>),
    Movie(Vec<stock::Input>),
    /// A batch of records, for whichever service reads them.
    Batch(Service, Vec<Delivery>),
    Sweep,
}

/// What a transaction will write when it commits.
#[derive(Clone, Debug)]
pub enum Writes {
    Reservation(seat::Writes),
    /// With the acceptances that are kept, and what each call is answered.
    Place(seat::Writes, Vec<(IdempotencyKey, StoredResponse)>, Vec<PlaceOutcome>),
    Movie(stock::Writes),
    Notification(told::Writes),
    List(listed::Writes),
}

impl Writes {
    pub fn events(&self) -> &[(Event, Origin)] {
        match self {
            Self::Reservation(writes) | Self::Place(writes, ..) => &writes.events,
            Self::Movie(writes) => &writes.events,
            Self::Notification(_) | Self::List(_) => &[],
        }
    }
}

/// Rows that a transaction has locked until its end.
pub type Locks = BTreeSet<Uuid>;

/// Rows that `work` would lock: those it names that are there. `taken` are locked by others.
pub fn locks(tables: &Tables, work: &Work, taken: &Locks, clock: DateTime<Utc>) -> Locks {
    let reservations = |ids: &mut dyn Iterator<Item = ReservationId>| -> Locks {
        ids.filter(|id| tables.reservations.contains_key(id)).map(|id| id.0).collect()
    };
    match work {
        Work::Reservation(inputs) => reservations(&mut inputs.iter().map(|input| input.id)),
        Work::Place(requests) => reservations(&mut requests.iter().map(|placing| placing.input.id)),
        Work::Movie(inputs) => movies(tables, inputs),
        Work::Batch(Service::Reservation, batch) => {
            let inputs = batch.iter().filter_map(reservation::events::input);
            reservations(&mut inputs.map(|input| input.id))
        }
        Work::Batch(Service::Movie, batch) => {
            let inputs: Vec<_> = batch.iter().filter_map(movie::events::input).collect();
            movies(tables, &inputs)
        }
        Work::Batch(Service::Notification, _) => Locks::new(),
        Work::Batch(Service::ReservationList, batch) => {
            let ids = batch.iter().filter_map(|delivery| listed::Reservation::from_event(&delivery.event));
            ids.filter(|row| tables.list.contains_key(&row.id)).map(|row| row.id.0).collect()
        }
        // Whoever is being decided just now is left out.
        Work::Sweep => overdue(tables, clock).map(|row| row.id.0).filter(|id| !taken.contains(id)).collect(),
    }
}

fn movies(tables: &Tables, inputs: &[stock::Input]) -> Locks {
    let ids = inputs.iter().map(|input| input.command.movie_id());
    ids.filter(|id| tables.movies.contains_key(id)).map(|id| id.0).collect()
}

fn overdue(tables: &Tables, clock: DateTime<Utc>) -> impl Iterator<Item = &seat::Reservation> {
    tables
        .reservations
        .values()
        .filter(move |row| row.status == seat::Status::Pending && tables.deadlines[&row.id] < clock)
}

/// Decides `work` on what is committed now, with `locks` held.
pub fn fold(tables: &Tables, work: &Work, locks: &Locks, now: Timestamp) -> Writes {
    match work {
        Work::Reservation(inputs) => Writes::Reservation(fold_reservation(tables, inputs, now)),
        Work::Place(requests) => place(tables, requests, now),
        Work::Movie(inputs) => Writes::Movie(fold_movie(tables, inputs, now)),
        Work::Batch(Service::Reservation, batch) => {
            let inputs: Vec<_> = batch.iter().filter_map(reservation::events::input).collect();
            Writes::Reservation(fold_reservation(tables, &inputs, now))
        }
        Work::Batch(Service::Movie, batch) => {
            let inputs: Vec<_> = batch.iter().filter_map(movie::events::input).collect();
            Writes::Movie(fold_movie(tables, &inputs, now))
        }
        Work::Batch(Service::Notification, batch) => {
            let id = |number: usize| Uuid::from_u128(number as u128);
            let inputs: Vec<_> = (0..)
                .zip(batch)
                .filter_map(|(number, delivery)| told::Notification::from_event(&delivery.event, id(number)))
                .collect();
            let state = tables.notifications.values().map(told::Notification::key).collect();
            Writes::Notification(told::fold(state, inputs))
        }
        Work::Batch(Service::ReservationList, batch) => {
            let inputs = batch.iter().filter_map(|delivery| listed::Reservation::from_event(&delivery.event));
            let state = tables.list.iter().map(|(id, row)| (*id, row.status)).collect();
            Writes::List(listed::fold(state, inputs.collect()))
        }
        Work::Sweep => {
            let expire = |id: &Uuid| seat::Input {
                id: ReservationId(*id),
                command: seat::Command::Expire,
                origin: Origin::default(),
            };
            Writes::Reservation(fold_reservation(tables, &locks.iter().map(expire).collect::<Vec<_>>(), now))
        }
    }
}

fn place(tables: &Tables, requests: &[PlaceRequest], now: Timestamp) -> Writes {
    let places = requests.iter().filter_map(|placing| Some(placing.key.as_ref()?.scoped_key()));
    let mut stored_responses: StoredResponses =
        places.filter_map(|place| tables.stored_responses.get(place).cloned()).collect();
    let state = requests.iter().filter_map(|placing| tables.reservations.get(&placing.input.id));
    let state = state.map(|row| (row.id, row.clone())).collect();
    let (writes, answers) = placement::decide(state, &mut stored_responses, requests, accepted_response, now);
    let added = stored_responses
        .new_responses()
        .map(|(key, stored_response)| (key, stored_response.clone()))
        .collect();
    Writes::Place(writes, added, answers)
}

fn fold_reservation(tables: &Tables, inputs: &[seat::Input], now: Timestamp) -> seat::Writes {
    let state = inputs.iter().filter_map(|input| tables.reservations.get(&input.id));
    seat::fold(state.map(|row| (row.id, row.clone())).collect(), inputs, now)
}

fn fold_movie(tables: &Tables, inputs: &[stock::Input], now: Timestamp) -> stock::Writes {
    let state = stock::State {
        movies: tables.movies.clone(),
        decisions: tables.decisions.iter().map(|(id, decision)| (*id, *decision)).collect::<HashMap<_, _>>(),
        deliveries: tables
            .deliveries
            .iter()
            .map(|(id, delivery)| (*id, *delivery))
            .collect::<HashMap<_, _>>(),
    };
    stock::fold(state, inputs, now)
}

/// Whether the statements fail: PostgreSQL has no NUL in its texts, and takes back the whole transaction.
pub fn refused(writes: &Writes) -> bool {
    let nul = |text: &String| text.contains('\0');
    match writes {
        Writes::Notification(writes) => writes.new.iter().any(|new| nul(&new.user_id)),
        Writes::List(writes) => writes.new.iter().any(|new| nul(&new.user_id)),
        // No text of a foreign record reaches them.
        Writes::Reservation(_) | Writes::Place(..) | Writes::Movie(_) => false,
    }
}

/// A row that was to be new is there already: the transaction must be decided anew.
#[derive(Debug)]
pub struct Conflict;

/// Commits what was decided.
///
/// # Errors
/// [`Conflict`], and nothing is written.
pub fn apply(tables: &mut Tables, writes: &Writes, clock: DateTime<Utc>) -> Result<(), Conflict> {
    match writes {
        Writes::Reservation(writes) => apply_reservation(tables, writes, clock),
        Writes::Place(writes, stored_responses, _) => {
            if stored_responses.iter().any(|(key, _)| tables.stored_responses.contains_key(key.scoped_key()))
            {
                return Err(Conflict);
            }
            apply_reservation(tables, writes, clock)?;
            tables
                .stored_responses
                .extend(stored_responses.iter().map(|new| (new.0.scoped_key().clone(), new.clone())));
            Ok(())
        }
        Writes::Movie(writes) => apply_movie(tables, writes),
        Writes::Notification(writes) => {
            for new in &writes.new {
                // A unique constraint and `on conflict do nothing`.
                tables.notifications.entry(outcome(new)).or_insert_with(|| new.clone());
            }
            tables.mails.extend(writes.to_send().map(outcome));
            Ok(())
        }
        Writes::List(writes) => {
            if writes.new.iter().any(|row| tables.list.contains_key(&row.id)) {
                return Err(Conflict);
            }
            tables.list.extend(writes.new.iter().map(|row| (row.id, row.clone())));
            for id in &writes.cancelled {
                tables.list.entry(*id).and_modify(|row| row.status = listed::Status::Cancelled);
            }
            Ok(())
        }
    }
}

fn outcome(notification: &told::Notification) -> (ReservationId, bool) {
    (notification.reservation_id, notification.outcome.status() == told::Status::Confirmed)
}

fn apply_reservation(
    tables: &mut Tables,
    writes: &seat::Writes,
    clock: DateTime<Utc>,
) -> Result<(), Conflict> {
    if writes.new.iter().any(|row| tables.reservations.contains_key(&row.id)) {
        return Err(Conflict);
    }
    for row in &writes.new {
        tables.deadlines.insert(row.id, clock + TimeDelta::seconds(DEADLINE_SECS));
    }
    tables.reservations.extend(writes.new.iter().chain(&writes.changed).map(|row| (row.id, row.clone())));
    Ok(())
}

fn apply_movie(tables: &mut Tables, writes: &stock::Writes) -> Result<(), Conflict> {
    let there = writes.new_movies.iter().any(|movie| tables.movies.contains_key(&movie.id))
        || writes.new_decisions.iter().any(|(id, _)| tables.decisions.contains_key(id))
        || writes.new_deliveries.iter().any(|(id, _)| tables.deliveries.contains_key(id));
    if there {
        return Err(Conflict);
    }
    let movies = writes.new_movies.iter().chain(&writes.changed_movies);
    tables.movies.extend(movies.map(|movie| (movie.id, movie.clone())));
    tables.decisions.extend(writes.new_decisions.iter().copied());
    for id in &writes.released {
        tables.decisions.entry(*id).and_modify(|decision| decision.outcome = stock::Outcome::Released);
    }
    tables.deliveries.extend(writes.new_deliveries.iter().copied());
    Ok(())
}
