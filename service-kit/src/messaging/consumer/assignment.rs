//! What a rebalance does: positions come from the service's own database, and every partition that is
//! assigned gets a queue and a task of its own.
//!
//! librdkafka calls [`ConsumerContext::rebalance`] on the thread that polls, so the database is read on
//! another one, and waited for within a bound. A partition whose position is not known by then is
//! assigned, but paused; its task finds the position and has it start there.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rdkafka::client::ClientContext;
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::statistics::{self, Statistics};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, info, warn};

use super::offset::{self, Position};
use super::queue::Queue;
use crate::messaging::metrics::EventMetrics;
use crate::messaging::record::Record;

/// How long a rebalance waits for the positions.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the same error is not logged again: while a broker is away there are several a second.
const SAME_ERROR: Duration = Duration::from_secs(30);

/// Statistics, one a second, in which a partition may stand still with something to fetch: longer means a
/// client that has stalled. The process ends, and its successor begins anew.
const WATCHDOG_SAMPLES: u32 = 60;

/// A partition that was assigned, for the receiving task to start.
#[derive(Debug)]
pub(super) struct Assigned {
    pub partition: i32,
    pub queue: Arc<Queue>,
    /// `None` if the database didn't say in time.
    pub position: Option<Position>,
}

/// An assigned partition as the receiving task sees it.
#[derive(Debug)]
pub(super) struct Slot {
    pub queue: Arc<Queue>,
    /// What didn't fit; while there is any, the partition is paused.
    pub held: VecDeque<Record>,
    /// Fetching is stopped until its task says where to start, or for good.
    pub parked: bool,
    /// The position, as its task last committed it; -1 while it is unknown.
    pub applied: Arc<AtomicI64>,
    /// The position that Kafka was last told, as a hint for lag tools.
    pub hinted: i64,
    /// Consecutive statistics in which there was something to fetch and nothing moved.
    pub idle: Idle,
}

#[derive(Debug, Default)]
pub(super) struct Idle {
    at: i64,
    times: u32,
}

impl Idle {
    fn observe(&mut self, stuck: bool, at: i64) -> u32 {
        self.times = if stuck && at == self.at { self.times + 1 } else { 0 };
        self.at = at;
        self.times
    }
}

/// Where a consumer's first fetch begins: one before the position, to see whether the record there is
/// still the one that was applied.
pub(super) fn start_offset(position: &Position) -> Offset {
    match (position.next, &position.last_record) {
        (0, _) => Offset::Beginning,
        (next, Some(_)) => Offset::Offset(next - 1),
        (next, None) => Offset::Offset(next),
    }
}

/// The consumer's context.
pub(super) struct Assignments {
    topic: String,
    positions: PositionReader,
    capacity_freed: Arc<Notify>,
    slots: Mutex<HashMap<i32, Slot>>,
    assigned: mpsc::UnboundedSender<Assigned>,
    metrics: EventMetrics,
    /// Why the consumer can't go on, if so.
    failure: Mutex<Option<String>>,
    /// What the client last complained of, and when that was logged.
    last_error: Mutex<Option<(KafkaError, Instant)>>,
}

impl Assignments {
    /// # Errors
    /// A thread that can't be started.
    pub(super) fn new(
        topic: &str,
        consumer: &str,
        database: PgConnectOptions,
        metrics: EventMetrics,
        capacity_freed: Arc<Notify>,
        assigned: mpsc::UnboundedSender<Assigned>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            topic: topic.to_owned(),
            positions: PositionReader::start(topic, consumer, database)?,
            capacity_freed,
            slots: Mutex::default(),
            assigned,
            metrics,
            failure: Mutex::default(),
            last_error: Mutex::default(),
        })
    }

    pub(super) fn slots(&self) -> MutexGuard<'_, HashMap<i32, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened in a callback that the process must not survive.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, reason: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }

    /// Gives each partition its start and its queue; answers those whose position is not known.
    fn assign(&self, tpl: &mut TopicPartitionList) -> TopicPartitionList {
        let partitions: Vec<i32> = tpl.elements().iter().map(|element| element.partition()).collect();
        let positions = self.positions.read(partitions.clone());
        let mut unknown = TopicPartitionList::new();
        for partition in partitions {
            let position = positions.get(&partition).cloned();
            // The log's end would be a place that a late answer of the broker's could jump to.
            let start = position.as_ref().map_or(Offset::Beginning, start_offset);
            if let Err(error) = tpl.set_partition_offset(&self.topic, partition, start) {
                self.fail(format!("setting where partition {partition} starts: {error}"));
            }
            if position.is_none() {
                unknown.add_partition(&self.topic, partition);
            }
            self.add(partition, position);
        }
        unknown
    }

    fn add(&self, partition: i32, position: Option<Position>) {
        let queue = Arc::new(Queue::new(Arc::clone(&self.capacity_freed)));
        let applied = position.as_ref().map_or(-1, |position| position.next);
        let slot = Slot {
            queue: Arc::clone(&queue),
            held: VecDeque::new(),
            parked: position.is_none(),
            applied: Arc::new(AtomicI64::new(applied)),
            hinted: 0,
            idle: Idle::default(),
        };
        if let Some(old) = self.slots().insert(partition, slot) {
            old.queue.close();
        }
        // The receiving task outlives the consumer; if it is gone, nothing is to be started.
        self.assigned.send(Assigned { partition, queue, position }).ok();
    }

    fn revoke(&self, tpl: &TopicPartitionList) {
        for element in tpl.elements() {
            self.remove(element.partition());
        }
    }

    fn remove(&self, partition: i32) {
        if let Some(slot) = self.slots().remove(&partition) {
            slot.queue.close();
        }
        let labels = [self.topic.as_str(), &partition.to_string()];
        // Absent if no statistics came while it was assigned.
        self.metrics.lag.remove_label_values(&labels).ok();
        self.metrics.held.remove_label_values(&labels).ok();
    }

    /// Ends the partitions' tasks once what they have in work is committed.
    pub(super) fn close_all(&self) {
        for slot in self.slots().values() {
            slot.queue.close();
        }
    }

    /// Looks for partitions in which nothing moves although there is something to fetch: a client that has
    /// stalled. Whoever is paused, or still busy with a batch, is not.
    fn watch(&self, statistics: &Statistics, topic: &statistics::Topic) {
        for (partition, slot) in self.slots().iter_mut() {
            let Some(stats) = topic.partitions.get(partition) else { continue };
            let reachable = statistics
                .brokers
                .values()
                .any(|broker| broker.nodeid == stats.leader && broker.state == "UP");
            let at = stats.next_offset;
            let waiting = stats.ls_offset > at || stats.fetch_state != "active";
            let paused = slot.parked || !slot.held.is_empty();
            let stuck = reachable && waiting && !paused && slot.queue.is_idle();
            if slot.idle.observe(stuck, at) >= WATCHDOG_SAMPLES {
                self.fail(format!(
                    "partition {partition} of {} has stood at {at} for {WATCHDOG_SAMPLES} statistics, its log ends \
                     at {}, fetching is {}",
                    self.topic, stats.ls_offset, stats.fetch_state
                ));
            }
        }
    }
}

impl ClientContext for Assignments {
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        for (partition, slot) in self.slots().iter() {
            let Some(stats) = topic.partitions.get(partition) else { continue };
            let applied = slot.applied.load(Ordering::Relaxed);
            if applied >= 0 && stats.hi_offset >= 0 {
                let lag = (stats.hi_offset - applied.max(stats.lo_offset)).max(0);
                self.metrics.lag.with_label_values(&[self.topic.as_str(), &partition.to_string()]).set(lag);
            }
        }
        self.watch(&statistics, topic);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let again = last.as_ref().is_some_and(|(before, at)| *before == error && at.elapsed() < SAME_ERROR);
        if again {
            debug!(kafka.topic = self.topic, %error, reason, "Kafka, again");
        } else {
            warn!(kafka.topic = self.topic, %error, reason, "Kafka");
            *last = Some((error, Instant::now()));
        }
    }
}

impl ConsumerContext for Assignments {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, tpl: &mut TopicPartitionList) {
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let result = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                info!(kafka.topic = self.topic, partitions = tpl.count(), "partitions were assigned");
                let unknown = self.assign(tpl);
                let assigned =
                    if cooperative { consumer.incremental_assign(tpl) } else { consumer.assign(tpl) };
                // A pause outlives the assignment that it was meant for.
                assigned.and_then(|()| consumer.resume(tpl)).and_then(|()| consumer.pause(&unknown))
            }
            _ => {
                info!(kafka.topic = self.topic, partitions = tpl.count(), "partitions were revoked");
                self.revoke(tpl);
                if cooperative { consumer.incremental_unassign(tpl) } else { consumer.unassign() }
            }
        };
        if let Err(error) = result {
            self.fail(format!("a rebalance: {error}"));
        }
        self.metrics.assigned.set(i64::try_from(self.slots().len()).unwrap_or(i64::MAX));
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            debug!(kafka.topic = self.topic, %error, "the hint for lag tools was not taken");
        }
    }
}

type Answer = anyhow::Result<Vec<(i32, Position)>>;

/// Reads positions on a thread of its own.
struct PositionReader {
    requests: Mutex<std::sync::mpsc::Sender<(Vec<i32>, SyncSender<Answer>)>>,
}

impl PositionReader {
    fn start(topic: &str, consumer: &str, database: PgConnectOptions) -> anyhow::Result<Self> {
        let (requests, inbox) = std::sync::mpsc::channel::<(Vec<i32>, SyncSender<Answer>)>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (topic, consumer) = (topic.to_owned(), consumer.to_owned());
        let serve = move || {
            // Ends with the consumer, whose end of the channel it is.
            while let Ok((partitions, reply)) = inbox.recv() {
                let read = read(&database, &consumer, &topic, &partitions);
                // Whoever asked may have stopped waiting.
                reply.send(runtime.block_on(read)).ok();
            }
        };
        std::thread::Builder::new().name("positions".into()).spawn(serve).context("starting a thread")?;
        Ok(Self { requests: Mutex::new(requests) })
    }

    /// What is known within the bound: nothing if the database is away.
    fn read(&self, partitions: Vec<i32>) -> HashMap<i32, Position> {
        let (reply, answer) = sync_channel(1);
        let sent = self.requests.lock().unwrap_or_else(PoisonError::into_inner).send((partitions, reply));
        if sent.is_err() {
            return HashMap::new();
        }
        match answer.recv_timeout(READ_TIMEOUT) {
            Ok(Ok(positions)) => positions.into_iter().collect(),
            Ok(Err(error)) => {
                warn!(error = %format!("{error:#}"), "positions can't be read now; their tasks will");
                HashMap::new()
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                warn!("positions were not read in time; their tasks will");
                HashMap::new()
            }
        }
    }
}

async fn read(database: &PgConnectOptions, consumer: &str, topic: &str, partitions: &[i32]) -> Answer {
    let read = async {
        let mut connection = PgConnection::connect_with(database).await?;
        let positions = offset::read(&mut connection, consumer, topic, partitions).await?;
        connection.close().await?;
        Ok(positions)
    };
    tokio::time::timeout(READ_TIMEOUT, read).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fetch_sees_the_last_record_again() {
        let position = |next, last: Option<&str>| Position { next, last_record: last.map(Into::into) };
        assert_eq!(start_offset(&position(0, None)), Offset::Beginning);
        assert_eq!(start_offset(&position(7, Some("id:x"))), Offset::Offset(6));
        assert_eq!(start_offset(&position(7, None)), Offset::Offset(7), "set by an operator");
    }

    #[test]
    fn an_assignment_ends_with_its_queue() {
        let (assigned, _received) = mpsc::unbounded_channel();
        let metrics = EventMetrics::new(&prometheus::Registry::new()).unwrap();
        let database = PgConnectOptions::new();
        let assignments =
            Assignments::new("t", "movie", database, metrics, Arc::default(), assigned).unwrap();
        let assign = || {
            assignments.add(3, None);
            Arc::clone(&assignments.slots()[&3].queue)
        };
        let first = assign();
        let mut revoked = TopicPartitionList::new();
        revoked.add_partition("t", 3);
        assignments.revoke(&revoked);
        assert!(first.is_closed() && assignments.slots().is_empty());
        let (second, third) = (assign(), assign());
        assert!(second.is_closed(), "assigned again without having been revoked");
        assert!(!third.is_closed());
    }
}
