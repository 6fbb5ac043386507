//! A model check of the saga: [stateright](https://docs.rs/stateright) explores every state that a small theater can reach
//! by any order of its steps. The production code decides, as in [`crate::simulation`]. The simulation runs some long
//! schedules; this explores all short ones.
//!
//! # What a state is
//!
//! The four services' tables; the committed rows that are not sent; the records behind each consumer's position; the
//! events that were published; and the faults that may still occur. Each is a small number: the production code decides
//! each transaction once ([`transactions`]), and tables and events are numbered by their content ([`interner`]). All
//! transactions happen at the same time of the clock, an event's id is derived from its subject, and consumers keep no
//! history, so that equal situations are one state. Two things are checked instead of explored: a batch has the effect of
//! its records one by one; and a movie's quantity and version in an event, which no consumer reads, follow from its row.
//!
//! # What may happen
//!
//! Calls arrive at any time. A deadline expires at any time, as clocks may differ by any amount. Relays send and
//! consumers read at any time. And each of these faults occurs a limited number of times:
//!
//! - A service dies. Rows, outbox and position change in one transaction, so a death can leave only this behind: a
//!   transaction that did not happen, which is no step; rows that were sent and not deleted, which are sent again
//!   ([`state::Action::Crash`]); a call that was not answered, which is repeated
//!   ([`state::Action::RepeatCall`]). notification and reservation-list neither send nor receive calls, so their
//!   deaths leave nothing behind. The same is true of a consumer whose commit was not answered, or that no longer owns
//!   its partition: the stored position has moved, so its transaction is refused.
//! - A relay without its lock goes on sending, or an operator sends a record again: any record, at any time, behind any
//!   other ([`state::Action::Redeliver`]).
//! - A consumer can't apply a record. The record becomes a dead letter, and is replayed later
//!   ([`state::Action::DeadLetter`]). So a cancellation can be consumed before its placement.
//!
//! # What holds
//!
//! In every state: the ticket ledgers balance, events are in order and published once, no status goes back, no service
//! is ahead of reservation, no ticket is sold that doesn't exist ([`checks`]). Each step of a service decreases a measure that can't
//! decrease for ever (`TheaterModel::distance_to_rest`), so from every state every order of steps leads to rest, whatever
//! customers do meanwhile. Wherever the services are at rest, every reservation has ended, every outcome was notified
//! once, the list agrees with the reservations, and the allocated tickets are the confirmed ones. That is more than that
//! a good end can be reached: no other end can.
//!
//! stateright identifies states by 64 bits of hash: among a million states, two have the same hash with a probability of
//! 3 in 10⁸.
//!
//! # Layout
//!
//! - [`cases`]: the theaters that are explored; [`runner`]: explores them.
//! - [`state`]: a state and its steps; [`theater_model`]: the model; [`transactions`]: the decision of a step; [`checks`]:
//!   the invariant checks.
//! - [`event_queue`], [`interner`]: compact states; [`coverage`]: counts of steps and ends; [`trace`]: a readable path.

pub mod cases;
pub mod checks;
pub mod coverage;
pub mod event_queue;
pub mod interner;
pub mod runner;
pub mod state;
pub mod theater_model;
pub mod trace;
pub mod transactions;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model as _};

use crate::simulation::workload::Call;
use theater_model::TheaterModel;
use transactions::Decide;

/// When a relay or a consumer makes its next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// At any time, so that its steps interleave with all others.
    Interleaved,
    /// Within the step that makes it possible, which leads to fewer states.
    Immediate,
}

/// How often each fault may occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Records that are redelivered: any record, at any time.
    pub redeliveries: u8,
    /// Services that die after they have sent rows and before they delete them.
    pub crashes: u8,
    /// Records that become dead letters, and are replayed later.
    pub dead_letters: u8,
    /// Calls that are repeated.
    pub repeated_calls: u8,
}

/// A small theater, to be explored.
#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    /// Calls that are made and processed before the exploration starts.
    pub before: Vec<Call>,
    /// Calls that may be made, each at any time or never.
    pub calls: Vec<Call>,
    /// The number of partitions of each topic: 1 or 2.
    pub partitions: usize,
    pub relays: Scheduling,
    /// notification and reservation-list.
    pub leaf_consumers: Scheduling,
    pub faults: Faults,
    pub decide: Decide,
}

/// The result of an exploration.
#[derive(Debug)]
pub struct Report {
    pub case: &'static str,
    pub states: usize,
    pub depth: usize,
    pub elapsed: Duration,
    /// Transactions that the production code has decided.
    pub decided: usize,
    pub steps: BTreeMap<&'static str, u64>,
    pub ends: BTreeMap<String, u64>,
    /// The violated property, and a path to a state that violates it.
    pub counterexample: Option<(&'static str, Vec<String>)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, states, depth, decided, .. } = self;
        let (steps, seconds) = (self.steps.values().sum::<u64>(), self.elapsed.as_secs_f64());
        write!(
            f,
            "{case}: {states} states, {steps} steps, depth {depth}, {decided} transactions, {seconds:.1} s"
        )
    }
}

/// Explores every state of `case` on `threads` threads, and stops at the first violation. A single thread finds the
/// shortest path to it.
pub fn explore(case: Case, threads: usize) -> Report {
    let (begin, name) = (Instant::now(), case.name);
    let checker = TheaterModel::new(case).checker().threads(threads);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let theater = checker.model();
    let counterexample = checker.discoveries().into_iter().next();
    Report {
        case: name,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        elapsed: begin.elapsed(),
        decided: theater.transactions.decided(),
        steps: theater.coverage.steps(),
        ends: theater.coverage.ends(),
        counterexample: counterexample
            .map(|(name, path)| (name, trace::describe_path(theater, path.into_vec()))),
    }
}
