//! What a rebalance does: positions come from the service's own database, and every partition that is
//! assigned gets a queue and a task of its own.
//!
//! librdkafka calls [`ConsumerContext::rebalance`] on the thread that polls, so the database is read on
//! another one, and waited for within a bound. A partition whose position is not known by then is
//! assigned at the log's end; its task finds the position and seeks before it takes anything.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rdkafka::client::ClientContext;
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, info, warn};

use super::metrics::EventMetrics;
use super::offset::{self, Position};
use super::queue::Queue;
use super::record::Record;

/// How long a rebalance waits for the positions.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// A partition that was assigned, for the receiving task to start.
#[derive(Debug)]
pub struct Assigned {
    pub partition: i32,
    pub queue: Arc<Queue>,
    /// `None` if the database didn't say in time.
    pub position: Option<Position>,
}

/// An assigned partition as the receiving task sees it.
#[derive(Debug)]
pub struct Slot {
    pub queue: Arc<Queue>,
    /// What didn't fit; while there is any, the partition is paused.
    pub held: VecDeque<Record>,
    /// The offset after the last record that was applied, as a hint for lag tools.
    pub hint: Arc<std::sync::atomic::AtomicI64>,
}

/// Where a consumer's first fetch begins: one before the position, to see whether the record there is
/// still the one that was applied.
pub fn start_offset(position: &Position) -> Offset {
    match (position.next, &position.last_record) {
        (0, _) => Offset::Beginning,
        (next, Some(_)) => Offset::Offset(next - 1),
        (next, None) => Offset::Offset(next),
    }
}

/// The consumer's context.
pub struct Assignments {
    topic: String,
    positions: PositionReader,
    room: Arc<Notify>,
    slots: Mutex<HashMap<i32, Slot>>,
    assigned: mpsc::UnboundedSender<Assigned>,
    metrics: EventMetrics,
    /// Something is fetched, and nobody has taken it since the last look.
    waiting: AtomicBool,
}

impl Assignments {
    /// # Errors
    /// A thread that can't be started.
    pub fn new(
        topic: &str,
        consumer: &str,
        database: PgConnectOptions,
        metrics: EventMetrics,
        room: Arc<Notify>,
        assigned: mpsc::UnboundedSender<Assigned>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            topic: topic.to_owned(),
            positions: PositionReader::start(topic, consumer, database)?,
            room,
            slots: Mutex::default(),
            assigned,
            metrics,
            waiting: AtomicBool::new(false),
        })
    }

    pub fn slots(&self) -> MutexGuard<'_, HashMap<i32, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether records were fetched and not taken, when statistics last came.
    pub fn waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    fn assign(&self, tpl: &mut TopicPartitionList) {
        let partitions: Vec<i32> = tpl.elements().iter().map(|element| element.partition()).collect();
        let positions = self.positions.read(partitions.clone());
        for partition in partitions {
            let position = positions.get(&partition).cloned();
            let start = position.as_ref().map_or(Offset::End, start_offset);
            if let Err(error) = tpl.set_partition_offset(&self.topic, partition, start) {
                warn!(kafka.topic = self.topic, kafka.partition = partition, %error, "setting the start");
            }
            self.add(partition, position);
        }
    }

    fn add(&self, partition: i32, position: Option<Position>) {
        let queue = Arc::new(Queue::new(Arc::clone(&self.room)));
        let hint = Arc::default();
        let slot = Slot { queue: Arc::clone(&queue), held: VecDeque::new(), hint };
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

    pub fn close_all(&self) {
        for (_, slot) in self.slots().drain() {
            slot.queue.close();
        }
    }
}

impl ClientContext for Assignments {
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        let slots = self.slots();
        let mut waiting = false;
        for (partition, stats) in &topic.partitions {
            let Some(slot) = slots.get(partition) else { continue };
            if stats.consumer_lag >= 0 {
                self.metrics
                    .lag
                    .with_label_values(&[self.topic.as_str(), &partition.to_string()])
                    .set(stats.consumer_lag);
            }
            waiting |= stats.fetchq_cnt > 0 && slot.held.is_empty();
        }
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        warn!(kafka.topic = self.topic, %error, reason, "Kafka");
    }
}

impl ConsumerContext for Assignments {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, tpl: &mut TopicPartitionList) {
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let result = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                info!(kafka.topic = self.topic, partitions = tpl.count(), "partitions were assigned");
                self.assign(tpl);
                let assigned =
                    if cooperative { consumer.incremental_assign(tpl) } else { consumer.assign(tpl) };
                // A pause outlives the assignment that it was meant for.
                assigned.and_then(|()| consumer.resume(tpl))
            }
            _ => {
                info!(kafka.topic = self.topic, partitions = tpl.count(), "partitions were revoked");
                self.revoke(tpl);
                if cooperative { consumer.incremental_unassign(tpl) } else { consumer.unassign() }
            }
        };
        if let Err(error) = result {
            warn!(kafka.topic = self.topic, %error, "a rebalance");
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
}
