//! Explores every state of small theaters, and checks that the exploration finds faulty decisions.

use std::collections::{BTreeMap, BTreeSet};

use movie::movie::Outcome;
use reservation::reservation::Status;
use shared_events::Timestamp;
use theater_tests::model::runner::check_case;
use theater_tests::model::transactions::Decide;
use theater_tests::model::{Case, cases, explore};
use theater_tests::simulation::tables::{Locks, Service, Tables, Work, Writes, fold};

/// How a reservation may end, with the decision about its tickets.
const ENDS: [&str; 9] = [
    "CONFIRMED Allocated",
    "CUSTOMER Rejected",
    "CUSTOMER Released",
    "CUSTOMER Void",
    "DEADLINE Rejected",
    "DEADLINE Released",
    "DEADLINE Void",
    "MOVIE_NOT_FOUND Rejected",
    "OUT_OF_STOCK Rejected",
];

#[test]
fn every_state_is_right() {
    let (mut steps, mut ends, mut states) = (BTreeMap::new(), BTreeMap::new(), 0);
    for case in cases::small() {
        let report = check_case(&case).unwrap_or_else(|counterexample| panic!("{counterexample}"));
        println!("{report}");
        states += report.states;
        report.steps.into_iter().for_each(|(kind, count)| *steps.entry(kind).or_insert(0) += count);
        report.ends.into_iter().for_each(|(end, count)| *ends.entry(end).or_insert(0) += count);
    }
    println!("{states} states; steps: {steps:?}; reservations at rest: {ends:?}");
    let never: Vec<_> = steps.iter().filter(|(_, count)| **count == 0).collect();
    assert!(never.is_empty(), "never seen: {never:?}");
    let reached: BTreeSet<&str> = ends.keys().map(String::as_str).collect();
    assert_eq!(reached, BTreeSet::from(ENDS));
}

/// Decides with the production code, on changed tables.
fn fold_on_changed_tables(
    tables: &Tables,
    change: impl FnOnce(&mut Tables),
    work: &Work,
    locks: &Locks,
    now: Timestamp,
) -> Writes {
    let mut changed = tables.clone();
    change(&mut changed);
    fold(&changed, work, locks, now)
}

fn without_decisions(outcome: Outcome, mut writes: Writes) -> Writes {
    if let Writes::Movie(writes) = &mut writes {
        writes.new_decisions.retain(|(_, decision)| decision.outcome != outcome);
    }
    writes
}

fn without_rejections(tables: &Tables, work: &Work, locks: &Locks, now: Timestamp) -> Writes {
    without_decisions(Outcome::Rejected, fold(tables, work, locks, now))
}

fn without_voids(tables: &Tables, work: &Work, locks: &Locks, now: Timestamp) -> Writes {
    without_decisions(Outcome::Void, fold(tables, work, locks, now))
}

fn releasing_twice(tables: &Tables, work: &Work, locks: &Locks, now: Timestamp) -> Writes {
    let forget = |tables: &mut Tables| {
        let released = tables.decisions.values_mut().filter(|decision| decision.outcome == Outcome::Released);
        released.for_each(|decision| decision.outcome = Outcome::Allocated);
    };
    fold_on_changed_tables(tables, forget, work, locks, now)
}

fn confirming_cancelled_reservations(tables: &Tables, work: &Work, locks: &Locks, now: Timestamp) -> Writes {
    let forget = |tables: &mut Tables| {
        if matches!(work, Work::Batch(Service::Reservation, _)) {
            tables.reservations.values_mut().for_each(|row| row.status = Status::Pending);
        }
    };
    fold_on_changed_tables(tables, forget, work, locks, now)
}

fn expiring_without_event(tables: &Tables, work: &Work, locks: &Locks, now: Timestamp) -> Writes {
    let mut writes = fold(tables, work, locks, now);
    if let (Work::Sweep, Writes::Reservation(writes)) = (work, &mut writes) {
        writes.events.clear();
    }
    writes
}

/// The shortest path to a violation by `decide`.
fn find_violation(name: &str, decide: Decide) -> Vec<String> {
    let case = cases::small().into_iter().find(|case| case.name == name).expect("a case of that name");
    let report = explore(Case { decide, ..case }, 1);
    let (property, trace) = report.counterexample.expect("a wrong decision is found");
    println!("{property}? After {} states:\n{}\n", report.states, trace.join("\n"));
    trace.iter().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_wrong_decision_is_found() {
    let faulty: [Decide; 5] = [
        without_rejections,
        without_voids,
        releasing_twice,
        expiring_without_event,
        confirming_cancelled_reservations,
    ];
    for decide in faulty {
        let trace = find_violation("two rivals, dead letters", decide);
        assert!(trace[0].starts_with("1  place r"), "{}", trace.join("\n"));
        assert_ne!(trace.last().unwrap(), "nothing is wrong", "{}", trace.join("\n"));
    }
}
