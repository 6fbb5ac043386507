//! A service's consumer. Its receiving task puts each record into its partition's queue. It is the only task that
//! calls the Kafka client, and it never awaits the database.
//!
//! - `assignment`: rebalances, the states of a partition, the watchdog.
//! - `queue`: the bounded queue of a partition.
//! - `partition`: a partition's task, which applies the records.
//! - [`offset`]: the stored positions.

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

use self::assignment::{Assignments, NewAssignment};
use self::partition::{PartitionTask, Request, Shared};
use self::queue::Queue;
use super::failpoint::failpoint_sync;
use super::failpoints;
use super::kafka::Kafka;
use super::metrics::EventMetrics;
use super::outbox::Outbox;
use super::record::Record;

/// Records that are received before other work gets its turn.
const RECORDS_PER_TURN: usize = 1_000;

/// How often positions are committed to Kafka as a hint for lag tools, and failures of callbacks are checked.
const TICK: Duration = Duration::from_secs(1);

/// How long one call of the client may block.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// When the process stops, how long partitions may take to finish their batch, and then how long leaving the group
/// may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(6);

/// The consumer of one service, and its dependencies.
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
    /// Consumes until told to stop, and then finishes the batches in work.
    ///
    /// # Errors
    /// A fatal fault of a partition, or if the client has stalled or failed permanently.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            ready = self.kafka.ensure_topics() => ready?,
        }
        let topics = self.kafka.topics().clone();
        let topic = topics.name(self.consumer.topic());
        let capacity_freed = Arc::new(Notify::new());
        let (assignment_sender, assignment_receiver) = mpsc::unbounded_channel();
        let context = Assignments::new(
            &topic,
            self.consumer.as_str(),
            self.database,
            self.metrics.clone(),
            Arc::clone(&capacity_freed),
            assignment_sender,
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
        let (requests, request_receiver) = mpsc::channel(64);
        let receiver = Receiver {
            consumer: Arc::new(consumer),
            shared: Arc::new(shared),
            capacity_freed,
            tasks: JoinSet::new(),
            requests,
        };
        receiver.run(assignment_receiver, request_receiver, shutdown).await
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
        mut assignments: mpsc::UnboundedReceiver<NewAssignment>,
        mut requests: mpsc::Receiver<Request>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let result = self.receive(&mut assignments, &mut requests, &shutdown).await;
        // Tasks may be waiting for the reply to a request: dropping the channel ends that wait.
        drop(requests);
        let drained = self.drain().await;
        result.and(drained)
    }

    async fn receive(
        &mut self,
        assignments: &mut mpsc::UnboundedReceiver<NewAssignment>,
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
                Some(assignment) = assignments.recv() => self.spawn_task(assignment),
                Some(request) = requests.recv() => self.handle_request(request)?,
                () = capacity_freed.notified() => self.enqueue_overflow()?,
                // A fatal fault of a partition ends the loop.
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => ended??,
                _ = tick.tick() => self.tick()?,
                message = consumer.recv() => {
                    self.handle_received(message.map(|message| Record::from_message(&message)))?;
                    for _ in 1..RECORDS_PER_TURN {
                        let Some(message) = consumer.recv().now_or_never() else { break };
                        self.handle_received(message.map(|message| Record::from_message(&message)))?;
                    }
                }
            }
        }
    }

    fn spawn_task(&mut self, assignment: NewAssignment) {
        let partitions = self.consumer.context().partitions();
        let Some(assigned) = partitions.get(&assignment.partition) else { return };
        // Each assignment has its own queue: another one means that the partition was assigned anew meanwhile.
        if !Arc::ptr_eq(&assigned.queue, &assignment.queue) {
            return;
        }
        let position = Arc::clone(&assigned.position);
        drop(partitions);
        let task = PartitionTask::new(Arc::clone(&self.shared), assignment, position, self.requests.clone());
        self.tasks.spawn(task.run());
    }

    fn handle_received(&self, record: Result<Record, KafkaError>) -> anyhow::Result<()> {
        match record {
            Ok(record) => self.enqueue(record),
            Err(error) => self.handle_error(&error),
        }
    }

    fn enqueue(&self, record: Record) -> anyhow::Result<()> {
        let partition = record.partition;
        let mut partitions = self.consumer.context().partitions();
        // Drop a record of an older assignment, or of a partition that is to restart at another offset.
        let Some(assigned) = partitions.get_mut(&partition).filter(|assigned| !assigned.paused) else {
            return Ok(());
        };
        if !assigned.overflow.is_empty() {
            assigned.overflow.push_back(record);
            return Ok(());
        }
        if let Err(record) = assigned.queue.push(record) {
            assigned.overflow.push_back(record);
            drop(partitions);
            // When the queue has capacity, the overflow enters it first; then the partition is resumed.
            self.consumer.pause(&self.partition_list(partition)).context("pausing a partition")?;
        }
        Ok(())
    }

    fn enqueue_overflow(&self) -> anyhow::Result<()> {
        let mut to_resume = Vec::new();
        for (partition, assigned) in self.consumer.context().partitions().iter_mut() {
            if assigned.paused || assigned.overflow.is_empty() {
                continue;
            }
            while let Some(record) = assigned.overflow.pop_front() {
                if let Err(record) = assigned.queue.push(record) {
                    assigned.overflow.push_front(record);
                    break;
                }
            }
            if assigned.overflow.is_empty() {
                to_resume.push(*partition);
            }
        }
        for partition in to_resume {
            self.consumer.resume(&self.partition_list(partition)).context("resuming a partition")?;
        }
        Ok(())
    }

    fn handle_error(&self, error: &KafkaError) -> anyhow::Result<()> {
        match error {
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
            ) => {
                // The error doesn't name the partition: each task checks its own.
                for assigned in self.consumer.context().partitions().values() {
                    assigned.queue.report_out_of_range();
                }
            }
            KafkaError::MessageConsumptionFatal(code) => bail!("the consumer failed for good: {code}"),
            // The client's error callback has logged it.
            error => debug!(kafka.topic = self.shared.topic, %error, "receiving"),
        }
        Ok(())
    }

    fn handle_request(&self, request: Request) -> anyhow::Result<()> {
        match request {
            Request::Restart { partition, queue, start, reply } => {
                // The task may have ended.
                reply.send(self.restart(partition, &queue, start)?).ok();
            }
            Request::Watermarks { partition, reply } => self.fetch_watermarks(partition, reply),
            Request::Pause { partition, queue } => self.pause(partition, &queue)?,
        }
        Ok(())
    }

    fn is_current(&self, partition: i32, queue: &Arc<Queue>) -> bool {
        let partitions = self.consumer.context().partitions();
        partitions.get(&partition).is_some_and(|assigned| Arc::ptr_eq(&assigned.queue, queue))
    }

    /// Restarts the partition's fetching at `start`: removes it from the assignment and adds it again. A seek can't
    /// revive a partition whose offset the broker has refused, and a late answer of the broker may overtake a seek.
    /// This task receives nothing meanwhile, so all later records come from `start`.
    fn restart(&self, partition: i32, queue: &Arc<Queue>, start: Offset) -> anyhow::Result<bool> {
        if !self.is_current(partition, queue) {
            return Ok(false);
        }
        self.consumer
            .incremental_unassign(&self.partition_list(partition))
            .context("unassigning a partition")?;
        queue.clear();
        let mut restarted = TopicPartitionList::with_capacity(1);
        restarted.add_partition_offset(&self.shared.topic, partition, start)?;
        self.consumer.incremental_assign(&restarted).context("assigning a partition again")?;
        if let Some(assigned) = self.consumer.context().partitions().get_mut(&partition) {
            assigned.overflow.clear();
            assigned.paused = false;
        }
        self.consumer.resume(&self.partition_list(partition)).context("resuming a partition")?;
        Ok(true)
    }

    fn pause(&self, partition: i32, queue: &Arc<Queue>) -> anyhow::Result<()> {
        if !self.is_current(partition, queue) {
            return Ok(());
        }
        if let Some(assigned) = self.consumer.context().partitions().get_mut(&partition) {
            assigned.paused = true;
            assigned.overflow.clear();
        }
        self.consumer.pause(&self.partition_list(partition)).context("pausing a partition")
    }

    fn fetch_watermarks(&self, partition: i32, reply: oneshot::Sender<Option<(i64, i64)>>) {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.shared.topic.clone());
        tokio::task::spawn_blocking(move || {
            let watermarks = consumer.fetch_watermarks(&topic, partition, CALL_TIMEOUT);
            // The task may have ended.
            reply.send(watermarks.ok()).ok();
        });
    }

    fn tick(&self) -> anyhow::Result<()> {
        let offsets = self.take_offsets_to_commit();
        if offsets.count() > 0
            && let Err(error) = failpoint_sync(failpoints::COMMIT_OFFSET, || {
                self.consumer.commit(&offsets, CommitMode::Async)
            })
        {
            debug!(%error, "committing offsets to Kafka; only lag tools need them");
        }
        match self.consumer.context().take_failure() {
            Some(reason) => bail!(reason),
            None => Ok(()),
        }
    }

    /// The positions that have moved since the last call, to be committed to Kafka as a hint for lag tools.
    fn take_offsets_to_commit(&self) -> TopicPartitionList {
        let mut offsets = TopicPartitionList::new();
        for (partition, assigned) in self.consumer.context().partitions().iter_mut() {
            let position = assigned.position.load(Ordering::Relaxed);
            if position > assigned.committed_to_kafka {
                assigned.committed_to_kafka = position;
                let added =
                    offsets.add_partition_offset(&self.shared.topic, *partition, Offset::Offset(position));
                if let Err(error) = added {
                    debug!(%error, "listing an offset to commit");
                }
            }
        }
        offsets
    }

    fn partition_list(&self, partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.shared.topic, partition);
        list
    }

    /// Lets the batches in work commit, then leaves the group.
    async fn drain(mut self) -> anyhow::Result<()> {
        self.consumer.context().close_all();
        let mut result = Ok(());
        let tasks = async {
            while let Some(ended) = self.tasks.join_next().await {
                // Keeps the first error.
                result = std::mem::replace(&mut result, Ok(()))
                    .and(ended.map_err(Into::into).and_then(|ended| ended));
            }
        };
        if timeout(DRAIN_LIMIT, tasks).await.is_err() {
            warn!(kafka.topic = self.shared.topic, "a batch was aborted; it was not committed");
        }
        self.tasks.shutdown().await;
        let offsets = self.take_offsets_to_commit();
        let consumer = self.consumer;
        let leave_group = tokio::task::spawn_blocking(move || {
            if offsets.count() > 0
                && failpoint_sync(failpoints::COMMIT_OFFSET, || consumer.commit(&offsets, CommitMode::Async))
                    .is_err()
            {
                debug!("committing the last offsets to Kafka; only lag tools need them");
            }
            drop(consumer);
        });
        if timeout(DRAIN_LIMIT, leave_group).await.is_err() {
            warn!(
                kafka.topic = self.shared.topic,
                "Kafka is unavailable: the group removes this member when its session times out"
            );
        }
        result
    }
}
