//! The invariant checks: after every commit, for every record that is appended to the log, and at rest.

use std::collections::{BTreeMap, BTreeSet};

use movie::movie::Outcome;
use reservation::reservation::Status;
use reservation_list::projection;
use shared_events::{Event, MovieId, ReservationId};

use crate::simulation::coverage::Coverage;
use crate::simulation::database::Database;
use crate::simulation::history::describe_record;
use crate::simulation::log::{Entry, Log, PARTITIONS, Record, topic_consumed_by};
use crate::simulation::tables::{Service, Tables};
use crate::simulation::violation::{Violation, check};
use crate::simulation::workload::Workload;

/// The invariant checks, and what they have seen before.
#[derive(Debug, Default)]
pub struct InvariantChecks {
    status_ranks: BTreeMap<ReservationId, u8>,
    listed_ranks: BTreeMap<ReservationId, u8>,
    events_by_id: BTreeMap<String, Event>,
    /// A movie's version and quantity after its last new event.
    movie_versions: BTreeMap<MovieId, (i64, i64)>,
    /// The rank of a reservation's last event of its own.
    event_ranks: BTreeMap<ReservationId, u8>,
    /// The type of movie's last event about a reservation.
    movie_events: BTreeMap<ReservationId, &'static str>,
}

impl InvariantChecks {
    /// # Errors
    /// If a commit has violated an invariant.
    pub fn check_commit(&mut self, databases: &BTreeMap<Service, Database>) -> Result<(), Violation> {
        let tables = |service| &databases[&service].tables;
        let (reservation, movie) = (tables(Service::Reservation), tables(Service::Movie));
        check_ledger(movie)?;
        for row in reservation.reservations.values() {
            let (id, rank) = (row.id.0.as_u128(), status_rank(row.status));
            let before = self.status_ranks.insert(row.id, rank).unwrap_or_default();
            check!(before <= rank, "r{id} went back to {}", row.status.as_str());
            let outcome = movie.decisions.get(&row.id).map(|decision| decision.outcome);
            let sold = row.status != Status::Confirmed || outcome == Some(Outcome::Allocated);
            check!(sold, "r{id} is confirmed, and its tickets are {outcome:?}");
        }
        for row in tables(Service::ReservationList).list.values() {
            let rank = u8::from(row.status == projection::Status::Cancelled) + 1;
            let before = self.listed_ranks.insert(row.id, rank).unwrap_or_default();
            check!(
                before <= rank,
                "r{} went back to {} in the list",
                row.id.0.as_u128(),
                row.status.as_str()
            );
        }
        Ok(())
    }

    /// Checks a record before it is appended to the log: events are in order, and a redelivery equals the first delivery.
    ///
    /// # Errors
    /// If an invariant is violated.
    pub fn check_append(&mut self, record: &Record, coverage: &mut Coverage) -> Result<(), Violation> {
        if let Some(before) = self.events_by_id.get(&record.id.0) {
            check!(*before == record.event, "{} comes again with another content", describe_record(record));
            coverage.count("a record comes again");
            let last_rank = record.event.reservation_id().and_then(|id| self.event_ranks.get(&id)).copied();
            if last_rank > event_rank(&record.event) {
                coverage.count("a record comes again after a newer one");
            }
            return Ok(());
        }
        self.events_by_id.insert(record.id.0.clone(), record.event.clone());
        self.check_order(record)
    }

    fn check_order(&mut self, record: &Record) -> Result<(), Violation> {
        let (Some(rank), Some(id)) = (event_rank(&record.event), record.event.reservation_id()) else {
            self.check_movie_event_order(&record.event, record)?;
            return self.check_version_chain(&record.event, record);
        };
        let before = self.event_ranks.insert(id, rank).unwrap_or_default();
        let in_order = matches!((before, rank), (0, 1) | (1, 2 | 3) | (2, 3));
        check!(in_order, "{} is out of order: {before} was published before", describe_record(record));
        Ok(())
    }

    /// A placement is allocated or rejected once, and only an allocation is released.
    fn check_movie_event_order(&mut self, event: &Event, record: &Record) -> Result<(), Violation> {
        let Some(id) = event.reservation_id() else { return Ok(()) };
        let before = self.movie_events.insert(id, event.event_type());
        let in_order = match event {
            Event::TicketsReleased(_) => before == Some("TicketsAllocated"),
            _ => before.is_none(),
        };
        check!(in_order, "{} after {before:?}", describe_record(record));
        Ok(())
    }

    /// Each event of a movie has the next version, and its quantity follows from the one before.
    fn check_version_chain(&mut self, event: &Event, record: &Record) -> Result<(), Violation> {
        let (change, version, qty) = match event {
            Event::MoviePublished(event) => (event.qty, event.version, event.qty),
            Event::MovieUpdated(event) => (0, event.version, event.qty),
            Event::TicketsAdded(event) => (event.count.get(), event.version, event.qty),
            Event::TicketsAllocated(event) => (-event.count.get(), event.version, event.qty),
            Event::TicketsReleased(event) => (event.count.get(), event.version, event.qty),
            _ => return Ok(()),
        };
        let (before, left) = self.movie_versions.get(&event.movie_id()).copied().unwrap_or_default();
        check!(version == before + 1, "{} has version {version} after {before}", describe_record(record));
        check!(
            qty == left + change && qty >= 0,
            "{}: {left} and {change} make {qty}",
            describe_record(record)
        );
        self.movie_versions.insert(event.movie_id(), (version, qty));
        Ok(())
    }

    /// # Errors
    /// If something is lost, duplicated or not completed.
    pub fn check_at_rest(
        &self,
        databases: &BTreeMap<Service, Database>,
        log: &Log,
        workload: &Workload,
    ) -> Result<(), Violation> {
        let tables = |service| &databases[&service].tables;
        for (service, database) in databases {
            check!(database.outbox.is_empty(), "{service:?} has not sent {} events", database.outbox.len());
        }
        let reservations = &tables(Service::Reservation).reservations;
        for id in workload.accepted_reservations() {
            check!(reservations.contains_key(&id), "r{} was accepted, and is lost", id.0.as_u128());
        }
        check!(workload.unanswered().is_empty(), "calls are unanswered");
        workload.check_at_rest(tables(Service::Reservation))?;
        check_dead_letters(databases, log)?;
        for row in reservations.values() {
            check!(row.status != Status::Pending, "r{} is undecided for ever", row.id.0.as_u128());
        }
        self.check_allocations(tables(Service::Reservation), tables(Service::Movie))?;
        check_notifications(tables(Service::Notification), log)?;
        check_reservation_list(tables(Service::ReservationList), tables(Service::Reservation))
    }

    /// The allocated tickets are those of the confirmed reservations, and the log ends with the movie's version and quantity.
    fn check_allocations(&self, reservation: &Tables, movie: &Tables) -> Result<(), Violation> {
        for movie in movie.movies.values() {
            let confirmed = reservation
                .reservations
                .values()
                .filter(|row| row.request.movie_id == movie.id && row.status == Status::Confirmed);
            let held: i64 = confirmed.map(|row| row.request.count.get()).sum();
            let id = movie.id.0.as_u128();
            check!(movie.allocated == held, "m{id} has allocated {}, {held} are confirmed", movie.allocated);
            let in_log = self.movie_versions.get(&movie.id).copied();
            let now = (movie.version, movie.qty);
            check!(in_log == Some(now), "m{id} is at {now:?}, the log at {in_log:?}");
        }
        Ok(())
    }
}

const fn status_rank(status: Status) -> u8 {
    match status {
        Status::Pending => 1,
        Status::Confirmed => 2,
        Status::Cancelled(_) => 3,
    }
}

/// Checks that published + added = left + allocated, and that the allocated tickets are those of the decisions.
///
/// # Errors
/// If that is not so for a movie.
pub fn check_ledger(tables: &Tables) -> Result<(), Violation> {
    for movie in tables.movies.values() {
        let id = movie.id.0.as_u128();
        let all = movie.published + movie.added;
        check!(movie.qty >= 0, "m{id} has {} tickets left", movie.qty);
        check!(
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
        check!(decided == movie.allocated, "m{id} has allocated {}, decided {decided}", movie.allocated);
    }
    Ok(())
}

/// The place of a reservation's own event in the saga.
const fn event_rank(event: &Event) -> Option<u8> {
    match event {
        Event::ReservationPlaced(_) => Some(1),
        Event::ReservationConfirmed(_) => Some(2),
        Event::ReservationCancelled(_) => Some(3),
        _ => None,
    }
}

/// All records are consumed, and the dead letters are exactly the records that a service can't apply.
fn check_dead_letters(databases: &BTreeMap<Service, Database>, log: &Log) -> Result<(), Violation> {
    let mut poison = BTreeSet::new();
    for (&service, database) in databases {
        check!(database.dead_letters.is_empty(), "{service:?} keeps {:?}", database.dead_letters);
        for partition in 0..PARTITIONS {
            let entries = log.partition(topic_consumed_by(service), partition);
            let (position, end) = (database.offsets[partition], entries.len());
            check!(position == end, "{service:?} is at {position} of {end} in partition {partition}");
            let is_poison =
                |entry: &Entry| matches!(entry, Entry::Foreign(foreign) if foreign.is_poison_for(service));
            let offsets = (0..end).filter(|offset| is_poison(&entries[*offset]));
            poison.extend(offsets.map(|offset| (service, partition, offset)));
        }
    }
    check!(poison == log.dead_letters, "dead letters are {:?}, poison is {poison:?}", log.dead_letters);
    Ok(())
}

/// The notifications are exactly the outcomes in the log.
fn check_notifications(tables: &Tables, log: &Log) -> Result<(), Violation> {
    let outcomes: BTreeSet<(ReservationId, bool)> = log
        .records()
        .filter_map(|record| match &record.event {
            Event::ReservationConfirmed(event) => Some((event.reservation_id, true)),
            Event::ReservationCancelled(event) => Some((event.reservation_id, false)),
            _ => None,
        })
        .collect();
    let notified: BTreeSet<_> = tables.notifications.keys().copied().collect();
    check!(outcomes == notified, "{} outcomes, {} notifications", outcomes.len(), notified.len());
    // First deliveries are in the saga's order, so every outcome is sent.
    check!(outcomes == tables.mails, "{} outcomes, {} are sent", outcomes.len(), tables.mails.len());
    Ok(())
}

/// Checks that the reservation list agrees with the reservations.
///
/// # Errors
/// If a reservation is missing in the list, or has another status there.
pub fn check_reservation_list(list: &Tables, reservation: &Tables) -> Result<(), Violation> {
    let listed: BTreeMap<_, _> = list.list.iter().map(|(id, row)| (*id, row.status.as_str())).collect();
    let ended: BTreeMap<_, _> =
        reservation.reservations.iter().map(|(id, row)| (*id, row.status.as_str())).collect();
    for (id, status) in &ended {
        let shown = listed.get(id).copied();
        check!(shown == Some(*status), "r{} is {status}, listed as {shown:?}", id.0.as_u128());
    }
    check!(listed.len() == ended.len(), "{} have ended, {} are listed", ended.len(), listed.len());
    Ok(())
}
