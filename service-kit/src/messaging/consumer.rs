//! The receiving task of a service's consumer: hands each record to its partition's queue, and alone
//! touches the consumer. It never awaits the database.

mod assignment;
pub mod offset;
mod partition;
mod queue;

pub use partition::EventHandler;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::FutureExt;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use shared_events::Consumer;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::assignment::{Assigned, Assignments};
use self::partition::{Partition, Request, Shared};
use self::queue::Queue;
use super::failpoint::failpoint_sync;
use super::failpoints;
use super::kafka::Kafka;
use super::metrics::EventMetrics;
use super::outbox::Outbox;
use super::record::Record;

/// Records that are handed on before other work gets its turn.
const RECORDS_A_TURN: usize = 1_000;

/// How often lag tools get a hint of where the consumer stands, and the watchdog looks.
const TICK: Duration = Duration::from_secs(1);

/// How long one call of the client may block.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long partitions may take to finish their batch when the process stops, and then the group's
/// farewell.
const DRAIN: Duration = Duration::from_secs(6);

/// What one service consumes, and with what.
pub struct EventConsumer<H> {
    pub consumer: Consumer,
    pub kafka: Kafka,
    pub pool: PgPool,
    pub database: PgConnectOptions,
    pub outbox: Outbox,
    pub metrics: EventMetrics,
    pub handler: H,
}

impl<H: EventHandler> EventConsumer<H> {
    /// Consumes until told to stop; then what is in work is finished.
    ///
    /// # Errors
    /// A fatal fault of a partition, or a client that has stalled or failed for good.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            ready = self.kafka.ensure_topics() => ready?,
        }
        let topics = self.kafka.topics().clone();
        let topic = topics.name(self.consumer.topic());
        let capacity_freed = Arc::new(Notify::new());
        let (assigned, assignments) = mpsc::unbounded_channel();
        let context = Assignments::new(
            &topic,
            self.consumer.as_str(),
            self.database,
            self.metrics.clone(),
            Arc::clone(&capacity_freed),
            assigned,
        )?;
        let consumer: StreamConsumer<Assignments> = self
            .kafka
            .consumer_settings(&topics.group(self.consumer))
            .create_with_context(context)
            .context("the Kafka settings")?;
        consumer.subscribe(&[&topic])?;
        let shared = Shared {
            consumer: self.consumer.as_str(),
            dead_letters: topics.dead_letters(self.consumer.topic()),
            topic,
            pool: self.pool,
            outbox: self.outbox,
            metrics: self.metrics,
            handler: self.handler,
        };
        let (requests, inbox) = mpsc::channel(64);
        let receiver = Receiver {
            consumer: Arc::new(consumer),
            shared: Arc::new(shared),
            capacity_freed,
            tasks: JoinSet::new(),
            requests,
        };
        receiver.run(assignments, inbox, shutdown).await
    }
}

struct Receiver<H> {
    consumer: Arc<StreamConsumer<Assignments>>,
    shared: Arc<Shared<H>>,
    capacity_freed: Arc<Notify>,
    tasks: JoinSet<anyhow::Result<()>>,
    requests: mpsc::Sender<Request>,
}

impl<H: EventHandler> Receiver<H> {
    async fn run(
        mut self,
        mut assigned: mpsc::UnboundedReceiver<Assigned>,
        mut requests: mpsc::Receiver<Request>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let result = self.receive(&mut assigned, &mut requests, &shutdown).await;
        // Tasks may be waiting for an answer to a request: dropping the channel gives them one.
        drop(requests);
        let drained = self.drain().await;
        result.and(drained)
    }

    async fn receive(
        &mut self,
        assigned: &mut mpsc::UnboundedReceiver<Assigned>,
        requests: &mut mpsc::Receiver<Request>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let consumer = Arc::clone(&self.consumer);
        let capacity_freed = Arc::clone(&self.capacity_freed);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(assigned) = assigned.recv() => self.start(assigned),
                Some(request) = requests.recv() => self.serve(request)?,
                () = capacity_freed.notified() => self.hand_over_held()?,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => ended??,
                _ = tick.tick() => self.tick()?,
                message = consumer.recv() => {
                    self.received(message.map(|message| Record::read(&message)))?;
                    for _ in 1..RECORDS_A_TURN {
                        let Some(message) = consumer.recv().now_or_never() else { break };
                        self.received(message.map(|message| Record::read(&message)))?;
                    }
                }
            }
        }
    }

    fn start(&mut self, assigned: Assigned) {
        let slots = self.consumer.context().slots();
        let Some(slot) = slots.get(&assigned.partition) else { return };
        if !Arc::ptr_eq(&slot.queue, &assigned.queue) {
            return;
        }
        let applied = Arc::clone(&slot.applied);
        drop(slots);
        let partition = Partition::new(Arc::clone(&self.shared), assigned, applied, self.requests.clone());
        self.tasks.spawn(partition.run());
    }

    fn received(&self, record: Result<Record, KafkaError>) -> anyhow::Result<()> {
        match record {
            Ok(record) => self.hand_over(record),
            Err(error) => self.trouble(&error),
        }
    }

    fn hand_over(&self, record: Record) -> anyhow::Result<()> {
        let partition = record.partition;
        let mut slots = self.consumer.context().slots();
        // Of an older assignment, or of one that is to start elsewhere.
        let Some(slot) = slots.get_mut(&partition).filter(|slot| !slot.parked) else { return Ok(()) };
        if !slot.held.is_empty() {
            slot.held.push_back(record);
            return Ok(());
        }
        if let Err(record) = slot.queue.push(record) {
            slot.held.push_back(record);
            drop(slots);
            // Fetching goes on after the held record once there is room.
            self.consumer.pause(&self.only(partition)).context("pausing a partition")?;
        }
        Ok(())
    }

    fn hand_over_held(&self) -> anyhow::Result<()> {
        let mut free = Vec::new();
        for (partition, slot) in self.consumer.context().slots().iter_mut() {
            if slot.parked || slot.held.is_empty() {
                continue;
            }
            while let Some(record) = slot.held.pop_front() {
                if let Err(record) = slot.queue.push(record) {
                    slot.held.push_front(record);
                    break;
                }
            }
            if slot.held.is_empty() {
                free.push(*partition);
            }
        }
        for partition in free {
            self.consumer.resume(&self.only(partition)).context("resuming a partition")?;
        }
        Ok(())
    }

    fn trouble(&self, error: &KafkaError) -> anyhow::Result<()> {
        match error {
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
            ) => {
                // It doesn't say which.
                for slot in self.consumer.context().slots().values() {
                    slot.queue.report_out_of_range();
                }
            }
            KafkaError::MessageConsumptionFatal(code) => bail!("the consumer failed for good: {code}"),
            // The client's own complaint was logged where it came in.
            error => debug!(kafka.topic = self.shared.topic, %error, "receiving"),
        }
        Ok(())
    }

    fn serve(&self, request: Request) -> anyhow::Result<()> {
        match request {
            Request::Restart { partition, queue, at, done } => {
                // Whoever asked may have ended.
                done.send(self.restart(partition, &queue, at)?).ok();
            }
            Request::Watermarks { partition, answer } => self.watermarks(partition, answer),
            Request::Park { partition, queue } => self.park(partition, &queue)?,
        }
        Ok(())
    }

    fn is_current(&self, partition: i32, queue: &Arc<Queue>) -> bool {
        let slots = self.consumer.context().slots();
        slots.get(&partition).is_some_and(|slot| Arc::ptr_eq(&slot.queue, queue))
    }

    /// Has the partition fetched from `at`. It is taken out of the assignment and put in again: a seek can't
    /// revive one whose offset the broker has refused, and may be overtaken by an answer that is on its way.
    /// Nothing is received meanwhile, so whatever comes afterwards comes from there.
    fn restart(&self, partition: i32, queue: &Arc<Queue>, at: Offset) -> anyhow::Result<bool> {
        if !self.is_current(partition, queue) {
            return Ok(false);
        }
        self.consumer.incremental_unassign(&self.only(partition)).context("taking a partition out")?;
        queue.clear();
        let mut start = TopicPartitionList::with_capacity(1);
        start.add_partition_offset(&self.shared.topic, partition, at)?;
        self.consumer.incremental_assign(&start).context("putting a partition in again")?;
        if let Some(slot) = self.consumer.context().slots().get_mut(&partition) {
            slot.held.clear();
            slot.parked = false;
        }
        self.consumer.resume(&self.only(partition)).context("resuming a partition")?;
        Ok(true)
    }

    fn park(&self, partition: i32, queue: &Arc<Queue>) -> anyhow::Result<()> {
        if !self.is_current(partition, queue) {
            return Ok(());
        }
        if let Some(slot) = self.consumer.context().slots().get_mut(&partition) {
            slot.parked = true;
            slot.held.clear();
        }
        self.consumer.pause(&self.only(partition)).context("pausing a partition")
    }

    fn watermarks(&self, partition: i32, answer: oneshot::Sender<Option<(i64, i64)>>) {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.shared.topic.clone());
        tokio::task::spawn_blocking(move || {
            let watermarks = consumer.fetch_watermarks(&topic, partition, CALL_TIMEOUT);
            // Whoever asked may have ended.
            answer.send(watermarks.ok()).ok();
        });
    }

    fn tick(&self) -> anyhow::Result<()> {
        let hints = self.hints();
        if hints.count() > 0
            && let Err(error) =
                failpoint_sync(failpoints::COMMIT_OFFSET, || self.consumer.commit(&hints, CommitMode::Async))
        {
            debug!(%error, "the hint for lag tools was not taken");
        }
        match self.consumer.context().failure() {
            Some(reason) => bail!(reason),
            None => Ok(()),
        }
    }

    /// Where each partition stands, as Kafka's own committed offset.
    fn hints(&self) -> TopicPartitionList {
        let mut hints = TopicPartitionList::new();
        for (partition, slot) in self.consumer.context().slots().iter_mut() {
            let applied = slot.applied.load(Ordering::Relaxed);
            if applied > slot.hinted {
                slot.hinted = applied;
                let added =
                    hints.add_partition_offset(&self.shared.topic, *partition, Offset::Offset(applied));
                if let Err(error) = added {
                    debug!(%error, "a hint for lag tools");
                }
            }
        }
        hints
    }

    fn only(&self, partition: i32) -> TopicPartitionList {
        let mut tpl = TopicPartitionList::with_capacity(1);
        tpl.add_partition(&self.shared.topic, partition);
        tpl
    }

    /// Lets the batches in work commit, then leaves the group.
    async fn drain(mut self) -> anyhow::Result<()> {
        self.consumer.context().close_all();
        let mut result = Ok(());
        let tasks = async {
            while let Some(ended) = self.tasks.join_next().await {
                result = std::mem::replace(&mut result, Ok(()))
                    .and(ended.map_err(Into::into).and_then(|ended| ended));
            }
        };
        if timeout(DRAIN, tasks).await.is_err() {
            warn!(kafka.topic = self.shared.topic, "a batch in work is given up; it was not committed");
        }
        self.tasks.shutdown().await;
        let hints = self.hints();
        let consumer = self.consumer;
        let farewell = tokio::task::spawn_blocking(move || {
            if hints.count() > 0
                && failpoint_sync(failpoints::COMMIT_OFFSET, || consumer.commit(&hints, CommitMode::Async))
                    .is_err()
            {
                debug!("the last hint for lag tools was not taken");
            }
            drop(consumer);
        });
        if timeout(DRAIN, farewell).await.is_err() {
            warn!(kafka.topic = self.shared.topic, "Kafka is away: the group will notice by itself");
        }
        result
    }
}
