//! The theater in miniature: two replicas of each service on databases, outboxes, relays and a log that are maps and
//! lists, and everything that may go wrong between any two of their steps.
//!
//! - [`reading`]: partitions' owners, and records that they can't apply; [`sending`]: relays.
//! - [`misfortunes`]: what goes wrong; [`rest`]: and what must be so when nothing does any more.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use reservation::reservation as seat;
use shared_events::{EventId, Timestamp};

use crate::simulation::bus::{DeadLetter, Log, Outbox, PARTITIONS, Record, SHARDS, Sending};
use crate::simulation::calls::Calls;
use crate::simulation::checks::{Checks, Violation};
use crate::simulation::choices::Choices;
use crate::simulation::history;
use crate::simulation::tables::{self, Locks, Service, Tables, Work, Writes};
use crate::simulation::tally::Tally;

const REPLICAS: usize = 2;
/// Records in one batch at most, and rows that a relay reads at once.
const BATCH: usize = 4;
/// Transactions that are open at the same moment.
const OPEN_MAX: usize = 6;

#[derive(Clone, Debug, Default)]
pub struct Database {
    pub tables: Tables,
    pub outbox: Outbox,
    /// Dead letters that are not known to be sent.
    pub dead_letters: Vec<DeadLetter>,
    seq: u64,
    /// The last row that a relay has read.
    relayed: u64,
    pub offsets: [usize; PARTITIONS],
    /// The replica that holds a shard's lock.
    relays: [Option<usize>; SHARDS],
}

#[derive(Clone, Debug)]
struct Replica {
    service: Service,
    /// How far its clock is from the databases'.
    skew: TimeDelta,
    /// What it believes to own, and where it stands there.
    positions: BTreeMap<usize, usize>,
    /// Where a batch was refused: how many records it tries there next; with none, the next one is a dead letter.
    careful: BTreeMap<usize, usize>,
    sending: [Sending; SHARDS],
}

/// Where a consumer's transaction moves its position.
#[derive(Clone, Debug)]
struct Move {
    partition: usize,
    expected: usize,
    new: usize,
    dead_letters: Vec<DeadLetter>,
}

/// A transaction between its decision and its commit.
#[derive(Clone, Debug)]
struct Transaction {
    replica: usize,
    locks: Locks,
    writes: Writes,
    rows: Vec<(u64, Record)>,
    moves: Option<Move>,
    calls: Vec<usize>,
}

pub struct World {
    choices: Choices,
    pub databases: BTreeMap<Service, Database>,
    pub log: Log,
    pub calls: Calls,
    replicas: Vec<Replica>,
    /// The replica to which the group has given a partition.
    assigned: BTreeMap<(Service, usize), usize>,
    open: Vec<Transaction>,
    clock: DateTime<Utc>,
    records: u64,
    foreign: u128,
    checks: Checks,
    history: Option<Vec<String>>,
    pub tally: Tally,
    pub steps: usize,
}

/// A line of the history, if there is to be one.
macro_rules! tell {
    ($world:expr, $($arg:tt)+) => {
        if $world.history.is_some() {
            let line = format!($($arg)+);
            $world.history.get_or_insert_default().push(line);
        }
    };
}

mod misfortunes;
mod reading;
mod rest;
mod sending;

impl World {
    pub fn new(mut choices: Choices, with_history: bool) -> Self {
        let mut replicas = Vec::new();
        for service in Service::ALL {
            for _ in 0..REPLICAS {
                let minutes = i64::try_from(choices.below(11)).unwrap_or_default();
                let skew = TimeDelta::minutes(if choices.once_in(2) { -minutes } else { minutes });
                let (positions, careful, sending) = Default::default();
                replicas.push(Replica { service, skew, positions, careful, sending });
            }
        }
        let mut world = Self {
            choices,
            databases: Service::ALL.map(|service| (service, Database::default())).into(),
            log: Log::default(),
            calls: Calls::default(),
            replicas,
            assigned: BTreeMap::new(),
            open: Vec::new(),
            clock: DateTime::UNIX_EPOCH + TimeDelta::days(20_000),
            records: 0,
            foreign: 0,
            checks: Checks::default(),
            history: with_history.then(Vec::new),
            tally: Tally::default(),
            steps: 0,
        };
        for service in Service::ALL {
            for partition in 0..PARTITIONS {
                world.assigned.insert((service, partition), world.replica(service, partition % REPLICAS));
            }
        }
        world
    }

    pub fn history(&mut self) -> Vec<String> {
        self.history.take().unwrap_or_default()
    }

    pub fn choices(&self) -> &Choices {
        &self.choices
    }

    fn replica(&self, service: Service, number: usize) -> usize {
        Service::ALL.iter().position(|other| *other == service).unwrap_or_default() * REPLICAS + number
    }

    fn any_replica(&mut self, service: Service) -> usize {
        let number = self.choices.below(REPLICAS);
        self.replica(service, number)
    }

    fn database(&mut self, service: Service) -> &mut Database {
        self.databases.entry(service).or_default()
    }

    fn name(&self, replica: usize) -> String {
        format!("{:?} {}", self.replicas[replica].service, replica % REPLICAS + 1)
    }

    /// One step of the schedule, chosen. Not every choice finds something to do.
    ///
    /// # Errors
    /// The invariant that does not hold any more.
    pub fn step(&mut self) -> Result<(), Violation> {
        let did = match self.choices.below(100) {
            0..20 => self.call(),
            20..45 => self.consume_any(),
            45..64 => self.relay_any()?,
            64..65 => self.send_dead_letter(),
            65..87 => self.end_any()?,
            87..89 => self.sweep(),
            89..92 => self.wait(),
            92..94 => self.crash(),
            94..96 => self.rebalance(),
            96..97 => self.lose_relay(),
            97..98 => self.foreign_record(),
            _ => self.repeat_record()?,
        };
        self.steps += usize::from(did);
        Ok(())
    }

    /// Customers and vendors call, some again, some in one transaction.
    fn call(&mut self) -> bool {
        let service = if self.choices.below(4) == 3 { Service::Movie } else { Service::Reservation };
        let calls = self.calls.choose(service, &mut self.choices, &mut self.tally);
        self.send(&calls)
    }

    fn send(&mut self, calls: &[usize]) -> bool {
        let (service, work) = self.calls.work(calls);
        let replica = self.any_replica(service);
        self.begin(replica, &work, None, calls.to_vec())
    }

    fn sweep(&mut self) -> bool {
        let replica = self.any_replica(Service::Reservation);
        self.begin(replica, &Work::Sweep, None, Vec::new())
    }

    /// Loads, locks and decides. `false`: somebody else holds one of the rows; it would wait.
    fn begin(&mut self, replica: usize, work: &Work, moves: Option<Move>, calls: Vec<usize>) -> bool {
        let Replica { service, skew, .. } = self.replicas[replica];
        let taken: Locks = self
            .open
            .iter()
            .filter(|tx| self.replicas[tx.replica].service == service)
            .flat_map(|tx| tx.locks.iter().copied())
            .collect();
        let database = &self.databases[&service];
        let locks = tables::locks(&database.tables, work, &taken, self.clock);
        if self.open.len() >= OPEN_MAX || !locks.is_disjoint(&taken) {
            self.tally.count("waits for another's locks");
            return false;
        }
        let writes = tables::fold(&database.tables, work, &locks, Timestamp::new(self.clock + skew));
        if let Some(moves) = &moves
            && tables::refused(&writes)
        {
            self.be_careful(replica, moves);
            return true;
        }
        let rows = self.rows(service, &writes);
        let (name, asked) = (self.name(replica), history::work(work));
        tell!(self, "{name} decides {asked} → {}", history::rows(&rows));
        self.open.push(Transaction { replica, locks, writes, rows, moves, calls });
        true
    }

    /// The outbox rows of what was decided; their numbers are drawn while the aggregates are locked.
    fn rows(&mut self, service: Service, writes: &Writes) -> Vec<(u64, Record)> {
        let mut rows = Vec::new();
        for (event, origin) in writes.events() {
            self.records += 1;
            let id = EventId(self.records.to_string());
            let record = Record { id, event: event.clone(), causation: origin.causation.clone() };
            let database = self.database(service);
            database.seq += 1;
            rows.push((database.seq, record));
        }
        rows
    }

    /// An open transaction commits, or its answer is lost, or it is rolled back.
    fn end_any(&mut self) -> Result<bool, Violation> {
        if self.open.is_empty() {
            return Ok(false);
        }
        let number = self.choices.below(self.open.len());
        let transaction = self.open.remove(number);
        match self.choices.below(12) {
            10 => self.commit(&transaction, false)?,
            11 => {
                self.tally.count("rolled back");
                tell!(self, "{} rolls back", self.name(transaction.replica));
            }
            _ => self.commit(&transaction, true)?,
        }
        Ok(true)
    }

    fn commit(&mut self, transaction: &Transaction, told: bool) -> Result<(), Violation> {
        let Transaction { replica, writes, rows, moves, calls, .. } = transaction;
        let service = self.replicas[*replica].service;
        let clock = self.clock;
        let database = self.databases.entry(service).or_default();
        if let Some(moves) = moves
            && database.offsets[moves.partition] != moves.expected
        {
            self.fenced(*replica, moves.partition);
            return Ok(());
        }
        if tables::apply(&mut database.tables, writes, clock).is_err() {
            self.tally.count("a row inserted by another meanwhile");
            tell!(self, "{} finds its row inserted by another: again", self.name(*replica));
            return Ok(());
        }
        if rows.first().is_some_and(|(seq, _)| *seq < database.relayed) {
            self.tally.count("commits a seq lower than one that was read");
        }
        database.outbox.extend(rows.iter().cloned());
        if let Some(moves) = moves {
            database.offsets[moves.partition] = moves.new;
            database.dead_letters.extend(&moves.dead_letters);
        }
        let known = if told { "commits" } else { "commits, and does not get to know" };
        tell!(self, "{} {known}: {}", self.name(*replica), history::rows(rows));
        self.count(transaction);
        if told {
            if let Some(moves) = moves {
                let replica = &mut self.replicas[*replica];
                replica.positions.insert(moves.partition, moves.new);
                replica.careful.remove(&moves.partition);
            }
            self.calls.answered(calls, writes, &mut self.tally)?;
        } else {
            self.tally.count("a commit's answer is lost");
        }
        self.checks.committed(&self.databases)
    }

    /// No offset was moved: somebody else has, or an answer was lost.
    fn fenced(&mut self, replica: usize, partition: usize) {
        let service = self.replicas[replica].service;
        self.replicas[replica].careful.remove(&partition);
        let stored = self.databases[&service].offsets[partition];
        if self.assigned[&(service, partition)] == replica {
            self.tally.count("an owner is fenced");
            tell!(self, "{} is fenced in partition {partition}: goes on at {stored}", self.name(replica));
            self.replicas[replica].positions.insert(partition, stored);
        } else {
            self.tally.count("a former owner is fenced");
            tell!(self, "{} is fenced in partition {partition}: stops there", self.name(replica));
            self.replicas[replica].positions.remove(&partition);
        }
    }

    /// What was committed, for the tally.
    fn count(&mut self, transaction: &Transaction) {
        for (_, record) in &transaction.rows {
            self.tally.count(history::kind(&record.event));
        }
        if let (Writes::Reservation(writes), Some(_)) = (&transaction.writes, &transaction.moves) {
            for answer in &writes.answers {
                match answer {
                    seat::Answer::NotFound => self.tally.count("an answer about no reservation"),
                    seat::Answer::Done { changed: false, .. } => self.tally.count("an answer too late"),
                    seat::Answer::Done { .. } | seat::Answer::Conflict => {}
                }
            }
        }
        let dead_letters = transaction.moves.iter().flat_map(|moves| &moves.dead_letters);
        dead_letters.for_each(|_| self.tally.count("a dead letter"));
    }
}
