//! Rebalances: positions come from the service's own database, and each assigned partition gets a queue and a task
//! of its own.
//!
//! librdkafka calls [`ConsumerContext::rebalance`] on the thread that polls, so another thread reads the database,
//! and the rebalance waits for it within a bound. A partition whose position is not known by then is assigned, but
//! paused. Its task finds the position and restarts the partition there.
//!
//! # The states of a partition
//!
//! - *Running*: its records are fetched, queued and applied. None of the following applies.
//! - *Position unknown* (`PartitionTask::position_known` is false, `AssignedPartition::paused` is true): paused since
//!   the assignment. Ends when the task has found the position and restarts the partition there.
//! - *Queue full* (`AssignedPartition::overflow` is not empty): paused after the record that didn't fit. Ends when the
//!   queue has taken the overflow; then the partition is resumed.
//! - *Recheck* (`PartitionTask::suspect_offset`): an unexpected record came, so the records are fetched once more from
//!   the position. If the same offset comes again, it is either accepted as a gap in the log, or it shows that this is
//!   another log, and the partition is held.
//! - *Held* (the task is in `PartitionTask::hold`, `AssignedPartition::paused` is true, the metric is 1): the log was
//!   truncated or created anew, so the partition is paused for the operator. Ends when the partition is revoked or the
//!   process stops.
//!
//! In every state a revocation closes the queue, which ends the task. A fenced task reads the position and restarts
//! the partition there.

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

/// How long the same error is not logged again: while a broker is unavailable there are several a second.
const REPEATED_ERROR_PERIOD: Duration = Duration::from_secs(30);

/// In how many consecutive statistics, one a second, a partition may make no progress with something to fetch.
/// After that the client has stalled: the process exits and is restarted.
const WATCHDOG_SAMPLES: u32 = 60;

/// A new assignment, for which the receiving task starts a partition task.
#[derive(Debug)]
pub(super) struct NewAssignment {
    pub partition: i32,
    pub queue: Arc<Queue>,
    /// `None` if the database didn't answer in time.
    pub position: Option<Position>,
}

/// An assigned partition as the receiving task sees it.
#[derive(Debug)]
pub(super) struct AssignedPartition {
    pub queue: Arc<Queue>,
    /// The records that didn't fit into the queue. While there are any, the partition is paused.
    pub overflow: VecDeque<Record>,
    /// Paused by its task: until the position is known, or until the partition is revoked because it is held.
    pub paused: bool,
    /// The position that its task last committed; -1 while it is unknown.
    pub position: Arc<AtomicI64>,
    /// The position that was last committed to Kafka, as a hint for lag tools.
    pub committed_to_kafka: i64,
    pub stalled: StallCounter,
}

/// Counts consecutive statistics in which there was something to fetch and nothing moved.
#[derive(Debug, Default)]
pub(super) struct StallCounter {
    offset: i64,
    samples: u32,
}

impl StallCounter {
    fn observe(&mut self, stalled: bool, offset: i64) -> u32 {
        self.samples = if stalled && offset == self.offset { self.samples + 1 } else { 0 };
        self.offset = offset;
        self.samples
    }
}

/// The offset of the first fetch: one before the position, to verify that the record there is still the one that was
/// applied.
pub(super) fn start_offset(position: &Position) -> Offset {
    match (position.next, &position.last_record) {
        (0, _) => Offset::Beginning,
        (next, Some(_)) => Offset::Offset(next - 1),
        (next, None) => Offset::Offset(next),
    }
}

/// The partitions assigned to this process; the context of the Kafka consumer.
pub(super) struct Assignments {
    topic: String,
    positions: PositionReader,
    capacity_freed: Arc<Notify>,
    partitions: Mutex<HashMap<i32, AssignedPartition>>,
    new_assignments: mpsc::UnboundedSender<NewAssignment>,
    metrics: EventMetrics,
    /// Why the consumer can't continue, if so.
    failure: Mutex<Option<String>>,
    /// The client's last error, and when it was logged.
    last_error: Mutex<Option<(KafkaError, Instant)>>,
}

impl Assignments {
    /// # Errors
    /// If the thread that reads positions can't be started.
    pub(super) fn new(
        topic: &str,
        consumer: &str,
        database: PgConnectOptions,
        metrics: EventMetrics,
        capacity_freed: Arc<Notify>,
        new_assignments: mpsc::UnboundedSender<NewAssignment>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            topic: topic.to_owned(),
            positions: PositionReader::start(topic, consumer, database)?,
            capacity_freed,
            partitions: Mutex::default(),
            new_assignments,
            metrics,
            failure: Mutex::default(),
            last_error: Mutex::default(),
        })
    }

    pub(super) fn partitions(&self) -> MutexGuard<'_, HashMap<i32, AssignedPartition>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault of a callback that must end the process.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, reason: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }

    /// Gives each partition its start offset and its queue. Returns the partitions whose position is not known.
    fn assign(&self, tpl: &mut TopicPartitionList) -> TopicPartitionList {
        let partitions: Vec<i32> = tpl.elements().iter().map(|element| element.partition()).collect();
        let positions = self.positions.read(partitions.clone());
        let mut unknown = TopicPartitionList::new();
        for partition in partitions {
            let position = positions.get(&partition).cloned();
            // Not the log's end: a late answer of the broker could move the partition there.
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
        let next = position.as_ref().map_or(-1, |position| position.next);
        let assigned = AssignedPartition {
            queue: Arc::clone(&queue),
            overflow: VecDeque::new(),
            paused: position.is_none(),
            position: Arc::new(AtomicI64::new(next)),
            committed_to_kafka: 0,
            stalled: StallCounter::default(),
        };
        if let Some(old) = self.partitions().insert(partition, assigned) {
            old.queue.close();
        }
        // If the receiving task has ended, no task is to be started.
        self.new_assignments.send(NewAssignment { partition, queue, position }).ok();
    }

    fn revoke(&self, tpl: &TopicPartitionList) {
        for element in tpl.elements() {
            self.remove(element.partition());
        }
    }

    fn remove(&self, partition: i32) {
        if let Some(assigned) = self.partitions().remove(&partition) {
            assigned.queue.close();
        }
        let labels = [self.topic.as_str(), &partition.to_string()];
        // The labels are absent if no statistics came during the assignment.
        self.metrics.lag.remove_label_values(&labels).ok();
        self.metrics.held.remove_label_values(&labels).ok();
    }

    /// Ends the partitions' tasks as soon as each has committed its present batch.
    pub(super) fn close_all(&self) {
        for assigned in self.partitions().values() {
            assigned.queue.close();
        }
    }

    /// The watchdog: looks for partitions in which nothing moves although there is something to fetch, because the
    /// client has stalled. A partition that is paused, or busy with a batch, has not stalled.
    fn detect_stalls(&self, statistics: &Statistics, topic: &statistics::Topic) {
        for (partition, assigned) in self.partitions().iter_mut() {
            let Some(stats) = topic.partitions.get(partition) else { continue };
            let reachable = statistics
                .brokers
                .values()
                .any(|broker| broker.nodeid == stats.leader && broker.state == "UP");
            let offset = stats.next_offset;
            let should_fetch = stats.ls_offset > offset || stats.fetch_state != "active";
            let paused = assigned.paused || !assigned.overflow.is_empty();
            let stalled = reachable && should_fetch && !paused && assigned.queue.is_idle();
            if assigned.stalled.observe(stalled, offset) >= WATCHDOG_SAMPLES {
                self.fail(format!(
                    "partition {partition} of {} has stood at {offset} for {WATCHDOG_SAMPLES} statistics, its log ends \
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
        for (partition, assigned) in self.partitions().iter() {
            let Some(stats) = topic.partitions.get(partition) else { continue };
            let position = assigned.position.load(Ordering::Relaxed);
            if position >= 0 && stats.hi_offset >= 0 {
                let lag = (stats.hi_offset - position.max(stats.lo_offset)).max(0);
                self.metrics.lag.with_label_values(&[self.topic.as_str(), &partition.to_string()]).set(lag);
            }
        }
        self.detect_stalls(&statistics, topic);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let repeated = last.as_ref().is_some_and(|(previous, logged_at)| {
            *previous == error && logged_at.elapsed() < REPEATED_ERROR_PERIOD
        });
        if repeated {
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
                // Resume first: librdkafka keeps a pause beyond the assignment that it was meant for.
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
        self.metrics.assigned.set(i64::try_from(self.partitions().len()).unwrap_or(i64::MAX));
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            debug!(kafka.topic = self.topic, %error, "committing offsets to Kafka; only lag tools need them");
        }
    }
}

type ReadResult = anyhow::Result<Vec<(i32, Position)>>;

/// Reads positions on a thread of its own.
struct PositionReader {
    requests: Mutex<std::sync::mpsc::Sender<(Vec<i32>, SyncSender<ReadResult>)>>,
}

impl PositionReader {
    fn start(topic: &str, consumer: &str, database: PgConnectOptions) -> anyhow::Result<Self> {
        let (requests, receiver) = std::sync::mpsc::channel::<(Vec<i32>, SyncSender<ReadResult>)>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (topic, consumer) = (topic.to_owned(), consumer.to_owned());
        let serve = move || {
            // The consumer holds the sender, so this thread ends with the consumer.
            while let Ok((partitions, reply)) = receiver.recv() {
                let read = read(&database, &consumer, &topic, &partitions);
                // The rebalance may have stopped waiting.
                reply.send(runtime.block_on(read)).ok();
            }
        };
        std::thread::Builder::new().name("positions".into()).spawn(serve).context("starting a thread")?;
        Ok(Self { requests: Mutex::new(requests) })
    }

    /// The positions that are read within the bound: none if the database is unavailable.
    fn read(&self, partitions: Vec<i32>) -> HashMap<i32, Position> {
        let (reply, answer) = sync_channel(1);
        let sent = self.requests.lock().unwrap_or_else(PoisonError::into_inner).send((partitions, reply));
        if sent.is_err() {
            return HashMap::new();
        }
        match answer.recv_timeout(READ_TIMEOUT) {
            Ok(Ok(positions)) => positions.into_iter().collect(),
            Ok(Err(error)) => {
                warn!(error = %format!("{error:#}"), "positions can't be read now; the partitions' tasks will read them");
                HashMap::new()
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                warn!("positions were not read in time; the partitions' tasks will read them");
                HashMap::new()
            }
        }
    }
}

async fn read(database: &PgConnectOptions, consumer: &str, topic: &str, partitions: &[i32]) -> ReadResult {
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
    fn the_first_fetch_begins_at_the_last_applied_record() {
        let position = |next, last: Option<&str>| Position { next, last_record: last.map(Into::into) };
        assert_eq!(start_offset(&position(0, None)), Offset::Beginning);
        assert_eq!(start_offset(&position(7, Some("id:x"))), Offset::Offset(6));
        assert_eq!(start_offset(&position(7, None)), Offset::Offset(7), "set by an operator");
    }

    #[test]
    fn an_assignment_ends_with_its_queue() {
        let (new_assignments, _receiver) = mpsc::unbounded_channel();
        let metrics = EventMetrics::new(&prometheus::Registry::new()).unwrap();
        let database = PgConnectOptions::new();
        let assignments =
            Assignments::new("t", "movie", database, metrics, Arc::default(), new_assignments).unwrap();
        let assign = || {
            assignments.add(3, None);
            Arc::clone(&assignments.partitions()[&3].queue)
        };
        let first = assign();
        let mut revoked = TopicPartitionList::new();
        revoked.add_partition("t", 3);
        assignments.revoke(&revoked);
        assert!(first.is_closed() && assignments.partitions().is_empty());
        let (second, third) = (assign(), assign());
        assert!(second.is_closed(), "assigned again without having been revoked");
        assert!(!third.is_closed());
    }
}
