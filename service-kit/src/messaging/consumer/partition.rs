//! A partition's task: applies the records of its queue in batches, each in one transaction with the position. The
//! states of a partition are listed in `assignment`.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use shared_events::Malformed;
use sqlx::{PgConnection, PgPool};
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument, Span, debug_span, error, info_span, warn};

use super::assignment::{NewAssignment, start_offset};
use super::offset::{self, Position};
use super::queue::{Queue, QueueEvent};
use crate::messaging::database::{self, ReadConnection, Transaction};
use crate::messaging::dead_letter;
use crate::messaging::failpoint::failpoint;
use crate::messaging::failpoints;
use crate::messaging::fault::Fault;
use crate::messaging::metrics::EventMetrics;
use crate::messaging::outbox::{self, NewRow, Outbox};
use crate::messaging::record::{DecodedRecord, Delivery, Record};
use crate::telemetry::trace_context;

/// The most records in one transaction. Larger transactions gain little and hold locks longer.
const BATCH_RECORDS: usize = 500;

// The delays are computed here, not by the crate backon: it rounds them (f32), and its iterator must be rebuilt after each
// success.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How often a held partition is reported in the log.
const HELD_LOG_PERIOD: Duration = Duration::from_secs(60);

/// A service's handler for the events of its topic.
pub trait EventHandler: Send + Sync + 'static {
    /// The result of [`apply`](Self::apply) that [`committed`](Self::committed) acts on.
    type Effects: Send;

    /// Loads, folds and saves, in the transaction of `connection`. If the transaction doesn't commit, it is called
    /// again with the same deliveries or a part of them.
    fn apply(
        &self,
        connection: &mut PgConnection,
        deliveries: &[&Delivery],
    ) -> impl Future<Output = Result<Self::Effects, Fault>> + Send;

    /// Called after the transaction has committed.
    fn committed(&self, effects: Self::Effects);
}

/// A request of a partition's task to the receiving task, the only one that calls the Kafka client. The queue
/// identifies the assignment: a request of an older assignment must not change a later one.
#[derive(Debug)]
pub(super) enum Request {
    /// Fetch from `start`, and drop the records that were received before. The reply says whether the partition is
    /// still assigned.
    Restart { partition: i32, queue: Arc<Queue>, start: rdkafka::Offset, reply: oneshot::Sender<bool> },
    /// Reply with the first offset in the log, and the one after the last.
    Watermarks { partition: i32, reply: oneshot::Sender<Option<(i64, i64)>> },
    /// Fetch nothing more of this partition.
    Pause { partition: i32, queue: Arc<Queue> },
}

/// The state that all partitions of a consumer share.
pub(super) struct Shared<H> {
    pub consumer: &'static str,
    pub topic: String,
    pub dead_letters: String,
    pub pool: PgPool,
    pub outbox: Outbox,
    pub metrics: EventMetrics,
    pub handler: H,
}

struct BatchRecord {
    record: Record,
    decoded: Result<DecodedRecord, Malformed>,
    /// This record's part of its saga's trace. It ends with the batch.
    _span: Span,
}

impl BatchRecord {
    fn new(record: Record, topic: &str) -> Self {
        let mut decoded = record.decode(topic);
        let mut span = Span::none();
        if let Ok(DecodedRecord::Event(delivery)) = &mut decoded {
            // At debug, so that it costs nothing unless traces are exported. If they are, the events that this one
            // causes continue from here.
            span =
                debug_span!("process", event.r#type = delivery.event.event_type(), event.id = %delivery.id);
            trace_context::set_parent(&span, &delivery.trace);
            if let Some(own) = trace_context::from_span(&span) {
                delivery.trace = own;
            }
        }
        Self { record, decoded, _span: span }
    }
}

/// Why the task stops applying the records that it has taken.
enum Interruption {
    /// The position has moved: read it again.
    Fenced,
    /// A record is not the expected one: fetch once more from the position.
    Recheck,
    /// The partition was revoked, or the process stops.
    Closed,
    Fatal(anyhow::Error),
}

/// How a part of a batch is tried.
enum Attempt {
    First,
    /// A single record that failed once: the cause may have been a simultaneous transaction.
    Retry,
    /// A single record that failed twice: it becomes a dead letter, for this reason.
    DeadLetter(String),
}

pub(super) struct PartitionTask<H> {
    shared: Arc<Shared<H>>,
    partition: i32,
    queue: Arc<Queue>,
    requests: mpsc::Sender<Request>,
    /// The committed position, for the receiving task.
    committed: Arc<AtomicI64>,
    /// The stored position as last written or read; never taken from a record.
    next: i64,
    /// The identity that the record before `next` must have, until that record has been verified.
    unverified_record: Option<String>,
    position_known: bool,
    /// The offset that came last instead of the expected one.
    suspect_offset: Option<i64>,
}

impl<H: EventHandler> PartitionTask<H> {
    pub(super) fn new(
        shared: Arc<Shared<H>>,
        assignment: NewAssignment,
        committed: Arc<AtomicI64>,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        let position_known = assignment.position.is_some();
        let position = assignment.position.unwrap_or(Position { next: 0, last_record: None });
        Self {
            shared,
            partition: assignment.partition,
            queue: assignment.queue,
            requests,
            committed,
            next: position.next,
            unverified_record: position.last_record,
            position_known,
            suspect_offset: None,
        }
    }

    /// Applies the partition's records until it is revoked.
    ///
    /// # Errors
    /// A fatal fault, which must stop the process.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        if !self.position_known && !self.find_position(true).await? {
            return Ok(());
        }
        loop {
            let records = match self.queue.next_event(BATCH_RECORDS).await {
                QueueEvent::Closed => return Ok(()),
                QueueEvent::OutOfRange => {
                    if !self.check_range().await? {
                        return Ok(());
                    }
                    continue;
                }
                QueueEvent::Records(records) => records,
            };
            let verify = match self.process(records).await {
                Ok(()) => continue,
                Err(Interruption::Closed) => return Ok(()),
                Err(Interruption::Fatal(error)) => return Err(error),
                Err(Interruption::Fenced) => {
                    self.shared.metrics.fenced.inc();
                    false
                }
                Err(Interruption::Recheck) => true,
            };
            warn!(
                kafka.topic = self.shared.topic,
                kafka.partition = self.partition,
                next = self.next,
                doubted = self.suspect_offset,
                "the position is read again"
            );
            if !self.find_position(verify).await? {
                return Ok(());
            }
        }
    }

    /// Applies the records that follow the position without a gap.
    async fn process(&mut self, records: Vec<Record>) -> Result<(), Interruption> {
        let mut batch: Vec<BatchRecord> = Vec::with_capacity(records.len());
        let mut expected = self.next;
        let mut gap = None;
        for record in records {
            if self.unverified_record.is_some() {
                self.verify(&record).await?;
                continue;
            }
            // After a restart, records that were applied before it may come again.
            if record.offset < expected {
                continue;
            }
            // A log may begin at any offset. Later an offset is missing where a transaction's marker is, or after
            // compaction: a gap is accepted when it is seen twice.
            if record.offset > expected && expected != 0 && self.suspect_offset != Some(record.offset) {
                gap = Some(record.offset);
                break;
            }
            expected = record.offset + 1;
            batch.push(BatchRecord::new(record, &self.shared.topic));
        }
        self.apply(&batch).await?;
        if gap.is_some() {
            self.suspect_offset = gap;
            return Err(Interruption::Recheck);
        }
        Ok(())
    }

    /// Compares the record before the position with the one that was applied there.
    async fn verify(&mut self, record: &Record) -> Result<(), Interruption> {
        if record.offset < self.next - 1 {
            return Ok(());
        }
        let found = record.identity();
        if record.offset == self.next - 1 && self.unverified_record.as_ref() == Some(&found) {
            self.unverified_record = None;
            return Ok(());
        }
        if self.suspect_offset != Some(record.offset) {
            self.suspect_offset = Some(record.offset);
            return Err(Interruption::Recheck);
        }
        let expected = self.unverified_record.clone().unwrap_or_default();
        let reason = format!(
            "{expected} was applied at offset {}; offset {} holds {found}",
            self.next - 1,
            record.offset
        );
        Err(self.hold(&reason).await)
    }

    /// Applies the batch. A part that contains poison, or that times out, is halved.
    async fn apply(&mut self, batch: &[BatchRecord]) -> Result<(), Interruption> {
        let mut ranges = VecDeque::from([(0..batch.len(), Attempt::First)]);
        let mut backoff = BACKOFF_MIN;
        while let Some((range, attempt)) = ranges.pop_front() {
            let part = &batch[range.clone()];
            let poison =
                if let Attempt::DeadLetter(reason) = &attempt { Some(reason.as_str()) } else { None };
            match self.apply_in_transaction(part, poison).await {
                Ok(()) => backoff = BACKOFF_MIN,
                Err(Fault::Poison(reason)) if part.len() <= 1 => {
                    let attempt = match attempt {
                        Attempt::First => Attempt::Retry,
                        Attempt::Retry => Attempt::DeadLetter(reason),
                        Attempt::DeadLetter(_) => {
                            let error = anyhow::anyhow!("a dead letter can't be written: {reason}");
                            return Err(Interruption::Fatal(error));
                        }
                    };
                    ranges.push_front((range, attempt));
                }
                Err(Fault::Poison(_)) => push_halves(&mut ranges, range),
                Err(Fault::Timeout(reason)) if part.len() > 1 => {
                    self.wait_to_retry(&reason, &mut backoff).await?;
                    push_halves(&mut ranges, range);
                }
                Err(Fault::Transient(reason) | Fault::Timeout(reason)) => {
                    self.wait_to_retry(&reason, &mut backoff).await?;
                    ranges.push_front((range, attempt));
                }
                Err(Fault::Fenced) => return Err(Interruption::Fenced),
                Err(Fault::Fatal(reason)) => return Err(Interruption::Fatal(anyhow::anyhow!(reason))),
            }
        }
        Ok(())
    }

    async fn wait_to_retry(&self, reason: &str, backoff: &mut Duration) -> Result<(), Interruption> {
        self.shared.metrics.batch_retries.inc();
        warn!(
            kafka.topic = self.shared.topic,
            kafka.partition = self.partition,
            reason,
            wait = ?backoff,
            "a batch is retried"
        );
        self.wait(backoff).await
    }

    async fn wait(&self, backoff: &mut Duration) -> Result<(), Interruption> {
        tokio::time::sleep(*backoff).await;
        *backoff = (*backoff * 2).min(BACKOFF_MAX);
        if self.queue.is_closed() { Err(Interruption::Closed) } else { Ok(()) }
    }

    /// One transaction: effects, dead letters, position.
    async fn apply_in_transaction(
        &mut self,
        batch: &[BatchRecord],
        poison: Option<&str>,
    ) -> Result<(), Fault> {
        let Some(last) = batch.last() else { return Ok(()) };
        let began = Instant::now();
        let shared = Arc::clone(&self.shared);
        let target = Position { next: last.record.offset + 1, last_record: Some(last.record.identity()) };
        let span = info_span!(
            "apply",
            kafka.topic = shared.topic,
            kafka.partition = self.partition,
            records = batch.len()
        );
        let sorted = SortedBatch::new(batch, poison, &span);

        let work = async {
            let mut transaction = failpoint(failpoints::BEGIN, Transaction::begin(&shared.pool)).await?;
            let effects = if sorted.deliveries.is_empty() {
                None
            } else {
                let applied = shared.handler.apply(&mut transaction, &sorted.deliveries);
                Some(failpoint(failpoints::APPLY, applied).await?)
            };
            let dead_letters = sorted.dead_letter_rows(&shared);
            if !dead_letters.is_empty() {
                failpoint(failpoints::DEAD_LETTER, outbox::insert(&mut transaction, &dead_letters)).await?;
            }
            let (topic, partition) = (&shared.topic, self.partition);
            let advanced =
                offset::advance(&mut transaction, shared.consumer, topic, partition, self.next, &target);
            failpoint(failpoints::ADVANCE, advanced).await?;
            failpoint(failpoints::COMMIT, transaction.commit()).await?;
            Ok(effects)
        };
        let effects = database::with_time_limit(work).instrument(span.clone()).await?;

        self.next = target.next;
        self.committed.store(target.next, Ordering::Relaxed);
        shared.outbox.wake();
        if let Some(effects) = effects {
            shared.handler.committed(effects);
        }
        sorted.report(&shared);
        shared.metrics.batch_records.observe(batch.len() as f64);
        shared.metrics.batch_seconds.observe(began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Restarts the partition at the stored position. If `verify`, the record before that is compared first. `false`
    /// if the partition is no longer assigned.
    async fn find_position(&mut self, verify: bool) -> anyhow::Result<bool> {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.restart_at_stored_position(verify).await {
                Ok(found) => return Ok(found),
                Err(Fault::Transient(reason) | Fault::Timeout(reason)) => {
                    let (topic, partition) = (&self.shared.topic, self.partition);
                    warn!(
                        kafka.topic = topic,
                        kafka.partition = partition,
                        reason,
                        "the position can't be read now"
                    );
                }
                Err(fault) => return Err(anyhow::anyhow!("finding the position: {fault}")),
            }
            if self.wait(&mut backoff).await.is_err() {
                return Ok(false);
            }
        }
    }

    async fn restart_at_stored_position(&mut self, verify: bool) -> Result<bool, Fault> {
        let mut position = database::with_time_limit(self.load_position()).await?;
        if !verify {
            position.last_record = None;
        }
        let (reply, restarted) = oneshot::channel();
        let (partition, queue) = (self.partition, Arc::clone(&self.queue));
        let request = Request::Restart { partition, queue, start: start_offset(&position), reply };
        if self.requests.send(request).await.is_err() || !restarted.await.unwrap_or(false) {
            return Ok(false);
        }
        self.next = position.next;
        self.committed.store(position.next, Ordering::Relaxed);
        self.unverified_record = position.last_record;
        Ok(true)
    }

    async fn load_position(&self) -> Result<Position, Fault> {
        let (consumer, topic) = (self.shared.consumer, &self.shared.topic);
        let mut connection = ReadConnection::begin(&self.shared.pool).await?;
        let positions = offset::read(&mut connection, consumer, topic, &[self.partition]).await?;
        connection.end();
        let position = positions.into_iter().next().map(|(_, position)| position);
        position.ok_or_else(|| Fault::Fatal("the position's row is missing".into()))
    }

    /// The broker has refused a position as outside its log. It doesn't say which, and has stopped fetching that
    /// partition. If it is this one, the partition is held; otherwise it restarts at its stored position.
    async fn check_range(&mut self) -> anyhow::Result<bool> {
        let (reply, watermarks) = oneshot::channel();
        let request = Request::Watermarks { partition: self.partition, reply };
        if self.requests.send(request).await.is_err() {
            return Ok(false);
        }
        let mut backoff = BACKOFF_MAX;
        let Ok(Some((low, high))) = watermarks.await else {
            // Kafka doesn't answer now: check again, unless the partition was revoked.
            self.queue.report_out_of_range();
            return Ok(self.wait(&mut backoff).await.is_ok());
        };
        if self.unverified_record.is_some() && self.next == low {
            // Retention has removed only records that were applied: nothing is missing.
            return self.find_position(false).await;
        }
        let first_fetched = if self.unverified_record.is_some() { self.next - 1 } else { self.next };
        if (first_fetched < low && self.next != 0) || first_fetched > high {
            let reason = format!("the log reaches from {low} to {high}, the position is {}", self.next);
            return match self.hold(&reason).await {
                Interruption::Fatal(error) => Err(error),
                Interruption::Closed | Interruption::Fenced | Interruption::Recheck => Ok(false),
            };
        }
        if self.wait(&mut backoff).await.is_err() {
            return Ok(false);
        }
        self.find_position(true).await
    }

    /// Holds the partition for the operator, until it is revoked or the process stops. The log and a metric report
    /// it.
    async fn hold(&self, reason: &str) -> Interruption {
        let request = Request::Pause { partition: self.partition, queue: Arc::clone(&self.queue) };
        if self.requests.send(request).await.is_err() {
            return Interruption::Closed;
        }
        let labels = [self.shared.topic.as_str(), &self.partition.to_string()];
        loop {
            self.shared.metrics.held.with_label_values(&labels).set(1);
            error!(
                kafka.topic = self.shared.topic,
                kafka.partition = self.partition,
                what = reason,
                "the log was truncated or recreated: this partition is held. Restore the topic; or set next to \
                 the offset to continue from, and last_record to null, in its row of consumer_offset; then restart"
            );
            let reminder = tokio::time::Instant::now() + HELD_LOG_PERIOD;
            loop {
                match tokio::time::timeout_at(reminder, self.queue.next_event(BATCH_RECORDS)).await {
                    Ok(QueueEvent::Closed) => {
                        // This process no longer holds it. The labels are absent if the revocation has removed them.
                        self.shared.metrics.held.remove_label_values(&labels).ok();
                        return Interruption::Closed;
                    }
                    Ok(QueueEvent::Records(_) | QueueEvent::OutOfRange) => {}
                    Err(_) => break,
                }
            }
        }
    }
}

fn push_halves(ranges: &mut VecDeque<(Range<usize>, Attempt)>, range: Range<usize>) {
    let middle = range.start + range.len() / 2;
    ranges.push_front((middle..range.end, Attempt::First));
    ranges.push_front((range.start..middle, Attempt::First));
}

/// A batch, split into deliveries and dead letters.
struct SortedBatch<'a> {
    deliveries: Vec<&'a Delivery>,
    dead_letters: Vec<(&'a Record, String)>,
    /// The metric's label: the records can't be decoded, or the database refuses what they would write.
    dead_letter_label: &'static str,
    unknown_types: usize,
}

impl<'a> SortedBatch<'a> {
    fn new(batch: &'a [BatchRecord], poison: Option<&str>, span: &tracing::Span) -> Self {
        let dead_letter_label = if poison.is_some() { "refused" } else { "malformed" };
        let deliveries = Vec::with_capacity(batch.len());
        let mut sorted = Self { deliveries, dead_letters: Vec::new(), dead_letter_label, unknown_types: 0 };
        for BatchRecord { record, decoded, .. } in batch {
            match (poison, decoded) {
                (Some(reason), _) => sorted.dead_letters.push((record, reason.to_owned())),
                (None, Err(malformed)) => sorted.dead_letters.push((record, malformed.to_string())),
                (None, Ok(DecodedRecord::Unknown(_))) => sorted.unknown_types += 1,
                (None, Ok(DecodedRecord::Event(delivery))) => {
                    trace_context::add_link(span, &delivery.trace);
                    sorted.deliveries.push(delivery);
                }
            }
        }
        sorted
    }

    fn dead_letter_rows<H>(&self, shared: &Shared<H>) -> Vec<NewRow> {
        let Shared { dead_letters, topic, consumer, .. } = shared;
        self.dead_letters
            .iter()
            .map(|(record, reason)| dead_letter::outbox_row(dead_letters, topic, consumer, record, reason))
            .collect()
    }

    /// Counts and logs what was committed.
    fn report<H>(&self, shared: &Shared<H>) {
        let topic = shared.topic.as_str();
        if self.unknown_types > 0 {
            shared.metrics.unknown_types.with_label_values(&[topic]).inc_by(self.unknown_types as u64);
        }
        if !self.dead_letters.is_empty() {
            let labels = [topic, self.dead_letter_label];
            shared.metrics.dead_letters.with_label_values(&labels).inc_by(self.dead_letters.len() as u64);
        }
        for (record, reason) in &self.dead_letters {
            warn!(
                kafka.topic = shared.topic,
                kafka.partition = record.partition,
                kafka.offset = record.offset,
                reason,
                "a record became a dead letter"
            );
        }
    }
}
