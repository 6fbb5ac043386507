//! Any order of redeliveries leads to the same outcome. For every scenario of a saga and every consumer: each of the
//! reservation's events once or twice, in every order, cut into batches, with the calls that concern it in between. The
//! published events are compared too: an effect that happens twice or not at all is another outcome.
//!
//! The order makes a difference only where the saga intends it. The first of movie's answer, the customer's cancellation
//! and the deadline decides. A cancellation that is consumed before its placement leads to a void decision instead of a
//! release, and to the same stock. A confirmation that is consumed after the cancellation is recorded, but neither sent
//! nor listed.

mod scenarios;

use std::collections::BTreeSet;
use std::fmt::Debug;

use movie::movie::Outcome;
use reservation::reservation::Status;
use reservation_list::projection;
use scenarios::{COUNT, DELIVERED, ID, MOVIE, Scenario, Step, call_work, commit};
use shared_events::{CancelReason, Event};
use theater_tests::simulation::log::Record;
use theater_tests::simulation::tables::{Service, Tables, Work, Writes};

/// An element of an order: a record that is consumed, or a call.
#[derive(Clone, Copy, Debug)]
enum Element<'a> {
    Read(&'a Record),
    Call(Step),
}

impl Element<'_> {
    /// Whether it is an event of this type.
    fn is_event(&self, event_type: &str) -> bool {
        matches!(self, Self::Read(record) if record.event.event_type() == event_type)
    }

    fn is_call(&self, step: Step) -> bool {
        matches!(self, Self::Call(call) if *call == step)
    }
}

/// One order of the elements, and its result.
struct Case<'a> {
    order: &'a [Element<'a>],
    tables: &'a Tables,
    writes: &'a [Writes],
    events: &'a [Event],
}

impl Case<'_> {
    /// The position of the first such element.
    fn position(&self, wanted: impl Fn(&Element<'_>) -> bool) -> Option<usize> {
        self.order.iter().position(wanted)
    }

    fn event_position(&self, event_type: &str) -> Option<usize> {
        self.position(|element| element.is_event(event_type))
    }

    fn call_position(&self, step: Step) -> Option<usize> {
        self.position(|element| element.is_call(step))
    }

    fn event_types(&self) -> Vec<&'static str> {
        self.events.iter().map(Event::event_type).collect()
    }

    fn expect_equal<T: PartialEq + Debug>(&self, what: &str, actual: &T, expected: &T) {
        assert!(actual == expected, "{what}: {actual:?}, expected {expected:?}, after {}", self.describe());
    }

    fn describe(&self) -> String {
        let name = |element: &Element<'_>| match element {
            Element::Read(record) => record.event.event_type().to_owned(),
            Element::Call(step) => format!("{step:?}"),
        };
        self.order.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

/// Runs every order of the elements, each once or twice, in every batching. Returns the number of cases.
fn run_every_order(
    start: &Tables,
    service: Service,
    elements: &[Element<'_>],
    mut check: impl FnMut(&Case<'_>),
) -> usize {
    let mut cases = 0;
    for twice in 0..1_usize << elements.len() {
        let mut remaining: Vec<usize> = (0..elements.len()).map(|number| 1 + (twice >> number & 1)).collect();
        visit_orders(elements, &mut remaining, &mut Vec::new(), &mut |order| {
            for cuts in batchings(order.len()) {
                cases += 1;
                let mut tables = start.clone();
                let (writes, events) = run_order(&mut tables, service, order, cuts);
                check(&Case { order, tables: &tables, writes: &writes, events: &events });
            }
        });
    }
    cases
}

/// Visits every distinct order of the remaining elements.
fn visit_orders<'a>(
    elements: &[Element<'a>],
    remaining: &mut [usize],
    order: &mut Vec<Element<'a>>,
    visit: &mut impl FnMut(&[Element<'a>]),
) {
    if remaining.iter().all(|count| *count == 0) {
        return visit(order);
    }
    for number in 0..elements.len() {
        if remaining[number] > 0 {
            remaining[number] -= 1;
            order.push(elements[number]);
            visit_orders(elements, remaining, order, visit);
            order.pop();
            remaining[number] += 1;
        }
    }
}

/// The batchings, each as bits of the places where a batch ends. All of them for short orders; with one, no or all ends for
/// longer ones; with no or all ends for the longest.
fn batchings(length: usize) -> Vec<usize> {
    let places = length.saturating_sub(1);
    let all = (1 << places) - 1;
    match length {
        0..=5 => (0..=all).collect(),
        6 => (0..places).map(|place| 1 << place).chain([0, all]).collect(),
        _ => vec![0, all],
    }
}

fn run_order(
    tables: &mut Tables,
    service: Service,
    order: &[Element<'_>],
    cuts: usize,
) -> (Vec<Writes>, Vec<Event>) {
    let (mut all, mut published, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    let mut transaction = |work: Work| {
        let (writes, events) = commit(tables, &work);
        all.push(writes);
        published.extend(events);
    };
    for (place, element) in order.iter().enumerate() {
        match element {
            Element::Read(record) => batch.push(record.delivery()),
            Element::Call(step) => {
                transaction(Work::Batch(service, std::mem::take(&mut batch)));
                transaction(call_work(*step));
            }
        }
        if cuts >> place & 1 == 1 {
            transaction(Work::Batch(service, std::mem::take(&mut batch)));
        }
    }
    transaction(Work::Batch(service, batch));
    (all, published)
}

fn read_all(records: &[Record]) -> Vec<Element<'_>> {
    records.iter().map(Element::Read).collect()
}

/// Whether the first position is before the second, or there is no second.
fn before(first: Option<usize>, second: Option<usize>) -> bool {
    first.is_some_and(|first| second.is_none_or(|second| first < second))
}

/// Runs all scenarios, and returns the set of outcomes of each.
fn run_scenarios<E: Ord>(
    mut run: impl FnMut(&Scenario, &mut BTreeSet<E>) -> usize,
) -> Vec<(&'static str, BTreeSet<E>)> {
    let mut cases = 0;
    let outcomes = Scenario::all().into_iter().map(|scenario| {
        let mut outcomes = BTreeSet::new();
        cases += run(&scenario, &mut outcomes);
        (scenario.name, outcomes)
    });
    let outcomes: Vec<_> = outcomes.collect();
    println!("{cases} cases");
    outcomes
}

#[test]
fn scenarios_are_distinct() {
    let distinct: BTreeSet<_> = Scenario::all().iter().map(Scenario::events).collect();
    // Confirmed; confirmed and then cancelled; rejected for either of two reasons; cancelled by the customer or the deadline
    // and then released, or rejected.
    assert_eq!(distinct.len(), 9, "{distinct:?}");
    for scenario in Scenario::all() {
        assert_ne!(scenario.after.reservations[&ID].status, Status::Pending, "{}", scenario.name);
    }
}

#[test]
fn the_stock_ends_the_same_in_any_order() {
    let outcomes = run_scenarios(|scenario, outcomes| {
        let mut cases = 0;
        for deliveries in 0..=usize::from(scenario.qty.is_some()) {
            let mut elements = read_all(&scenario.reservations);
            elements.extend([Element::Call(Step::Deliver)].into_iter().take(deliveries));
            let delivered = DELIVERED * i64::try_from(deliveries).unwrap();
            let mut stocks = BTreeSet::new();
            cases += run_every_order(&scenario.before, Service::Movie, &elements, |case| {
                let outcome = check_decision(scenario, case);
                if let Some(movie) = case.tables.movies.get(&MOVIE) {
                    let all = scenario.qty.unwrap_or_default() + delivered;
                    case.expect_equal("the stock", &(movie.qty + movie.allocated), &all);
                    stocks.insert(movie.qty);
                }
                outcomes.insert(format!("{outcome:?}"));
            });
            // A cancelled reservation costs no ticket, whatever the order of its events.
            if scenario
                .reservations
                .iter()
                .any(|record| matches!(record.event, Event::ReservationCancelled(_)))
            {
                assert!(stocks.len() <= 1, "{}: {stocks:?} are left", scenario.name);
            }
        }
        cases
    });
    for (name, outcomes) in outcomes {
        println!("{name}: {outcomes:?}");
    }
}

/// Checks movie's decision and events against those that follow from the order alone. Returns the decision.
fn check_decision(scenario: &Scenario, case: &Case<'_>) -> Outcome {
    let (placed, cancelled) =
        (case.event_position("ReservationPlaced"), case.event_position("ReservationCancelled"));
    let delivered = case.call_position(Step::Deliver);
    let available = scenario.qty.map(|qty| if before(delivered, placed) { qty + DELIVERED } else { qty });
    let (outcome, mut expected_events) = if before(cancelled, placed) {
        (Outcome::Void, vec![])
    } else if available.is_none_or(|qty| qty < COUNT) {
        (Outcome::Rejected, vec!["AllocationRejected"])
    } else if cancelled.is_some() {
        (Outcome::Released, vec!["TicketsAllocated", "TicketsReleased"])
    } else {
        (Outcome::Allocated, vec!["TicketsAllocated"])
    };
    if delivered.is_some() {
        expected_events.push("TicketsAdded");
    }
    let mut events = case.event_types();
    events.sort_unstable();
    expected_events.sort_unstable();
    case.expect_equal("events of the stock", &events, &expected_events);
    let decided: Vec<_> = case.tables.decisions.values().map(|decision| decision.outcome).collect();
    case.expect_equal("decisions", &decided, &vec![outcome]);
    if let (Some(movie), Some(qty)) = (case.tables.movies.get(&MOVIE), scenario.qty) {
        let held = if outcome == Outcome::Allocated { COUNT } else { 0 };
        let added = if delivered.is_some() { DELIVERED } else { 0 };
        case.expect_equal("left", &movie.qty, &(qty + added - held));
        let changes =
            expected_events.iter().filter(|event_type| **event_type != "AllocationRejected").count();
        case.expect_equal("the version", &movie.version, &(1 + i64::try_from(changes).expect("few changes")));
    }
    outcome
}

#[test]
fn a_reservation_ends_the_same_in_any_order() {
    let mut seen = BTreeSet::new();
    let outcomes = run_scenarios(|scenario, outcomes| {
        let mut cases = 0;
        // Several scenarios have the same events of movie.
        if !seen.insert(scenario.movie_events()) {
            return cases;
        }
        for call in [None, Some(Step::Cancel), Some(Step::Expire)] {
            let mut elements = read_all(&scenario.movies);
            elements.push(Element::Call(Step::Place));
            elements.extend(call.map(Element::Call));
            let mut statuses = BTreeSet::new();
            cases += run_every_order(&scenario.placed, Service::Reservation, &elements, |case| {
                let status = check_status(scenario, case);
                statuses.insert(format!("{status:?}"));
            });
            // Without a call, the log alone determines the outcome.
            assert!(call.is_some() || statuses.len() == 1, "{}: {statuses:?}", scenario.name);
            outcomes.extend(statuses);
        }
        cases
    });
    for (name, statuses) in outcomes {
        println!("{name}: {statuses:?}");
    }
}

/// Checks the reservation's status and events against those that follow from the order alone: the first deciding element
/// decides. Returns the status.
fn check_status(scenario: &Scenario, case: &Case<'_>) -> Status {
    let cancelled = |reason| (Status::Cancelled(reason), vec!["ReservationCancelled"]);
    let rejected =
        if scenario.qty.is_some() { CancelReason::OutOfStock } else { CancelReason::MovieNotFound };
    let first = case.order.iter().find_map(|element| match element {
        _ if element.is_event("TicketsAllocated") => Some((Status::Confirmed, vec!["ReservationConfirmed"])),
        _ if element.is_event("AllocationRejected") => Some(cancelled(rejected)),
        _ if element.is_call(Step::Cancel) => Some(cancelled(CancelReason::Customer)),
        _ if element.is_call(Step::Expire) => Some(cancelled(CancelReason::Deadline)),
        _ => None,
    });
    let (mut status, mut expected_events) = first.expect("something decides it");
    let is_cancellation = |element: &Element<'_>| element.is_call(Step::Cancel);
    let allocated = case.event_position("TicketsAllocated");
    if status == Status::Confirmed
        && case.order.iter().skip(allocated.unwrap_or_default()).any(is_cancellation)
    {
        status = Status::Cancelled(CancelReason::Customer);
        expected_events.push("ReservationCancelled");
    }
    let row = &case.tables.reservations[&ID];
    case.expect_equal("the status", &row.status, &status);
    case.expect_equal("events of the reservation", &case.event_types(), &expected_events);
    for event in case.events {
        if let Event::ReservationCancelled(event) = event {
            case.expect_equal("the reason that is told", &Some(event.reason), &status.reason());
        }
    }
    status
}

#[test]
fn every_outcome_is_notified_once_in_any_order() {
    run_scenarios(|scenario, _: &mut BTreeSet<()>| {
        let expected: BTreeSet<_> = scenario.after.notifications.keys().copied().collect();
        run_every_order(&scenario.before, Service::Notification, &read_all(&scenario.reservations), |case| {
            let recorded: Vec<_> = case
                .writes
                .iter()
                .flat_map(|writes| if let Writes::Notification(writes) = writes { &*writes.new } else { &[] })
                .collect();
            case.expect_equal("notifications recorded", &recorded.len(), &expected.len());
            for (key, row) in &case.tables.notifications {
                case.expect_equal("the message", &row.message, &scenario.after.notifications[key].message);
            }
            case.expect_equal("outcomes", &case.tables.notifications.keys().copied().collect(), &expected);
            let late = before(
                case.event_position("ReservationCancelled"),
                case.event_position("ReservationConfirmed"),
            );
            let sent = expected.iter().copied().filter(|(_, confirmed)| !(late && *confirmed)).collect();
            case.expect_equal("what is sent", &case.tables.mails, &sent);
        })
    });
}

#[test]
fn the_list_ends_the_same_in_any_order() {
    run_scenarios(|scenario, _: &mut BTreeSet<()>| {
        run_every_order(
            &scenario.before,
            Service::ReservationList,
            &read_all(&scenario.reservations),
            |case| {
                case.expect_equal("the list", &case.tables.list, &scenario.after.list);
                let status = case.tables.list[&ID].status;
                let expected = scenario.after.reservations[&ID].status.as_str();
                case.expect_equal("the status", &status.as_str(), &expected);
                let changes = case.writes.iter().map(|writes| match writes {
                    Writes::List(writes) => writes.changes().collect(),
                    _ => Vec::new(),
                });
                let changes: Vec<_> = changes.flatten().map(|(_, status)| status).collect();
                // A row is inserted once, and cancelled once if it was confirmed in an earlier batch.
                let forward = [projection::Status::Confirmed, projection::Status::Cancelled];
                case.expect_equal("changes", &(changes == [status] || changes == forward), &true);
            },
        )
    });
}
