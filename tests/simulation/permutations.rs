//! Any order of repeats ends the same. For every course of a saga and every consumer: each of the reservation's events
//! once or twice, in every order, cut into batches, with the calls that concern it in between. What is told on the way
//! is compared too: an effect that happens twice, or not at all, is another end.
//!
//! Where an order makes a difference, it is the one that the saga means, and no other: who comes first decides between
//! the stock's answer, the customer and the deadline; a cancellation that is read before its placement leaves a void
//! decision instead of a release, and the same stock; a confirmation that is read after the cancellation is recorded,
//! but neither sent nor listed.

mod courses;

use std::collections::BTreeSet;
use std::fmt::Debug;

use courses::{COUNT, Course, DELIVERED, ID, MOVIE, Turn, asked, commit};
use movie::movie::Outcome;
use reservation::reservation::Status;
use reservation_list::projection as listed;
use shared_events::{CancelReason, Event};
use theater_tests::simulation::bus::Record;
use theater_tests::simulation::tables::{Service, Tables, Work, Writes};

/// What can be moved about: a record that is read, or a call.
#[derive(Clone, Copy, Debug)]
enum Element<'a> {
    Read(&'a Record),
    Ask(Turn),
}

impl Element<'_> {
    /// An event's type, or a call.
    fn is(&self, event_type: &str) -> bool {
        matches!(self, Self::Read(record) if record.event.event_type() == event_type)
    }

    fn asks(&self, turn: Turn) -> bool {
        matches!(self, Self::Ask(asked) if *asked == turn)
    }
}

/// One order, and what came of it.
struct Case<'a> {
    order: &'a [Element<'a>],
    tables: &'a Tables,
    writes: &'a [Writes],
    told: &'a [Event],
}

impl Case<'_> {
    /// Where it is first.
    fn first(&self, wanted: impl Fn(&Element<'_>) -> bool) -> Option<usize> {
        self.order.iter().position(wanted)
    }

    fn read(&self, event_type: &str) -> Option<usize> {
        self.first(|element| element.is(event_type))
    }

    fn asked(&self, turn: Turn) -> Option<usize> {
        self.first(|element| element.asks(turn))
    }

    fn told(&self) -> Vec<&'static str> {
        self.told.iter().map(Event::event_type).collect()
    }

    fn same<T: PartialEq + Debug>(&self, what: &str, is: &T, expected: &T) {
        assert!(is == expected, "{what}: {is:?}, expected {expected:?}, after {}", self.described());
    }

    fn described(&self) -> String {
        let name = |element: &Element<'_>| match element {
            Element::Read(record) => record.event.event_type().to_owned(),
            Element::Ask(turn) => format!("{turn:?}"),
        };
        self.order.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

/// Plays every order of the elements, each of them once or twice, in every batching. Answers how many.
fn every_case(
    start: &Tables,
    service: Service,
    elements: &[Element<'_>],
    mut check: impl FnMut(&Case<'_>),
) -> usize {
    let mut cases = 0;
    for twice in 0..1_usize << elements.len() {
        let mut left: Vec<usize> = (0..elements.len()).map(|number| 1 + (twice >> number & 1)).collect();
        orders(elements, &mut left, &mut Vec::new(), &mut |order| {
            for cuts in cuts(order.len()) {
                cases += 1;
                let mut tables = start.clone();
                let (writes, told) = play(&mut tables, service, order, cuts);
                check(&Case { order, tables: &tables, writes: &writes, told: &told });
            }
        });
    }
    cases
}

/// Every distinct order of what is left.
fn orders<'a>(
    elements: &[Element<'a>],
    left: &mut [usize],
    order: &mut Vec<Element<'a>>,
    visit: &mut impl FnMut(&[Element<'a>]),
) {
    if left.iter().all(|left| *left == 0) {
        return visit(order);
    }
    for number in 0..elements.len() {
        if left[number] > 0 {
            left[number] -= 1;
            order.push(elements[number]);
            orders(elements, left, order, visit);
            order.pop();
            left[number] += 1;
        }
    }
}

/// Where batches end, as bits: everywhere they can; in long orders at one place, none or all; in longer ones none or all.
fn cuts(length: usize) -> Vec<usize> {
    let places = length.saturating_sub(1);
    let all = (1 << places) - 1;
    match length {
        0..=5 => (0..=all).collect(),
        6 => (0..places).map(|place| 1 << place).chain([0, all]).collect(),
        _ => vec![0, all],
    }
}

fn play(
    tables: &mut Tables,
    service: Service,
    order: &[Element<'_>],
    cuts: usize,
) -> (Vec<Writes>, Vec<Event>) {
    let (mut all, mut told, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    let mut transaction = |work: Work| {
        let (writes, events) = commit(tables, &work);
        all.push(writes);
        told.extend(events);
    };
    for (place, element) in order.iter().enumerate() {
        match element {
            Element::Read(record) => batch.push(record.delivery()),
            Element::Ask(turn) => {
                transaction(Work::Batch(service, std::mem::take(&mut batch)));
                transaction(asked(*turn));
            }
        }
        if cuts >> place & 1 == 1 {
            transaction(Work::Batch(service, std::mem::take(&mut batch)));
        }
    }
    transaction(Work::Batch(service, batch));
    (all, told)
}

fn reads(records: &[Record]) -> Vec<Element<'_>> {
    records.iter().map(Element::Read).collect()
}

/// The first occurrences, which are in the saga's order.
fn before(first: Option<usize>, second: Option<usize>) -> bool {
    first.is_some_and(|first| second.is_none_or(|second| first < second))
}

/// Plays all courses; one set of ends for each, as the course's own comes first.
fn played<E: Ord>(
    mut play: impl FnMut(&Course, &mut BTreeSet<E>) -> usize,
) -> Vec<(&'static str, BTreeSet<E>)> {
    let mut cases = 0;
    let ends = Course::all().into_iter().map(|course| {
        let mut ends = BTreeSet::new();
        cases += play(&course, &mut ends);
        (course.name, ends)
    });
    let ends: Vec<_> = ends.collect();
    println!("{cases} cases");
    ends
}

#[test]
fn courses_differ() {
    let distinct: BTreeSet<_> = Course::all().iter().map(Course::events).collect();
    // Confirmed; and cancelled; rejected for either reason; the customer or the deadline first, and given back or rejected.
    assert_eq!(distinct.len(), 9, "{distinct:?}");
    for course in Course::all() {
        assert_ne!(course.after.reservations[&ID].status, Status::Pending, "{}", course.name);
    }
}

#[test]
fn the_stock_ends_the_same_in_any_order() {
    let ends = played(|course, ends| {
        let mut cases = 0;
        for deliveries in 0..=usize::from(course.qty.is_some()) {
            let mut elements = reads(&course.reservations);
            elements.extend([Element::Ask(Turn::Deliver)].into_iter().take(deliveries));
            let delivered = DELIVERED * i64::try_from(deliveries).unwrap();
            let mut stocks = BTreeSet::new();
            cases += every_case(&course.before, Service::Movie, &elements, |case| {
                let outcome = allocated_and_released(course, case);
                if let Some(movie) = case.tables.movies.get(&MOVIE) {
                    let all = course.qty.unwrap_or_default() + delivered;
                    case.same("the stock", &(movie.qty + movie.allocated), &all);
                    stocks.insert(movie.qty);
                }
                ends.insert(format!("{outcome:?}"));
            });
            // A reservation that came to be cancelled has cost no ticket, in whatever order its events were read.
            if course.reservations.iter().any(|record| matches!(record.event, Event::ReservationCancelled(_)))
            {
                assert!(stocks.len() <= 1, "{}: {stocks:?} are left", course.name);
            }
        }
        cases
    });
    for (name, outcomes) in ends {
        println!("{name}: {outcomes:?}");
    }
}

/// What the stock must have decided and told, from the order alone.
fn allocated_and_released(course: &Course, case: &Case<'_>) -> Outcome {
    let (placed, cancelled) = (case.read("ReservationPlaced"), case.read("ReservationCancelled"));
    let delivered = case.asked(Turn::Deliver);
    let there = course.qty.map(|qty| if before(delivered, placed) { qty + DELIVERED } else { qty });
    let (outcome, mut told) = if before(cancelled, placed) {
        (Outcome::Void, vec![])
    } else if there.is_none_or(|there| there < COUNT) {
        (Outcome::Rejected, vec!["AllocationRejected"])
    } else if cancelled.is_some() {
        (Outcome::Released, vec!["TicketsAllocated", "TicketsReleased"])
    } else {
        (Outcome::Allocated, vec!["TicketsAllocated"])
    };
    if delivered.is_some() {
        told.push("TicketsAdded");
    }
    let mut are = case.told();
    are.sort_unstable();
    told.sort_unstable();
    case.same("events of the stock", &are, &told);
    let decided: Vec<_> = case.tables.decisions.values().map(|decision| decision.outcome).collect();
    case.same("decisions", &decided, &vec![outcome]);
    if let (Some(movie), Some(qty)) = (case.tables.movies.get(&MOVIE), course.qty) {
        let held = if outcome == Outcome::Allocated { COUNT } else { 0 };
        let added = if delivered.is_some() { DELIVERED } else { 0 };
        case.same("left", &movie.qty, &(qty + added - held));
        let changes = told.iter().filter(|told| **told != "AllocationRejected").count();
        case.same("the version", &movie.version, &(1 + i64::try_from(changes).expect("few changes")));
    }
    outcome
}

#[test]
fn a_reservation_ends_the_same_in_any_order() {
    let mut seen = BTreeSet::new();
    let ends = played(|course, ends| {
        let mut cases = 0;
        // Several courses get the same answers.
        if !seen.insert(course.answers()) {
            return cases;
        }
        for call in [None, Some(Turn::Cancel), Some(Turn::Expire)] {
            let mut elements = reads(&course.movies);
            elements.push(Element::Ask(Turn::Place));
            elements.extend(call.map(Element::Ask));
            let mut statuses = BTreeSet::new();
            cases += every_case(&course.placed, Service::Reservation, &elements, |case| {
                let status = decided(course, case);
                statuses.insert(format!("{status:?}"));
            });
            // The log alone says how it ends.
            assert!(call.is_some() || statuses.len() == 1, "{}: {statuses:?}", course.name);
            ends.extend(statuses);
        }
        cases
    });
    for (name, statuses) in ends {
        println!("{name}: {statuses:?}");
    }
}

/// What the reservation must have become and told, from the order alone: who comes first decides.
fn decided(course: &Course, case: &Case<'_>) -> Status {
    let cancelled = |reason| (Status::Cancelled(reason), vec!["ReservationCancelled"]);
    let rejected = if course.qty.is_some() { CancelReason::OutOfStock } else { CancelReason::MovieNotFound };
    let first = case.order.iter().find_map(|element| match element {
        _ if element.is("TicketsAllocated") => Some((Status::Confirmed, vec!["ReservationConfirmed"])),
        _ if element.is("AllocationRejected") => Some(cancelled(rejected)),
        _ if element.asks(Turn::Cancel) => Some(cancelled(CancelReason::Customer)),
        _ if element.asks(Turn::Expire) => Some(cancelled(CancelReason::Deadline)),
        _ => None,
    });
    let (mut status, mut told) = first.expect("something decides it");
    let is_last = |element: &Element<'_>| element.asks(Turn::Cancel);
    let place = case.read("TicketsAllocated");
    if status == Status::Confirmed && case.order.iter().skip(place.unwrap_or_default()).any(is_last) {
        status = Status::Cancelled(CancelReason::Customer);
        told.push("ReservationCancelled");
    }
    let row = &case.tables.reservations[&ID];
    case.same("the status", &row.status, &status);
    case.same("events of the reservation", &case.told(), &told);
    for event in case.told {
        if let Event::ReservationCancelled(event) = event {
            case.same("the reason that is told", &Some(event.reason), &status.reason());
        }
    }
    status
}

#[test]
fn every_outcome_is_told_once_in_any_order() {
    played(|course, _: &mut BTreeSet<()>| {
        let log: BTreeSet<_> = course.after.notifications.keys().copied().collect();
        every_case(&course.before, Service::Notification, &reads(&course.reservations), |case| {
            let recorded: Vec<_> = case
                .writes
                .iter()
                .flat_map(|writes| if let Writes::Notification(writes) = writes { &*writes.new } else { &[] })
                .collect();
            case.same("notifications recorded", &recorded.len(), &log.len());
            for (key, row) in &case.tables.notifications {
                case.same("the message", &row.message, &course.after.notifications[key].message);
            }
            case.same("outcomes", &case.tables.notifications.keys().copied().collect(), &log);
            let late = before(case.read("ReservationCancelled"), case.read("ReservationConfirmed"));
            let sent = log.iter().copied().filter(|(_, confirmed)| !(late && *confirmed)).collect();
            case.same("what is sent", &case.tables.mails, &sent);
        })
    });
}

#[test]
fn the_list_ends_the_same_in_any_order() {
    played(|course, _: &mut BTreeSet<()>| {
        every_case(&course.before, Service::ReservationList, &reads(&course.reservations), |case| {
            case.same("the list", &case.tables.list, &course.after.list);
            let status = case.tables.list[&ID].status;
            let truth = course.after.reservations[&ID].status.as_str();
            case.same("the status", &status.as_str(), &truth);
            let changes = case.writes.iter().map(|writes| match writes {
                Writes::List(writes) => writes.changes().collect(),
                _ => Vec::new(),
            });
            let changes: Vec<_> = changes.flatten().map(|(_, status)| status).collect();
            // A row is inserted once, and cancelled once if it was confirmed in an earlier batch.
            let forward = [listed::Status::Confirmed, listed::Status::Cancelled];
            case.same("changes", &(changes == [status] || changes == forward), &true);
        })
    });
}
