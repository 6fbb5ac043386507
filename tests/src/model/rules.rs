//! What must hold: of each transaction, of all databases at every moment, and at rest.

use movie::movie::{self as stock, Outcome};
use notification::notification::Outcome as Told;
use reservation::reservation::{self as seat, Status};
use reservation_list::projection as listed;
use shared_events::{CancelReason, Event, ReservationId};

use crate::simulation::checks::{self, Violation, hold};
use crate::simulation::tables::{Tables, Work, Writes};

/// Reservations of a case at most; they are numbered from 1.
pub const RESERVATIONS_MAX: usize = 4;

/// How far one reservation is in one database. What the others hold is [`Mark::default`] there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub status: Option<Status>,
    pub decided: Option<Outcome>,
    pub listed: Option<listed::Status>,
    pub told_confirmed: bool,
    pub told_cancelled: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Marks(pub [Mark; RESERVATIONS_MAX]);

pub fn number(id: ReservationId) -> usize {
    usize::try_from(id.0.as_u128()).unwrap_or(usize::MAX) - 1
}

impl Marks {
    /// # Panics
    /// For a reservation that no case has.
    pub fn of(tables: &Tables) -> Self {
        let mut marks = [Mark::default(); RESERVATIONS_MAX];
        for row in tables.reservations.values() {
            marks[number(row.id)].status = Some(row.status);
        }
        for (id, decision) in &tables.decisions {
            marks[number(*id)].decided = Some(decision.outcome);
        }
        for row in tables.list.values() {
            marks[number(row.id)].listed = Some(row.status);
        }
        for row in tables.notifications.values() {
            match row.outcome {
                Told::Confirmed => marks[number(row.reservation_id)].told_confirmed = true,
                Told::Cancelled(_) => marks[number(row.reservation_id)].told_cancelled = true,
            }
        }
        Self(marks)
    }
}

/// # Errors
/// What one service's transaction did that it must not.
pub fn transaction(before: &Tables, after: &Tables, work: &Work, writes: &Writes) -> Result<(), Violation> {
    checks::ledger(after)?;
    forward(&Marks::of(before), &Marks::of(after))?;
    unchanged(before, after)?;
    answered(work, writes)?;
    if let Writes::Movie(writes) = writes {
        chained(before, after, writes)?;
    }
    if let (Work::Sweep, Writes::Reservation(writes)) = (work, writes) {
        hold!(writes.changed.len() == 1, "a deadline passes, and nothing is decided");
    }
    Ok(())
}

/// Everything moves only forward, and what was decided stays so.
fn forward(before: &Marks, after: &Marks) -> Result<(), Violation> {
    for (number, (before, after)) in (1..).zip(before.0.iter().zip(after.0)) {
        let status = match (before.status, after.status) {
            (None, None | Some(Status::Pending)) | (Some(Status::Pending), Some(_)) => true,
            (Some(Status::Confirmed), Some(status)) => {
                matches!(status, Status::Confirmed | Status::Cancelled(CancelReason::Customer))
            }
            (before, after) => before == after,
        };
        hold!(status, "r{number} goes from {:?} to {:?}", before.status, after.status);
        let decided = match (before.decided, after.decided) {
            // Within one batch tickets may be allocated and released.
            (None, _) | (Some(Outcome::Allocated), Some(Outcome::Released)) => true,
            (before, after) => before == after,
        };
        hold!(decided, "r{number} was {:?}, and is {:?}", before.decided, after.decided);
        hold!(before.listed <= after.listed, "r{number} goes back to {:?} in the list", after.listed);
    }
    Ok(())
}

/// What was said in a row stays said, whatever its status.
fn unchanged(before: &Tables, after: &Tables) -> Result<(), Violation> {
    for (id, row) in &before.reservations {
        let kept = after.reservations.get(id).is_some_and(|after| after.request == row.request);
        hold!(kept, "r{} is another one", id.0.as_u128());
    }
    for (key, row) in &before.notifications {
        hold!(after.notifications.get(key) == Some(row), "a notification is another one");
    }
    for (id, row) in &before.list {
        let kept = after.list.get(id).is_some_and(|after| after.count == row.count);
        hold!(kept, "r{} is another one in the list", id.0.as_u128());
    }
    Ok(())
}

/// Each call of a case asks for what can be done, and so does the same call again.
fn answered(work: &Work, writes: &Writes) -> Result<(), Violation> {
    let done = match (work, writes) {
        (Work::Reservation(_), Writes::Reservation(writes)) => {
            matches!(writes.answers[..], [seat::Answer::Done { .. }])
        }
        (Work::Movie(_), Writes::Movie(writes)) => matches!(writes.answers[..], [stock::Answer::Done(_)]),
        _ => true,
    };
    hold!(done, "a call is refused");
    Ok(())
}

/// The events of a movie go on where its row stood, one version each, and end where its row stands.
fn chained(before: &Tables, after: &Tables, writes: &stock::Writes) -> Result<(), Violation> {
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
                    hold!(!enough, "{} are refused, and {:?} are left", event.count.get(), event.qty);
                    continue;
                }
                _ => continue,
            };
            if event.movie_id() == movie.id {
                at = (at.0 + 1, at.1 + change);
                hold!(at == (version, qty), "{} says {:?}, not {at:?}", event.event_type(), (version, qty));
            }
        }
        let (now, id) = ((movie.version, movie.qty), movie.id.0.as_u128());
        hold!(at == now, "m{id} is at {now:?}, and its events at {at:?}");
    }
    Ok(())
}

/// # Errors
/// Why `event` must not be told after those that were about the same.
pub fn told<'a>(before: impl Iterator<Item = &'a Event>, event: &Event) -> Result<(), Violation> {
    let before: Vec<&str> = before.map(Event::event_type).collect();
    let told = |event_type| before.contains(&event_type);
    hold!(!told(event.event_type()), "{} is told twice", event.event_type());
    let in_order = match event {
        Event::ReservationConfirmed(_) => told("ReservationPlaced") && !told("ReservationCancelled"),
        Event::ReservationCancelled(_) => told("ReservationPlaced"),
        Event::TicketsAllocated(_) => !told("AllocationRejected"),
        Event::AllocationRejected(_) => !told("TicketsAllocated"),
        Event::TicketsReleased(_) => told("TicketsAllocated"),
        _ => true,
    };
    hold!(in_order, "{} is told after {}", event.event_type(), before.join(", "));
    Ok(())
}

/// # Errors
/// How the services contradict one another.
pub fn together(
    reservation: &Marks,
    movie: &Marks,
    notification: &Marks,
    list: &Marks,
) -> Result<(), Violation> {
    for index in 0..RESERVATIONS_MAX {
        let (status, number) = (reservation.0[index].status, index + 1);
        let decided = movie.0[index].decided;
        let sold = status != Some(Status::Confirmed) || decided == Some(Outcome::Allocated);
        hold!(sold, "r{number} is confirmed, and its tickets are {decided:?}");
        let cancelled = matches!(status, Some(Status::Cancelled(_)));
        let ended = cancelled || status == Some(Status::Confirmed);
        let listed = list.0[index].listed;
        let true_there = match listed {
            None => true,
            Some(listed::Status::Confirmed) => ended,
            Some(listed::Status::Cancelled) => cancelled,
        };
        hold!(true_there, "r{number} is {status:?}, and listed as {listed:?}");
        let told = notification.0[index];
        let told = (!told.told_confirmed || ended) && (!told.told_cancelled || cancelled);
        hold!(told, "r{number} is {status:?}, and something else was notified");
    }
    Ok(())
}

/// The four services' tables.
pub struct All<'a> {
    pub reservation: &'a Tables,
    pub movie: &'a Tables,
    pub notification: &'a Tables,
    pub list: &'a Tables,
}

/// # Errors
/// What is not as promised when no service has anything left to do.
pub fn at_rest<'a>(
    all: &All,
    accepted: impl Iterator<Item = ReservationId>,
    told: impl Iterator<Item = &'a Event>,
) -> Result<(), Violation> {
    for id in accepted {
        let number = id.0.as_u128();
        let Some(row) = all.reservation.reservations.get(&id) else {
            return Err(Violation::new(format!("r{number} was accepted, and is lost")));
        };
        hold!(row.status != Status::Pending, "r{number} is undecided for ever");
        let decided = all.movie.decisions.get(&id).map(|decision| decision.outcome);
        let agreed = matches!(
            (row.status, decided),
            (Status::Confirmed, Some(Outcome::Allocated))
                | (Status::Cancelled(_), Some(Outcome::Rejected | Outcome::Released | Outcome::Void))
        );
        hold!(agreed, "r{number} is {:?}, and its tickets are {decided:?}", row.status);
    }
    for movie in all.movie.movies.values() {
        let rows = all.reservation.reservations.values();
        let held: i64 = rows
            .filter(|row| row.request.movie_id == movie.id && row.status == Status::Confirmed)
            .map(|row| row.request.count.get())
            .sum();
        let id = movie.id.0.as_u128();
        hold!(movie.allocated == held, "m{id} has allocated {}, {held} are confirmed", movie.allocated);
    }
    let outcomes =
        told.filter(|event| matches!(event, Event::ReservationConfirmed(_) | Event::ReservationCancelled(_)));
    let (outcomes, notified) = (outcomes.count(), all.notification.notifications.len());
    hold!(outcomes == notified, "{outcomes} outcomes, {notified} notifications");
    checks::same_as_the_truth(all.list, all.reservation)
}
