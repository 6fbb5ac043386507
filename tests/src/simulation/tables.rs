//! The four databases as maps, and the transactions of the services on them: load and lock rows, run the production
//! `fold`, and apply its `Writes` at the commit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use movie::movie as movie_domain;
use notification::notification as notification_domain;
use reservation::http::accepted_response;
use reservation::placement::{self, PlaceOutcome, PlaceRequest};
use reservation::reservation as reservation_domain;
use reservation_list::projection;
use service_kit::messaging::idempotency::{ScopedKey, StoredResponses};
use service_kit::messaging::{Delivery, IdempotencyKey, StoredResponse};
use shared_events::{DeliveryId, Event, MovieId, Origin, ReservationId, Timestamp};
use uuid::Uuid;

/// Seconds until a pending reservation expires. The simulation's clock moves in steps of fewer seconds.
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
    pub reservations: BTreeMap<ReservationId, reservation_domain::Reservation>,
    pub deadlines: BTreeMap<ReservationId, DateTime<Utc>>,
    /// The responses to accepted calls with an `Idempotency-Key`.
    pub stored_responses: BTreeMap<ScopedKey, (IdempotencyKey, StoredResponse)>,
    pub movies: BTreeMap<MovieId, movie_domain::Movie>,
    pub decisions: BTreeMap<ReservationId, movie_domain::Decision>,
    pub deliveries: BTreeMap<DeliveryId, movie_domain::Delivery>,
    /// The second part of the key: whether it is a confirmation.
    pub notifications: BTreeMap<(ReservationId, bool), notification_domain::Notification>,
    /// The notifications that are sent as e-mails.
    pub mails: BTreeSet<(ReservationId, bool)>,
    pub list: BTreeMap<ReservationId, projection::Reservation>,
}

/// The input of a transaction.
#[derive(Clone, Debug)]
pub enum Work {
    Reservation(Vec<reservation_domain::Input>),
    /// Calls that the service places in one transaction.
    Place(Vec<PlaceRequest>),
    Movie(Vec<movie_domain::Input>),
    /// A batch of records that the service consumes.
    Batch(Service, Vec<Delivery>),
    /// The deadline sweeper.
    Sweep,
}

/// The writes that a transaction applies when it commits.
#[derive(Clone, Debug)]
pub enum Writes {
    Reservation(reservation_domain::Writes),
    /// With the responses to store, and the outcome of each call.
    Place(reservation_domain::Writes, Vec<(IdempotencyKey, StoredResponse)>, Vec<PlaceOutcome>),
    Movie(movie_domain::Writes),
    Notification(notification_domain::Writes),
    List(projection::Writes),
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

/// The ids of the rows that a transaction locks until its end.
pub type Locks = BTreeSet<Uuid>;

/// The rows that `work` locks: those that it names and that exist. `locked` are locked by other transactions.
pub fn rows_to_lock(tables: &Tables, work: &Work, locked: &Locks, clock: DateTime<Utc>) -> Locks {
    let reservations = |ids: &mut dyn Iterator<Item = ReservationId>| -> Locks {
        ids.filter(|id| tables.reservations.contains_key(id)).map(|id| id.0).collect()
    };
    match work {
        Work::Reservation(inputs) => reservations(&mut inputs.iter().map(|input| input.id)),
        Work::Place(requests) => reservations(&mut requests.iter().map(|request| request.input.id)),
        Work::Movie(inputs) => existing_movies(tables, inputs),
        Work::Batch(Service::Reservation, batch) => {
            let inputs = batch.iter().filter_map(reservation::events::input);
            reservations(&mut inputs.map(|input| input.id))
        }
        Work::Batch(Service::Movie, batch) => {
            let inputs: Vec<_> = batch.iter().filter_map(movie::events::input).collect();
            existing_movies(tables, &inputs)
        }
        Work::Batch(Service::Notification, _) => Locks::new(),
        Work::Batch(Service::ReservationList, batch) => {
            let ids =
                batch.iter().filter_map(|delivery| projection::Reservation::from_event(&delivery.event));
            ids.filter(|row| tables.list.contains_key(&row.id)).map(|row| row.id.0).collect()
        }
        // The sweeper skips locked rows.
        Work::Sweep => overdue(tables, clock).map(|row| row.id.0).filter(|id| !locked.contains(id)).collect(),
    }
}

fn existing_movies(tables: &Tables, inputs: &[movie_domain::Input]) -> Locks {
    let ids = inputs.iter().map(|input| input.command.movie_id());
    ids.filter(|id| tables.movies.contains_key(id)).map(|id| id.0).collect()
}

fn overdue(tables: &Tables, clock: DateTime<Utc>) -> impl Iterator<Item = &reservation_domain::Reservation> {
    tables.reservations.values().filter(move |row| {
        row.status == reservation_domain::Status::Pending && tables.deadlines[&row.id] < clock
    })
}

/// Decides `work` on the committed rows, with `locks` held.
pub fn fold(tables: &Tables, work: &Work, locks: &Locks, now: Timestamp) -> Writes {
    match work {
        Work::Reservation(inputs) => Writes::Reservation(fold_reservation(tables, inputs, now)),
        Work::Place(requests) => fold_placements(tables, requests, now),
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
                .filter_map(|(number, delivery)| {
                    notification_domain::Notification::from_event(&delivery.event, id(number))
                })
                .collect();
            let state = tables.notifications.values().map(notification_domain::Notification::key).collect();
            Writes::Notification(notification_domain::fold(state, inputs))
        }
        Work::Batch(Service::ReservationList, batch) => {
            let inputs =
                batch.iter().filter_map(|delivery| projection::Reservation::from_event(&delivery.event));
            let state = tables.list.iter().map(|(id, row)| (*id, row.status)).collect();
            Writes::List(projection::fold(state, inputs.collect()))
        }
        Work::Sweep => {
            let expire = |id: &Uuid| reservation_domain::Input {
                id: ReservationId(*id),
                command: reservation_domain::Command::Expire,
                origin: Origin::default(),
            };
            Writes::Reservation(fold_reservation(tables, &locks.iter().map(expire).collect::<Vec<_>>(), now))
        }
    }
}

fn fold_placements(tables: &Tables, requests: &[PlaceRequest], now: Timestamp) -> Writes {
    let keys = requests.iter().filter_map(|request| Some(request.key.as_ref()?.scoped_key()));
    let mut stored_responses: StoredResponses =
        keys.filter_map(|key| tables.stored_responses.get(key).cloned()).collect();
    let state = requests.iter().filter_map(|request| tables.reservations.get(&request.input.id));
    let state = state.map(|row| (row.id, row.clone())).collect();
    let (writes, outcomes) =
        placement::decide(state, &mut stored_responses, requests, accepted_response, now);
    let new_responses =
        stored_responses.new_responses().map(|(key, response)| (key, response.clone())).collect();
    Writes::Place(writes, new_responses, outcomes)
}

fn fold_reservation(
    tables: &Tables,
    inputs: &[reservation_domain::Input],
    now: Timestamp,
) -> reservation_domain::Writes {
    let state = inputs.iter().filter_map(|input| tables.reservations.get(&input.id));
    reservation_domain::fold(state.map(|row| (row.id, row.clone())).collect(), inputs, now)
}

fn fold_movie(tables: &Tables, inputs: &[movie_domain::Input], now: Timestamp) -> movie_domain::Writes {
    let state = movie_domain::State {
        movies: tables.movies.clone(),
        decisions: tables.decisions.iter().map(|(id, decision)| (*id, *decision)).collect::<HashMap<_, _>>(),
        deliveries: tables
            .deliveries
            .iter()
            .map(|(id, delivery)| (*id, *delivery))
            .collect::<HashMap<_, _>>(),
    };
    movie_domain::fold(state, inputs, now)
}

/// Whether PostgreSQL rejects the statements, and so the whole transaction: its texts can't contain NUL.
pub fn database_rejects(writes: &Writes) -> bool {
    let has_nul = |text: &String| text.contains('\0');
    match writes {
        Writes::Notification(writes) => writes.new.iter().any(|new| has_nul(&new.user_id)),
        Writes::List(writes) => writes.new.iter().any(|new| has_nul(&new.user_id)),
        // No text of a foreign record reaches their tables.
        Writes::Reservation(_) | Writes::Place(..) | Writes::Movie(_) => false,
    }
}

/// A row to insert exists already: the transaction must be decided again.
#[derive(Debug)]
pub struct Conflict;

/// Commits the writes.
///
/// # Errors
/// [`Conflict`]; then nothing is written.
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
                // As a unique constraint with `on conflict do nothing`.
                tables.notifications.entry(notification_key(new)).or_insert_with(|| new.clone());
            }
            tables.mails.extend(writes.to_send().map(notification_key));
            Ok(())
        }
        Writes::List(writes) => {
            if writes.new.iter().any(|row| tables.list.contains_key(&row.id)) {
                return Err(Conflict);
            }
            tables.list.extend(writes.new.iter().map(|row| (row.id, row.clone())));
            for id in &writes.cancelled {
                tables.list.entry(*id).and_modify(|row| row.status = projection::Status::Cancelled);
            }
            Ok(())
        }
    }
}

fn notification_key(notification: &notification_domain::Notification) -> (ReservationId, bool) {
    (notification.reservation_id, notification.outcome.status() == notification_domain::Status::Confirmed)
}

fn apply_reservation(
    tables: &mut Tables,
    writes: &reservation_domain::Writes,
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

fn apply_movie(tables: &mut Tables, writes: &movie_domain::Writes) -> Result<(), Conflict> {
    let exists = writes.new_movies.iter().any(|movie| tables.movies.contains_key(&movie.id))
        || writes.new_decisions.iter().any(|(id, _)| tables.decisions.contains_key(id))
        || writes.new_deliveries.iter().any(|(id, _)| tables.deliveries.contains_key(id));
    if exists {
        return Err(Conflict);
    }
    let movies = writes.new_movies.iter().chain(&writes.changed_movies);
    tables.movies.extend(movies.map(|movie| (movie.id, movie.clone())));
    tables.decisions.extend(writes.new_decisions.iter().copied());
    for id in &writes.released {
        tables.decisions.entry(*id).and_modify(|decision| decision.outcome = movie_domain::Outcome::Released);
    }
    tables.deliveries.extend(writes.new_deliveries.iter().copied());
    Ok(())
}
