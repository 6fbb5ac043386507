//! A simulated theater: two replicas of each service, with databases, outboxes, relays and a log that are maps and lists,
//! and the faults that can occur between any two of their steps.
//!
//! - [`consumers`]: partitions, batches and poison; [`relays`]: sending outbox rows.
//! - [`faults`]: crashes, rebalances and so on; [`drain`]: running until the theater is at rest.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use reservation::reservation as reservation_domain;
use shared_events::{EventId, Timestamp};

use crate::simulation::checks::InvariantChecks;
use crate::simulation::choices::Choices;
use crate::simulation::coverage::Coverage;
use crate::simulation::database::Database;
use crate::simulation::history;
use crate::simulation::log::{DeadLetter, Log, PARTITIONS, Record, RelayBatch, SHARDS};
use crate::simulation::tables::{self, Locks, Service, Work, Writes};
use crate::simulation::violation::Violation;
use crate::simulation::workload::Workload;

const REPLICAS: usize = 2;
/// The maximum of records in a batch, and of rows that a relay reads at once.
const BATCH_MAX: usize = 4;
/// The maximum of open transactions.
const OPEN_TRANSACTIONS_MAX: usize = 6;

#[derive(Clone, Debug)]
struct Replica {
    service: Service,
    /// The difference between its clock and the databases'.
    clock_skew: TimeDelta,
    /// The partitions that it believes to own, and its position in each.
    positions: BTreeMap<usize, usize>,
    /// The size of the next batch in a partition whose last batch was rejected. 0: the next record becomes a dead letter.
    reduced_batches: BTreeMap<usize, usize>,
    relay_batches: [RelayBatch; SHARDS],
}

/// The position that a consumer's transaction updates.
#[derive(Clone, Debug)]
struct PositionUpdate {
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
    position_update: Option<PositionUpdate>,
    /// The numbers of the calls that it answers.
    calls: Vec<usize>,
}

pub struct SimulatedTheater {
    choices: Choices,
    pub databases: BTreeMap<Service, Database>,
    pub log: Log,
    pub workload: Workload,
    replicas: Vec<Replica>,
    /// The replica to which the consumer group has assigned each partition.
    assignment: BTreeMap<(Service, usize), usize>,
    open: Vec<Transaction>,
    clock: DateTime<Utc>,
    last_event_id: u64,
    foreign_records: u128,
    checks: InvariantChecks,
    history: Option<Vec<String>>,
    pub coverage: Coverage,
    pub steps: usize,
}

/// Adds a line to the history, if it is recorded.
macro_rules! log_step {
    ($theater:expr, $($arg:tt)+) => {
        if $theater.history.is_some() {
            let line = format!($($arg)+);
            $theater.history.get_or_insert_default().push(line);
        }
    };
}

mod consumers;
mod drain;
mod faults;
mod relays;

impl SimulatedTheater {
    pub fn new(mut choices: Choices, with_history: bool) -> Self {
        let mut replicas = Vec::new();
        for service in Service::ALL {
            for _ in 0..REPLICAS {
                let minutes = i64::try_from(choices.below(11)).unwrap_or_default();
                let clock_skew = TimeDelta::minutes(if choices.once_in(2) { -minutes } else { minutes });
                let (positions, reduced_batches, relay_batches) = Default::default();
                replicas.push(Replica { service, clock_skew, positions, reduced_batches, relay_batches });
            }
        }
        let mut theater = Self {
            choices,
            databases: Service::ALL.map(|service| (service, Database::default())).into(),
            log: Log::default(),
            workload: Workload::default(),
            replicas,
            assignment: BTreeMap::new(),
            open: Vec::new(),
            clock: DateTime::UNIX_EPOCH + TimeDelta::days(20_000),
            last_event_id: 0,
            foreign_records: 0,
            checks: InvariantChecks::default(),
            history: with_history.then(Vec::new),
            coverage: Coverage::default(),
            steps: 0,
        };
        for service in Service::ALL {
            for partition in 0..PARTITIONS {
                theater
                    .assignment
                    .insert((service, partition), theater.replica(service, partition % REPLICAS));
            }
        }
        theater
    }

    pub fn take_history(&mut self) -> Vec<String> {
        self.history.take().unwrap_or_default()
    }

    pub fn choices(&self) -> &Choices {
        &self.choices
    }

    fn replica(&self, service: Service, number: usize) -> usize {
        Service::ALL.iter().position(|other| *other == service).unwrap_or_default() * REPLICAS + number
    }

    fn choose_replica(&mut self, service: Service) -> usize {
        let number = self.choices.below(REPLICAS);
        self.replica(service, number)
    }

    fn database(&mut self, service: Service) -> &mut Database {
        self.databases.entry(service).or_default()
    }

    fn replica_name(&self, replica: usize) -> String {
        format!("{:?} {}", self.replicas[replica].service, replica % REPLICAS + 1)
    }

    /// Chooses the next step of the schedule and makes it. Some steps find nothing to do.
    ///
    /// # Errors
    /// If the step violates an invariant.
    pub fn step(&mut self) -> Result<(), Violation> {
        let did_something = match self.choices.below(100) {
            0..20 => self.make_calls(),
            20..45 => self.consume_any(),
            45..64 => self.relay_any()?,
            64..65 => self.send_dead_letter(),
            65..87 => self.end_any()?,
            87..89 => self.sweep(),
            89..92 => self.advance_clock(),
            92..94 => self.crash(),
            94..96 => self.rebalance(),
            96..97 => self.lose_shard_lock(),
            97..98 => self.append_foreign_record(),
            _ => self.redeliver_record()?,
        };
        self.steps += usize::from(did_something);
        Ok(())
    }

    /// Customers or a vendor make calls, new ones or repeats, which one transaction handles.
    fn make_calls(&mut self) -> bool {
        let service = if self.choices.below(4) == 3 { Service::Movie } else { Service::Reservation };
        let calls = self.workload.choose(service, &mut self.choices, &mut self.coverage);
        self.begin_calls(&calls)
    }

    fn begin_calls(&mut self, calls: &[usize]) -> bool {
        let (service, work) = self.workload.work(calls);
        let replica = self.choose_replica(service);
        self.begin(replica, &work, None, calls.to_vec())
    }

    fn sweep(&mut self) -> bool {
        let replica = self.choose_replica(Service::Reservation);
        self.begin(replica, &Work::Sweep, None, Vec::new())
    }

    /// Begins a transaction: loads, locks and decides. Returns `false` if another transaction holds a lock, as this one
    /// would wait for it.
    fn begin(
        &mut self,
        replica: usize,
        work: &Work,
        position_update: Option<PositionUpdate>,
        calls: Vec<usize>,
    ) -> bool {
        let Replica { service, clock_skew, .. } = self.replicas[replica];
        let locked: Locks = self
            .open
            .iter()
            .filter(|tx| self.replicas[tx.replica].service == service)
            .flat_map(|tx| tx.locks.iter().copied())
            .collect();
        let database = &self.databases[&service];
        let locks = tables::rows_to_lock(&database.tables, work, &locked, self.clock);
        if self.open.len() >= OPEN_TRANSACTIONS_MAX || !locks.is_disjoint(&locked) {
            self.coverage.count("waits for another's locks");
            return false;
        }
        let writes = tables::fold(&database.tables, work, &locks, Timestamp::new(self.clock + clock_skew));
        if let Some(position_update) = &position_update
            && tables::database_rejects(&writes)
        {
            self.reduce_batch(replica, position_update);
            return true;
        }
        let rows = self.outbox_rows(service, &writes);
        let (name, input) = (self.replica_name(replica), history::describe_work(work));
        log_step!(self, "{name} decides {input} → {}", history::describe_rows(&rows));
        self.open.push(Transaction { replica, locks, writes, rows, position_update, calls });
        true
    }

    /// The outbox rows of the writes. Their `seq` is generated while the aggregates are locked.
    fn outbox_rows(&mut self, service: Service, writes: &Writes) -> Vec<(u64, Record)> {
        let mut rows = Vec::new();
        for (event, origin) in writes.events() {
            self.last_event_id += 1;
            let id = EventId(self.last_event_id.to_string());
            let record = Record { id, event: event.clone(), causation: origin.causation.clone() };
            let database = self.database(service);
            database.last_seq += 1;
            rows.push((database.last_seq, record));
        }
        rows
    }

    /// Ends an open transaction: it commits, commits without an answer, or rolls back.
    fn end_any(&mut self) -> Result<bool, Violation> {
        if self.open.is_empty() {
            return Ok(false);
        }
        let index = self.choices.below(self.open.len());
        let transaction = self.open.remove(index);
        match self.choices.below(12) {
            10 => self.commit(&transaction, false)?,
            11 => {
                self.coverage.count("rolled back");
                log_step!(self, "{} rolls back", self.replica_name(transaction.replica));
            }
            _ => self.commit(&transaction, true)?,
        }
        Ok(true)
    }

    fn commit(&mut self, transaction: &Transaction, answered: bool) -> Result<(), Violation> {
        let Transaction { replica, writes, rows, position_update, calls, .. } = transaction;
        let service = self.replicas[*replica].service;
        let clock = self.clock;
        let database = self.databases.entry(service).or_default();
        if let Some(position_update) = position_update
            && database.offsets[position_update.partition] != position_update.expected
        {
            self.handle_fencing(*replica, position_update.partition);
            return Ok(());
        }
        if tables::apply(&mut database.tables, writes, clock).is_err() {
            self.coverage.count("a row inserted by another meanwhile");
            log_step!(self, "{} finds its row inserted by another: again", self.replica_name(*replica));
            return Ok(());
        }
        if rows.first().is_some_and(|(seq, _)| *seq < database.highest_read_seq) {
            self.coverage.count("commits a seq lower than one that was read");
        }
        database.outbox.extend(rows.iter().cloned());
        if let Some(position_update) = position_update {
            database.offsets[position_update.partition] = position_update.new;
            database.dead_letters.extend(&position_update.dead_letters);
        }
        let commits = if answered { "commits" } else { "commits, and does not get to know" };
        log_step!(self, "{} {commits}: {}", self.replica_name(*replica), history::describe_rows(rows));
        self.count_commit(transaction);
        if answered {
            if let Some(position_update) = position_update {
                let replica = &mut self.replicas[*replica];
                replica.positions.insert(position_update.partition, position_update.new);
                replica.reduced_batches.remove(&position_update.partition);
            }
            self.workload.record_answers(calls, writes, &mut self.coverage)?;
        } else {
            self.coverage.count("a commit's answer is lost");
        }
        self.checks.check_commit(&self.databases)
    }

    /// The stored position is not the expected one: another replica has updated it, or an answer was lost.
    fn handle_fencing(&mut self, replica: usize, partition: usize) {
        let service = self.replicas[replica].service;
        self.replicas[replica].reduced_batches.remove(&partition);
        let stored = self.databases[&service].offsets[partition];
        if self.assignment[&(service, partition)] == replica {
            self.coverage.count("an owner is fenced");
            log_step!(
                self,
                "{} is fenced in partition {partition}: goes on at {stored}",
                self.replica_name(replica)
            );
            self.replicas[replica].positions.insert(partition, stored);
        } else {
            self.coverage.count("a former owner is fenced");
            log_step!(self, "{} is fenced in partition {partition}: stops there", self.replica_name(replica));
            self.replicas[replica].positions.remove(&partition);
        }
    }

    /// Counts the content of a committed transaction.
    fn count_commit(&mut self, transaction: &Transaction) {
        for (_, record) in &transaction.rows {
            self.coverage.count(history::coverage_name(&record.event));
        }
        if let (Writes::Reservation(writes), Some(_)) = (&transaction.writes, &transaction.position_update) {
            for answer in &writes.answers {
                match answer {
                    reservation_domain::Answer::NotFound => {
                        self.coverage.count("an answer about no reservation")
                    }
                    reservation_domain::Answer::Done { changed: false, .. } => {
                        self.coverage.count("an answer too late")
                    }
                    reservation_domain::Answer::Done { .. } | reservation_domain::Answer::Conflict => {}
                }
            }
        }
        let dead_letters =
            transaction.position_update.iter().flat_map(|position_update| &position_update.dead_letters);
        dead_letters.for_each(|_| self.coverage.count("a dead letter"));
    }
}
