//! The protocol, explored: every state that a small theater can come to, through every order of its steps, with
//! [stateright](https://docs.rs/stateright). What decides is the production code, as in [`crate::simulation`]; where
//! that plays long schedules by chance, this plays all the short ones.
//!
//! # What a state is
//!
//! The four services' tables; what is committed and not sent; what lies in the log behind each reader's position; the
//! facts that were told; and what may still go wrong. Each is a small number: the production code decides each
//! transaction once ([`transactions`]), tables and events are numbered by their content ([`numbered`]). All happens at
//! one moment, events are named after what they are about, and no reader's past is kept, so that equal situations are
//! one state. Two things are checked instead of explored: a batch does what its records do one by one, and what a
//! record says of a movie's quantity and version, which nobody reads, goes on where the row stood.
//!
//! # What may happen
//!
//! Calls come at any time; a deadline passes at any time, as clocks may be anywhere; relays send and readers read when
//! they like. And, a few times each:
//!
//! - A service dies. State, outbox and position change in one transaction, so all that it can leave behind is: a
//!   transaction that did not happen, which is no step; rows that were sent and not deleted, which are sent again
//!   ([`theater::Action::Crash`]); a call that was not answered, which is made again ([`theater::Action::Again`]).
//!   notification and reservation-list neither send nor are called, so their deaths leave nothing. Neither does a reader
//!   whose commit was not answered, or who owns its partition no more: its position was moved, and its transaction is
//!   refused.
//! - A relay without its lock goes on sending, or an operator sends what was sent: any record, at any time, behind
//!   whatever there is ([`theater::Action::Repeat`]).
//! - A reader can't handle a record. It becomes a dead letter, and comes back later ([`theater::Action::SetAside`]): so a
//!   cancellation can be read before its placement.
//!
//! # What holds
//!
//! In every state: the ledgers, the order of facts, each told once, nothing that goes back, nobody ahead of the truth,
//! no ticket sold that isn't there ([`rules`]). Each step of a service brings it nearer to its rest by a measure that
//! can't fall for ever (`Theater::distance`), so from every state every order of steps comes to rest, whatever
//! the world does meanwhile; and wherever the services rest, every reservation has ended, every outcome was notified
//! once, the list is the truth, and what is allocated is confirmed. That is more than that a good end can be reached:
//! no other can.
//!
//! States are told apart by 64 bits of hash: of a million, two are taken for one with a probability of 3 in 10⁸.
//!
//! # Layout
//!
//! - [`cases`]: what is explored; [`run`]: exploring it.
//! - [`theater`]: states and steps; [`transactions`]: what a step decides; [`rules`]: what must hold.
//! - [`queue`], [`numbered`]: states made small; [`tally`]: what was met; [`story`]: a path, to be read.

pub mod cases;
pub mod numbered;
pub mod queue;
pub mod rules;
pub mod run;
pub mod story;
pub mod tally;
pub mod theater;
pub mod transactions;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model as _};

use crate::simulation::calls::Call;
use theater::Theater;
use transactions::Decide;

/// When somebody does what he has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    AtAnyTime,
    /// In the step that gives it to him to do: fewer states.
    AtOnce,
}

/// How often what may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Misfortunes {
    /// Records that come again, any that was ever sent and at any time.
    pub repeats: u8,
    /// Services that die after they have sent, and before they have deleted.
    pub crashes: u8,
    /// Records that become dead letters, and are replayed later.
    pub set_aside: u8,
    /// Calls that are made again.
    pub again: u8,
}

/// A small theater, to be explored.
#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    /// Calls that were made, and all that followed, before the exploration begins.
    pub before: Vec<Call>,
    /// Calls that may be made, each at any time or never.
    pub calls: Vec<Call>,
    /// Movies are spread over them: 1 or 2.
    pub partitions: usize,
    pub relays: Pace,
    /// Of notification and reservation-list.
    pub last_readers: Pace,
    pub misfortunes: Misfortunes,
    pub decide: Decide,
}

/// What an exploration came to.
#[derive(Debug)]
pub struct Report {
    pub case: &'static str,
    pub states: usize,
    pub depth: usize,
    pub elapsed: Duration,
    /// Transactions that the production code decided.
    pub decided: usize,
    pub steps: BTreeMap<&'static str, u64>,
    pub ends: BTreeMap<String, u64>,
    /// The property that does not hold, and a path to where it doesn't.
    pub wrong: Option<(&'static str, Vec<String>)>,
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

/// Explores every state of `case` on `threads` threads; stops at the first that is wrong. One thread finds the
/// shortest path to it.
pub fn explore(case: Case, threads: usize) -> Report {
    let (begin, name) = (Instant::now(), case.name);
    let checker = Theater::new(case).checker().threads(threads);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let theater = checker.model();
    let wrong = checker.discoveries().into_iter().next();
    Report {
        case: name,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        elapsed: begin.elapsed(),
        decided: theater.transactions.decided(),
        steps: theater.tally.steps(),
        ends: theater.tally.ends(),
        wrong: wrong.map(|(name, path)| (name, story::story(theater, path.into_vec()))),
    }
}
