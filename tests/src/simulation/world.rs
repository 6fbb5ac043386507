//! The theater in miniature: two replicas of each service on databases, outboxes, relays and a log that are maps and
//! lists, and everything that may go wrong between any two of their steps.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use service_kit::events::Delivery;
use shared_events::{EventId, Timestamp, Topic};

use crate::simulation::bus::{Log, Outbox, PARTITIONS, Record, SHARDS, Sending, place};
use crate::simulation::calls::{Call, Calls};
use crate::simulation::checks::{Checks, Violation};
use crate::simulation::choices::Choices;
use crate::simulation::tables::{self, DEADLINE_SECS, Locks, Service, Tables, Work, Writes};

const REPLICAS: usize = 2;
/// Records in one batch at most, and rows that a relay reads at once.
const BATCH: usize = 4;
/// Transactions that are open at the same moment.
const OPEN_MAX: usize = 6;

#[derive(Clone, Debug, Default)]
pub struct Database {
    pub tables: Tables,
    pub outbox: Outbox,
    seq: u64,
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
    sending: [Sending; SHARDS],
}

/// A transaction between its decision and its commit.
#[derive(Clone, Debug)]
struct Transaction {
    replica: usize,
    locks: Locks,
    writes: Writes,
    rows: Vec<(u64, Record)>,
    /// Partition, expected offset, new offset.
    moves: Option<(usize, usize, usize)>,
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
    checks: Checks,
    history: Option<Vec<String>>,
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

impl World {
    pub fn new(mut choices: Choices, with_history: bool) -> Self {
        let mut replicas = Vec::new();
        for service in Service::ALL {
            for _ in 0..REPLICAS {
                let minutes = i64::try_from(choices.below(11)).unwrap_or_default();
                let skew = TimeDelta::minutes(if choices.once_in(2) { -minutes } else { minutes });
                let (positions, sending) = Default::default();
                replicas.push(Replica { service, skew, positions, sending });
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
            checks: Checks::default(),
            history: with_history.then(Vec::new),
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

    /// One step of the schedule, chosen. Not every choice finds something to do.
    ///
    /// # Errors
    /// The invariant that does not hold any more.
    pub fn step(&mut self) -> Result<(), Violation> {
        let did = match self.choices.below(100) {
            0..20 => self.call(),
            20..45 => self.consume_any(),
            45..65 => self.relay_any()?,
            65..88 => self.end_any()?,
            88..90 => self.sweep(),
            90..93 => self.wait(),
            93..95 => self.crash(),
            95..97 => self.rebalance(),
            97..98 => self.lose_relay(),
            _ => self.repeat_record()?,
        };
        self.steps += usize::from(did);
        Ok(())
    }

    /// Customers and vendors call, some again, some in one transaction.
    fn call(&mut self) -> bool {
        let service = if self.choices.below(4) == 3 { Service::Movie } else { Service::Reservation };
        let many = if service == Service::Reservation { 1 + self.choices.below(3) } else { 1 };
        let calls: Vec<usize> = (0..many).map(|_| self.calls.choose(service, &mut self.choices)).collect();
        self.send(&calls)
    }

    fn send(&mut self, calls: &[usize]) -> bool {
        let (service, work) = self.calls.work(calls);
        let replica = self.any_replica(service);
        self.begin(replica, work, None, calls.to_vec())
    }

    fn consume_any(&mut self) -> bool {
        let replica = self.choices.below(self.replicas.len());
        let partition = self.choices.below(PARTITIONS);
        let most = 1 + self.choices.below(BATCH);
        self.consume(replica, partition, most)
    }

    /// A partition's owner, or who takes itself for it, decides a batch.
    fn consume(&mut self, replica: usize, partition: usize, most: usize) -> bool {
        let service = self.replicas[replica].service;
        let busy = |tx: &Transaction| {
            tx.replica == replica && tx.moves.is_some_and(|(moved, ..)| moved == partition)
        };
        if self.open.iter().any(busy) {
            return false;
        }
        let stored = self.databases[&service].offsets[partition];
        if self.assigned[&(service, partition)] == replica {
            self.replicas[replica].positions.entry(partition).or_insert(stored);
        }
        let Some(&position) = self.replicas[replica].positions.get(&partition) else { return false };
        let topic = if service == Service::Reservation { Topic::Movies } else { Topic::Reservations };
        let waiting = self.log.partition(topic, partition).get(position..).unwrap_or_default();
        let batch: Vec<Delivery> = waiting.iter().take(most).map(Record::delivery).collect();
        if batch.is_empty() {
            return false;
        }
        let moves = (partition, position, position + batch.len());
        self.begin(replica, Work::Batch(service, batch), Some(moves), Vec::new())
    }

    /// Loads, locks and decides. `false`: somebody else holds one of the rows; it would wait.
    fn begin(
        &mut self,
        replica: usize,
        work: Work,
        moves: Option<(usize, usize, usize)>,
        calls: Vec<usize>,
    ) -> bool {
        let Replica { service, skew, .. } = self.replicas[replica];
        let taken: Locks = self
            .open
            .iter()
            .filter(|tx| self.replicas[tx.replica].service == service)
            .flat_map(|tx| tx.locks.iter().copied())
            .collect();
        let database = &self.databases[&service];
        let locks = tables::locks(&database.tables, &work, &taken, self.clock);
        if self.open.len() >= OPEN_MAX || !locks.is_disjoint(&taken) {
            return false;
        }
        let writes = tables::fold(&database.tables, &work, &locks, Timestamp::new(self.clock + skew));
        let rows = self.rows(service, &writes);
        tell!(self, "{} decides {} → {}", self.name(replica), described(&work), described_rows(&rows));
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
            11 => tell!(self, "{} rolls back", self.name(transaction.replica)),
            _ => self.commit(&transaction, true)?,
        }
        Ok(true)
    }

    fn commit(&mut self, transaction: &Transaction, told: bool) -> Result<(), Violation> {
        let Transaction { replica, writes, rows, moves, calls, .. } = transaction;
        let service = self.replicas[*replica].service;
        let clock = self.clock;
        let database = self.databases.entry(service).or_default();
        if let Some((partition, expected, _)) = *moves
            && database.offsets[partition] != expected
        {
            self.fenced(*replica, partition);
            return Ok(());
        }
        if tables::apply(&mut database.tables, writes, clock).is_err() {
            tell!(self, "{} finds its row inserted by another: again", self.name(*replica));
            return Ok(());
        }
        database.outbox.extend(rows.iter().cloned());
        if let Some((partition, _, new)) = *moves {
            database.offsets[partition] = new;
        }
        let known = if told { "commits" } else { "commits, and does not get to know" };
        tell!(self, "{} {known}: {}", self.name(*replica), described_rows(rows));
        if told {
            if let Some((partition, _, new)) = *moves {
                self.replicas[*replica].positions.insert(partition, new);
            }
            calls.iter().for_each(|call| self.calls.answered(*call));
        }
        self.checks.committed(&self.databases)
    }

    /// No offset was moved: somebody else has, or an answer was lost.
    fn fenced(&mut self, replica: usize, partition: usize) {
        let service = self.replicas[replica].service;
        let stored = self.databases[&service].offsets[partition];
        if self.assigned[&(service, partition)] == replica {
            tell!(self, "{} is fenced in partition {partition}: goes on at {stored}", self.name(replica));
            self.replicas[replica].positions.insert(partition, stored);
        } else {
            tell!(self, "{} is fenced in partition {partition}: stops there", self.name(replica));
            self.replicas[replica].positions.remove(&partition);
        }
    }

    fn relay_any(&mut self) -> Result<bool, Violation> {
        let service = if self.choices.below(2) == 0 { Service::Reservation } else { Service::Movie };
        let replica = self.any_replica(service);
        let shard = self.choices.below(SHARDS);
        let most = 1 + self.choices.below(BATCH);
        self.relay(replica, shard, most)
    }

    /// One step of a relay: take the lock, read, send one row, or delete what is acknowledged.
    fn relay(&mut self, replica: usize, shard: usize, most: usize) -> Result<bool, Violation> {
        let name = self.name(replica);
        let service = self.replicas[replica].service;
        let holder = self.databases[&service].relays[shard];
        let sending = &mut self.replicas[replica].sending[shard];
        if let Some((_, record)) = sending.batch.get(sending.sent) {
            // Whether or not it still holds the lock.
            let record = record.clone();
            sending.sent += 1;
            tell!(self, "{name} sends {}", short(&record));
            self.append(record)?;
            return Ok(true);
        }
        let sent = std::mem::take(sending);
        if holder == Some(replica) {
            let database = self.database(service);
            sent.batch.iter().for_each(|(seq, _)| drop(database.outbox.remove(seq)));
            let rows = database.outbox.iter().filter(|(_, row)| shard_of(row) == shard);
            let batch: Vec<_> = rows.take(most).map(|(seq, row)| (*seq, row.clone())).collect();
            let did = !batch.is_empty() || !sent.batch.is_empty();
            self.replicas[replica].sending[shard] = Sending { batch, sent: 0 };
            return Ok(did);
        }
        if holder.is_none() {
            tell!(self, "{name} takes shard {shard}");
            self.database(service).relays[shard] = Some(replica);
        }
        Ok(holder.is_none())
    }

    fn append(&mut self, record: Record) -> Result<(), Violation> {
        self.checks.appended(&record)?;
        self.log.append(record);
        Ok(())
    }

    fn sweep(&mut self) -> bool {
        let replica = self.any_replica(Service::Reservation);
        self.begin(replica, Work::Sweep, None, Vec::new())
    }

    fn wait(&mut self) -> bool {
        let seconds = i64::try_from(self.choices.below(20)).unwrap_or_default();
        self.clock += TimeDelta::seconds(seconds);
        tell!(self, "{seconds} s pass");
        true
    }

    /// `kill -9`, and started again at once.
    fn crash(&mut self) -> bool {
        let replica = self.choices.below(self.replicas.len());
        tell!(self, "{} is killed", self.name(replica));
        self.open.retain(|tx| tx.replica != replica);
        let dead = &mut self.replicas[replica];
        (dead.positions, dead.sending) = Default::default();
        let service = dead.service;
        for holder in &mut self.database(service).relays {
            if *holder == Some(replica) {
                *holder = None;
            }
        }
        true
    }

    /// A partition is another replica's; the one that had it does not know yet.
    fn rebalance(&mut self) -> bool {
        let service = Service::ALL[self.choices.below(Service::ALL.len())];
        let partition = self.choices.below(PARTITIONS);
        let replica = self.any_replica(service);
        let before = self.assigned.insert((service, partition), replica);
        // Its new owner reads where to begin.
        if before != Some(replica) {
            self.replicas[replica].positions.remove(&partition);
            tell!(self, "{} is given partition {partition}", self.name(replica));
        }
        before != Some(replica)
    }

    /// A relay's connection is cut: its lock is free, and it goes on sending.
    fn lose_relay(&mut self) -> bool {
        let service = if self.choices.below(2) == 0 { Service::Reservation } else { Service::Movie };
        let shard = self.choices.below(SHARDS);
        let lost = self.database(service).relays[shard].take();
        if let Some(replica) = lost {
            tell!(self, "{} loses shard {shard}, and goes on sending", self.name(replica));
        }
        lost.is_some()
    }

    /// Somebody sends any record again.
    fn repeat_record(&mut self) -> Result<bool, Violation> {
        let count = self.log.records().count();
        let number = self.choices.below(count);
        let Some(record) = self.log.records().nth(number).cloned() else { return Ok(false) };
        tell!(self, "again in the log: {}", short(&record));
        self.append(record)?;
        Ok(true)
    }

    /// Nothing goes wrong any more: everything is carried to its end, and then all must be as promised.
    ///
    /// # Errors
    /// What is not.
    pub fn come_to_rest(&mut self) -> Result<(), Violation> {
        const ROUNDS: usize = 200;
        tell!(self, "--- from here on nothing goes wrong");
        for _ in 0..ROUNDS {
            if !self.round()? {
                if !self.overdue() {
                    return self.checks.at_rest(&self.databases, &self.log, &self.calls);
                }
                self.clock += TimeDelta::seconds(DEADLINE_SECS + 1);
                self.sweep();
            }
        }
        Err(Violation::new(format!("it does not come to rest within {ROUNDS} rounds")))
    }

    fn overdue(&self) -> bool {
        let pending = |row: &reservation::reservation::Reservation| row.status.as_str() == "PENDING";
        self.databases[&Service::Reservation].tables.reservations.values().any(pending)
    }

    /// Everybody takes a turn. Says whether somebody had something to do.
    fn round(&mut self) -> Result<bool, Violation> {
        let mut did = self.end_all()?;
        for call in self.calls.unanswered() {
            did |= self.send(&[call]);
            self.end_all()?;
        }
        for replica in 0..self.replicas.len() {
            for shard in 0..SHARDS {
                while self.relay(replica, shard, BATCH)? {
                    did = true;
                }
            }
            for partition in 0..PARTITIONS {
                while self.consume(replica, partition, BATCH) {
                    did = true;
                    self.end_all()?;
                }
            }
        }
        Ok(did)
    }

    fn end_all(&mut self) -> Result<bool, Violation> {
        let open = std::mem::take(&mut self.open);
        for transaction in &open {
            self.commit(transaction, true)?;
        }
        Ok(!open.is_empty())
    }

    fn name(&self, replica: usize) -> String {
        format!("{:?} {}", self.replicas[replica].service, replica % REPLICAS + 1)
    }
}

fn shard_of(record: &Record) -> usize {
    place(record.event.movie_id()) / PARTITIONS % SHARDS
}

/// `TicketsAllocated of r3 (7)`.
pub fn short(record: &Record) -> String {
    let about = match record.event.reservation_id() {
        Some(id) => format!("r{}", id.0.as_u128()),
        None => format!("m{}", record.event.movie_id().0.as_u128()),
    };
    format!("{} of {about} (#{})", record.event.event_type(), record.id.0)
}

fn described(work: &Work) -> String {
    match work {
        Work::Reservation(inputs) => {
            let inputs = inputs.iter().map(|input| Call::described(input.id, &input.command));
            inputs.collect::<Vec<_>>().join(", ")
        }
        Work::Movie(inputs) => inputs
            .iter()
            .map(|input| {
                format!("{:?}", input.command).split_whitespace().next().unwrap_or_default().to_owned()
            })
            .collect::<Vec<_>>()
            .join(", "),
        Work::Batch(_, batch) => {
            let names = batch.iter().map(|delivery| format!("#{}", delivery.id.0));
            format!("a batch [{}]", names.collect::<Vec<_>>().join(" "))
        }
        Work::Sweep => "the deadlines".to_owned(),
    }
}

fn described_rows(rows: &[(u64, Record)]) -> String {
    if rows.is_empty() {
        return "no event".to_owned();
    }
    rows.iter().map(|(seq, record)| format!("{} at seq {seq}", short(record))).collect::<Vec<_>>().join(", ")
}
