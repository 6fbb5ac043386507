//! The invariant checks: of each transaction, of all databases in every state, and at rest.

use movie::movie::{self as movie_domain, Outcome};
use notification::notification::Outcome as NotifiedOutcome;
use reservation::reservation::{self as reservation_domain, Status};
use reservation_list::projection;
use shared_events::{CancelReason, Event, ReservationId};

use crate::simulation::checks;
use crate::simulation::tables::{Tables, Work, Writes};
use crate::simulation::violation::{Violation, check};

/// The maximum of reservations in a case. They are numbered from 1.
pub const RESERVATIONS_MAX: usize = 4;

/// The progress of one reservation in one service. The fields of other services have their defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub status: Option<Status>,
    pub decided: Option<Outcome>,
    pub listed: Option<projection::Status>,
    pub notified_confirmed: bool,
    pub notified_cancelled: bool,
}

/// The progress of all reservations in one service.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllProgress(pub [Progress; RESERVATIONS_MAX]);

pub fn reservation_index(id: ReservationId) -> usize {
    usize::try_from(id.0.as_u128()).unwrap_or(usize::MAX) - 1
}

impl AllProgress {
    /// # Panics
    /// If a reservation's number is above the maximum.
    pub fn from_tables(tables: &Tables) -> Self {
        let mut progress = [Progress::default(); RESERVATIONS_MAX];
        for row in tables.reservations.values() {
            progress[reservation_index(row.id)].status = Some(row.status);
        }
        for (id, decision) in &tables.decisions {
            progress[reservation_index(*id)].decided = Some(decision.outcome);
        }
        for row in tables.list.values() {
            progress[reservation_index(row.id)].listed = Some(row.status);
        }
        for row in tables.notifications.values() {
            match row.outcome {
                NotifiedOutcome::Confirmed => {
                    progress[reservation_index(row.reservation_id)].notified_confirmed = true
                }
                NotifiedOutcome::Cancelled(_) => {
                    progress[reservation_index(row.reservation_id)].notified_cancelled = true
                }
            }
        }
        Self(progress)
    }
}

/// Checks one transaction of a service.
///
/// # Errors
/// If it violates an invariant.
pub fn check_transaction(
    before: &Tables,
    after: &Tables,
    work: &Work,
    writes: &Writes,
) -> Result<(), Violation> {
    checks::check_ledger(after)?;
    check_forward(&AllProgress::from_tables(before), &AllProgress::from_tables(after))?;
    check_unchanged(before, after)?;
    check_answers(work, writes)?;
    if let Writes::Movie(writes) = writes {
        check_version_chain(before, after, writes)?;
    }
    if let (Work::Sweep, Writes::Reservation(writes)) = (work, writes) {
        check!(writes.changed.len() == 1, "a deadline passes, and nothing is decided");
    }
    Ok(())
}

/// Every status only moves forward, and decisions are final.
fn check_forward(before: &AllProgress, after: &AllProgress) -> Result<(), Violation> {
    for (number, (before, after)) in (1..).zip(before.0.iter().zip(after.0)) {
        let status = match (before.status, after.status) {
            (None, None | Some(Status::Pending)) | (Some(Status::Pending), Some(_)) => true,
            (Some(Status::Confirmed), Some(status)) => {
                matches!(status, Status::Confirmed | Status::Cancelled(CancelReason::Customer))
            }
            (before, after) => before == after,
        };
        check!(status, "r{number} goes from {:?} to {:?}", before.status, after.status);
        let decided = match (before.decided, after.decided) {
            // One batch may allocate and release tickets.
            (None, _) | (Some(Outcome::Allocated), Some(Outcome::Released)) => true,
            (before, after) => before == after,
        };
        check!(decided, "r{number} was {:?}, and is {:?}", before.decided, after.decided);
        check!(before.listed <= after.listed, "r{number} goes back to {:?} in the list", after.listed);
    }
    Ok(())
}

/// The content of a row, except for its status, never changes.
fn check_unchanged(before: &Tables, after: &Tables) -> Result<(), Violation> {
    for (id, row) in &before.reservations {
        let kept = after.reservations.get(id).is_some_and(|after| after.request == row.request);
        check!(kept, "r{} is another one", id.0.as_u128());
    }
    for (key, row) in &before.notifications {
        check!(after.notifications.get(key) == Some(row), "a notification is another one");
    }
    for (id, row) in &before.list {
        let kept = after.list.get(id).is_some_and(|after| after.count == row.count);
        check!(kept, "r{} is another one in the list", id.0.as_u128());
    }
    Ok(())
}

/// Each call of a case succeeds, and so does its repeat.
fn check_answers(work: &Work, writes: &Writes) -> Result<(), Violation> {
    let succeeds = match (work, writes) {
        (Work::Reservation(_), Writes::Reservation(writes)) => {
            matches!(writes.answers[..], [reservation_domain::Answer::Done { .. }])
        }
        (Work::Movie(_), Writes::Movie(writes)) => {
            matches!(writes.answers[..], [movie_domain::Answer::Done(_)])
        }
        _ => true,
    };
    check!(succeeds, "a call is refused");
    Ok(())
}

/// A movie's events start from its old row, increase the version by one each, and end with its new row.
fn check_version_chain(
    before: &Tables,
    after: &Tables,
    writes: &movie_domain::Writes,
) -> Result<(), Violation> {
    for movie in after.movies.values() {
        let old = before.movies.get(&movie.id);
        let mut at = old.map_or((0, 0), |old| (old.version, old.qty));
        for (event, _) in &writes.events {
            let (change, version, qty) = match event {
                Event::MoviePublished(event) => (event.qty, event.version, event.qty),
                Event::TicketsAdded(event) => (event.count.get(), event.version, event.qty),
                Event::TicketsAllocated(event) => (-event.count.get(), event.version, event.qty),
                Event::TicketsReleased(event) => (event.count.get(), event.version, event.qty),
                Event::AllocationRejected(event) => {
                    let enough = event.qty.is_some_and(|qty| qty >= event.count.get());
                    check!(!enough, "{} are refused, and {:?} are left", event.count.get(), event.qty);
                    continue;
                }
                _ => continue,
            };
            if event.movie_id() == movie.id {
                at = (at.0 + 1, at.1 + change);
                check!(at == (version, qty), "{} says {:?}, not {at:?}", event.event_type(), (version, qty));
            }
        }
        let (now, id) = ((movie.version, movie.qty), movie.id.0.as_u128());
        check!(at == now, "m{id} is at {now:?}, and its events at {at:?}");
    }
    Ok(())
}

/// Checks that `event` may follow the events that were published before about the same subject.
///
/// # Errors
/// If it may not.
pub fn check_event_order<'a>(
    before: impl Iterator<Item = &'a Event>,
    event: &Event,
) -> Result<(), Violation> {
    let before: Vec<&str> = before.map(Event::event_type).collect();
    let published = |event_type| before.contains(&event_type);
    check!(!published(event.event_type()), "{} is published twice", event.event_type());
    let in_order = match event {
        Event::ReservationConfirmed(_) => {
            published("ReservationPlaced") && !published("ReservationCancelled")
        }
        Event::ReservationCancelled(_) => published("ReservationPlaced"),
        Event::TicketsAllocated(_) => !published("AllocationRejected"),
        Event::AllocationRejected(_) => !published("TicketsAllocated"),
        Event::TicketsReleased(_) => published("TicketsAllocated"),
        _ => true,
    };
    check!(in_order, "{} is published after {}", event.event_type(), before.join(", "));
    Ok(())
}

/// Checks that the services agree with each other.
///
/// # Errors
/// If they contradict each other.
pub fn check_consistency(
    reservation: &AllProgress,
    movie: &AllProgress,
    notification: &AllProgress,
    list: &AllProgress,
) -> Result<(), Violation> {
    for index in 0..RESERVATIONS_MAX {
        let (status, number) = (reservation.0[index].status, index + 1);
        let decided = movie.0[index].decided;
        let sold = status != Some(Status::Confirmed) || decided == Some(Outcome::Allocated);
        check!(sold, "r{number} is confirmed, and its tickets are {decided:?}");
        let cancelled = matches!(status, Some(Status::Cancelled(_)));
        let ended = cancelled || status == Some(Status::Confirmed);
        let listed = list.0[index].listed;
        let list_agrees = match listed {
            None => true,
            Some(projection::Status::Confirmed) => ended,
            Some(projection::Status::Cancelled) => cancelled,
        };
        check!(list_agrees, "r{number} is {status:?}, and listed as {listed:?}");
        let notified = notification.0[index];
        let notified_agrees =
            (!notified.notified_confirmed || ended) && (!notified.notified_cancelled || cancelled);
        check!(notified_agrees, "r{number} is {status:?}, and something else was notified");
    }
    Ok(())
}

/// The tables of the four services.
pub struct AllTables<'a> {
    pub reservation: &'a Tables,
    pub movie: &'a Tables,
    pub notification: &'a Tables,
    pub list: &'a Tables,
}

/// Checks the state in which no service has anything left to do.
///
/// # Errors
/// If it violates an invariant.
pub fn check_at_rest<'a>(
    tables: &AllTables,
    accepted: impl Iterator<Item = ReservationId>,
    published: impl Iterator<Item = &'a Event>,
) -> Result<(), Violation> {
    for id in accepted {
        let number = id.0.as_u128();
        let Some(row) = tables.reservation.reservations.get(&id) else {
            return Err(Violation::new(format!("r{number} was accepted, and is lost")));
        };
        check!(row.status != Status::Pending, "r{number} is undecided for ever");
        let decided = tables.movie.decisions.get(&id).map(|decision| decision.outcome);
        let agreed = matches!(
            (row.status, decided),
            (Status::Confirmed, Some(Outcome::Allocated))
                | (Status::Cancelled(_), Some(Outcome::Rejected | Outcome::Released | Outcome::Void))
        );
        check!(agreed, "r{number} is {:?}, and its tickets are {decided:?}", row.status);
    }
    for movie in tables.movie.movies.values() {
        let rows = tables.reservation.reservations.values();
        let held: i64 = rows
            .filter(|row| row.request.movie_id == movie.id && row.status == Status::Confirmed)
            .map(|row| row.request.count.get())
            .sum();
        let id = movie.id.0.as_u128();
        check!(movie.allocated == held, "m{id} has allocated {}, {held} are confirmed", movie.allocated);
    }
    let outcomes = published
        .filter(|event| matches!(event, Event::ReservationConfirmed(_) | Event::ReservationCancelled(_)));
    let (outcomes, notified) = (outcomes.count(), tables.notification.notifications.len());
    check!(outcomes == notified, "{outcomes} outcomes, {notified} notifications");
    checks::check_reservation_list(tables.list, tables.reservation)
}
