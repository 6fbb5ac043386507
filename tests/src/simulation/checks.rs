//! The invariants: after every commit, with every record that enters the log, and at rest.

use std::collections::{BTreeMap, BTreeSet};

use movie::movie::Outcome;
use reservation::reservation::Status;
use reservation_list::projection as listed;
use shared_events::{Event, MovieId, ReservationId};

use crate::simulation::bus::{Entry, Log, PARTITIONS, Record, topic};
use crate::simulation::calls::Calls;
use crate::simulation::history::short;
use crate::simulation::tables::{Service, Tables};
use crate::simulation::tally::Tally;
use crate::simulation::world::Database;

/// What does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(String);

impl Violation {
    pub const fn new(what: String) -> Self {
        Self(what)
    }

    pub fn what(&self) -> &str {
        &self.0
    }
}

macro_rules! hold {
    ($condition:expr, $($arg:tt)+) => {
        if !$condition {
            return Err(Violation::new(format!($($arg)+)));
        }
    };
}
pub(crate) use hold;

/// What was seen before, to compare with.
#[derive(Debug, Default)]
pub struct Checks {
    statuses: BTreeMap<ReservationId, u8>,
    listed: BTreeMap<ReservationId, u8>,
    seen: BTreeMap<String, Event>,
    /// A movie's version and quantity after its last event that was new.
    chains: BTreeMap<MovieId, (i64, i64)>,
    /// How far a reservation's own events have come, and the stock's about it.
    told: BTreeMap<ReservationId, u8>,
    decided: BTreeMap<ReservationId, &'static str>,
}

impl Checks {
    /// # Errors
    /// What a commit broke.
    pub fn committed(&mut self, databases: &BTreeMap<Service, Database>) -> Result<(), Violation> {
        let tables = |service| &databases[&service].tables;
        let (reservation, movie) = (tables(Service::Reservation), tables(Service::Movie));
        ledger(movie)?;
        for row in reservation.reservations.values() {
            let (id, rank) = (row.id.0.as_u128(), rank(row.status));
            let before = self.statuses.insert(row.id, rank).unwrap_or_default();
            hold!(before <= rank, "r{id} went back to {}", row.status.as_str());
            let outcome = movie.decisions.get(&row.id).map(|decision| decision.outcome);
            let sold = row.status != Status::Confirmed || outcome == Some(Outcome::Allocated);
            hold!(sold, "r{id} is confirmed, and its tickets are {outcome:?}");
        }
        for row in tables(Service::ReservationList).list.values() {
            let rank = u8::from(row.status == listed::Status::Cancelled) + 1;
            let before = self.listed.insert(row.id, rank).unwrap_or_default();
            hold!(before <= rank, "r{} went back to {} in the list", row.id.0.as_u128(), row.status.as_str());
        }
        Ok(())
    }

    /// # Errors
    /// What is wrong with a record that is about to enter the log: first occurrences are in order, and a repeat
    /// equals what was there.
    pub fn appended(&mut self, record: &Record, tally: &mut Tally) -> Result<(), Violation> {
        if let Some(before) = self.seen.get(&record.id.0) {
            hold!(*before == record.event, "{} comes again with another content", short(record));
            tally.count("a record comes again");
            let newer = record.event.reservation_id().and_then(|id| self.told.get(&id)).copied();
            if newer > stage(&record.event) {
                tally.count("a record comes again after a newer one");
            }
            return Ok(());
        }
        self.seen.insert(record.id.0.clone(), record.event.clone());
        self.follows(record)
    }

    fn follows(&mut self, record: &Record) -> Result<(), Violation> {
        let (Some(stage), Some(id)) = (stage(&record.event), record.event.reservation_id()) else {
            self.decided_once(&record.event, record)?;
            return self.chained(&record.event, record);
        };
        let before = self.told.insert(id, stage).unwrap_or_default();
        let in_order = matches!((before, stage), (0, 1) | (1, 2 | 3) | (2, 3));
        hold!(in_order, "{} is out of order: {before} was told before", short(record));
        Ok(())
    }

    /// A placement is answered once, and what is released was allocated.
    fn decided_once(&mut self, event: &Event, record: &Record) -> Result<(), Violation> {
        let Some(id) = event.reservation_id() else { return Ok(()) };
        let before = self.decided.insert(id, event.event_type());
        let once = match event {
            Event::TicketsReleased(_) => before == Some("TicketsAllocated"),
            _ => before.is_none(),
        };
        hold!(once, "{} after {before:?}", short(record));
        Ok(())
    }

    fn chained(&mut self, event: &Event, record: &Record) -> Result<(), Violation> {
        let (change, version, qty) = match event {
            Event::MoviePublished(event) => (event.qty, event.version, event.qty),
            Event::MovieUpdated(event) => (0, event.version, event.qty),
            Event::TicketsAdded(event) => (event.count.get(), event.version, event.qty),
            Event::TicketsAllocated(event) => (-event.count.get(), event.version, event.qty),
            Event::TicketsReleased(event) => (event.count.get(), event.version, event.qty),
            _ => return Ok(()),
        };
        let (before, left) = self.chains.get(&event.movie_id()).copied().unwrap_or_default();
        hold!(version == before + 1, "{} has version {version} after {before}", short(record));
        hold!(qty == left + change && qty >= 0, "{}: {left} and {change} make {qty}", short(record));
        self.chains.insert(event.movie_id(), (version, qty));
        Ok(())
    }

    /// # Errors
    /// What was lost, doubled, or never came to an end.
    pub fn at_rest(
        &self,
        databases: &BTreeMap<Service, Database>,
        log: &Log,
        calls: &Calls,
    ) -> Result<(), Violation> {
        let tables = |service| &databases[&service].tables;
        for (service, database) in databases {
            hold!(database.outbox.is_empty(), "{service:?} has not sent {} events", database.outbox.len());
        }
        let reservations = &tables(Service::Reservation).reservations;
        for id in calls.accepted() {
            hold!(reservations.contains_key(&id), "r{} was accepted, and is lost", id.0.as_u128());
        }
        hold!(calls.unanswered().is_empty(), "calls are unanswered");
        calls.at_rest(tables(Service::Reservation))?;
        buried(databases, log)?;
        for row in reservations.values() {
            hold!(row.status != Status::Pending, "r{} is undecided for ever", row.id.0.as_u128());
        }
        self.sold(tables(Service::Reservation), tables(Service::Movie))?;
        notified(tables(Service::Notification), log)?;
        same_as_the_truth(tables(Service::ReservationList), tables(Service::Reservation))
    }

    /// What is allocated is what confirmed reservations hold, and the log tells of every ticket.
    fn sold(&self, reservation: &Tables, movie: &Tables) -> Result<(), Violation> {
        for movie in movie.movies.values() {
            let confirmed = reservation
                .reservations
                .values()
                .filter(|row| row.request.movie_id == movie.id && row.status == Status::Confirmed);
            let held: i64 = confirmed.map(|row| row.request.count.get()).sum();
            let id = movie.id.0.as_u128();
            hold!(movie.allocated == held, "m{id} has allocated {}, {held} are confirmed", movie.allocated);
            let told = self.chains.get(&movie.id).copied();
            let now = (movie.version, movie.qty);
            hold!(told == Some(now), "m{id} is at {now:?}, the log at {told:?}");
        }
        Ok(())
    }
}

const fn rank(status: Status) -> u8 {
    match status {
        Status::Pending => 1,
        Status::Confirmed => 2,
        Status::Cancelled(_) => 3,
    }
}

/// Published + added = left + allocated, and what is allocated is what was decided.
///
/// # Errors
/// The movie whose tickets are more or less than were published and added.
pub fn ledger(tables: &Tables) -> Result<(), Violation> {
    for movie in tables.movies.values() {
        let id = movie.id.0.as_u128();
        let all = movie.published + movie.added;
        hold!(movie.qty >= 0, "m{id} has {} tickets left", movie.qty);
        hold!(
            all == movie.qty + movie.allocated,
            "m{id}: of {all} tickets {} are left and {} allocated",
            movie.qty,
            movie.allocated
        );
        let decided = tables
            .decisions
            .values()
            .filter(|decision| decision.movie_id == movie.id && decision.outcome == Outcome::Allocated);
        let decided: i64 = decided.map(|decision| decision.count.get()).sum();
        hold!(decided == movie.allocated, "m{id} has allocated {}, decided {decided}", movie.allocated);
    }
    Ok(())
}

/// How far a reservation's own event has come.
const fn stage(event: &Event) -> Option<u8> {
    match event {
        Event::ReservationPlaced(_) => Some(1),
        Event::ReservationConfirmed(_) => Some(2),
        Event::ReservationCancelled(_) => Some(3),
        _ => None,
    }
}

/// Everything was read; what a service can't apply is among the dead letters, and nothing else is.
fn buried(databases: &BTreeMap<Service, Database>, log: &Log) -> Result<(), Violation> {
    let mut poison = BTreeSet::new();
    for (&service, database) in databases {
        hold!(database.dead_letters.is_empty(), "{service:?} keeps {:?}", database.dead_letters);
        for partition in 0..PARTITIONS {
            let entries = log.partition(topic(service), partition);
            let (at, end) = (database.offsets[partition], entries.len());
            hold!(at == end, "{service:?} is at {at} of {end} in partition {partition}");
            let poisons =
                |entry: &Entry| matches!(entry, Entry::Foreign(foreign) if foreign.poisons(service));
            let places = (0..end).filter(|offset| poisons(&entries[*offset]));
            poison.extend(places.map(|offset| (service, partition, offset)));
        }
    }
    hold!(poison == log.dead_letters, "dead letters are {:?}, poison is {poison:?}", log.dead_letters);
    Ok(())
}

/// Every outcome in the log was notified once, and nothing else was.
fn notified(tables: &Tables, log: &Log) -> Result<(), Violation> {
    let outcomes: BTreeSet<(ReservationId, bool)> = log
        .records()
        .filter_map(|record| match &record.event {
            Event::ReservationConfirmed(event) => Some((event.reservation_id, true)),
            Event::ReservationCancelled(event) => Some((event.reservation_id, false)),
            _ => None,
        })
        .collect();
    let notified: BTreeSet<_> = tables.notifications.keys().copied().collect();
    hold!(outcomes == notified, "{} outcomes, {} notifications", outcomes.len(), notified.len());
    // What is first in the log is in the saga's order: every outcome is news.
    hold!(outcomes == tables.mails, "{} outcomes, {} are sent", outcomes.len(), tables.mails.len());
    Ok(())
}

/// The list equals the reservations' own truth.
///
/// # Errors
/// The reservation that is listed otherwise than it stands.
pub fn same_as_the_truth(list: &Tables, truth: &Tables) -> Result<(), Violation> {
    let listed: BTreeMap<_, _> = list.list.iter().map(|(id, row)| (*id, row.status.as_str())).collect();
    let ended: BTreeMap<_, _> =
        truth.reservations.iter().map(|(id, row)| (*id, row.status.as_str())).collect();
    for (id, status) in &ended {
        let shown = listed.get(id).copied();
        hold!(shown == Some(*status), "r{} is {status}, listed as {shown:?}", id.0.as_u128());
    }
    hold!(listed.len() == ended.len(), "{} have ended, {} are listed", ended.len(), listed.len());
    Ok(())
}
