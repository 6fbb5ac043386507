//! A partition's own task: applies what its queue holds, in batches, each in one transaction with the
//! position.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use shared_events::Malformed;
use sqlx::{PgConnection, PgPool};
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument, Span, debug_span, error, info_span, warn};

use super::assignment::{Assigned, start_offset};
use super::offset::{self, Position};
use super::queue::{Queue, Taken};
use crate::messaging::database::{self, ReadConnection, Transaction};
use crate::messaging::dead_letter;
use crate::messaging::failpoint::failpoint;
use crate::messaging::failpoints;
use crate::messaging::fault::Fault;
use crate::messaging::metrics::EventMetrics;
use crate::messaging::outbox::{self, Outbox};
use crate::messaging::record::{Content, Delivery, Record};
use crate::telemetry::trace_context;

/// Records that one transaction takes at most. Larger ones gain little and hold locks longer.
const BATCH_RECORDS: usize = 500;

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How often a held partition says so.
const HELD_REMINDER: Duration = Duration::from_secs(60);

/// What a service does with the events of its topic.
pub trait EventHandler: Send + Sync + 'static {
    /// What is done once the transaction has committed.
    type Effects: Send;

    /// Loads, folds and saves, in the transaction of `connection`. It is called again with the same
    /// deliveries, or a part of them, whenever the transaction didn't commit.
    fn apply(
        &self,
        connection: &mut PgConnection,
        deliveries: &[&Delivery],
    ) -> impl Future<Output = Result<Self::Effects, Fault>> + Send;

    fn committed(&self, effects: Self::Effects);
}

/// What a partition's task asks of the receiving task, which alone touches the consumer. The queue says of
/// which assignment: a later one is not to be touched.
#[derive(Debug)]
pub(super) enum Request {
    /// Fetch from there, and forget what was received before. Answers whether the partition is still there.
    Restart { partition: i32, queue: Arc<Queue>, at: rdkafka::Offset, done: oneshot::Sender<bool> },
    /// The first offset in the log, and the one after the last.
    Watermarks { partition: i32, answer: oneshot::Sender<Option<(i64, i64)>> },
    /// Fetch nothing more of this partition.
    Park { partition: i32, queue: Arc<Queue> },
}

/// What all partitions of a consumer share.
pub(super) struct Shared<H> {
    pub consumer: &'static str,
    pub topic: String,
    pub dead_letters: String,
    pub pool: PgPool,
    pub outbox: Outbox,
    pub metrics: EventMetrics,
    pub handler: H,
}

struct Item {
    record: Record,
    content: Result<Content, Malformed>,
    /// This record's part of its saga's trace; it ends with the batch.
    _span: Span,
}

impl Item {
    fn new(record: Record, topic: &str) -> Self {
        let mut content = record.decode(topic);
        let mut span = Span::none();
        if let Ok(Content::Event(delivery)) = &mut content {
            // At debug, so that it costs nothing unless traces are exported: then the events that this one
            // causes continue from here.
            span =
                debug_span!("process", event.r#type = delivery.event.event_type(), event.id = %delivery.id);
            trace_context::set_parent(&span, &delivery.trace);
            if let Some(own) = trace_context::of_span(&span) {
                delivery.trace = own;
            }
        }
        Self { record, content, _span: span }
    }
}

/// Why the task goes on elsewhere.
enum Interrupted {
    /// The position moved: find it again.
    Fenced,
    /// What came is not what was expected: fetch once more from the position.
    Doubtful,
    /// The partition belongs to someone else.
    Closed,
    Fatal(anyhow::Error),
}

/// How a part of a batch is tried.
enum Attempt {
    First,
    /// A single record that failed once: perhaps for what another transaction did at the same moment.
    Again,
    /// A single record that failed twice: it becomes a dead letter, for this reason.
    Bury(String),
}

pub(super) struct Partition<H> {
    shared: Arc<Shared<H>>,
    partition: i32,
    queue: Arc<Queue>,
    requests: mpsc::Sender<Request>,
    applied: Arc<AtomicI64>,
    /// The stored position as last written or read; never taken from a record.
    next: i64,
    /// What the record before `next` must be, until it was seen.
    verify: Option<String>,
    known: bool,
    /// The offset that was found where another one was expected, the last time.
    doubted: Option<i64>,
}

impl<H: EventHandler> Partition<H> {
    pub(super) fn new(
        shared: Arc<Shared<H>>,
        assigned: Assigned,
        applied: Arc<AtomicI64>,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        let known = assigned.position.is_some();
        let position = assigned.position.unwrap_or(Position { next: 0, last_record: None });
        Self {
            shared,
            partition: assigned.partition,
            queue: assigned.queue,
            requests,
            applied,
            next: position.next,
            verify: position.last_record,
            known,
            doubted: None,
        }
    }

    /// Applies the partition's records until it is revoked.
    ///
    /// # Errors
    /// A fatal fault: the process is to stop.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        if !self.known && !self.find_position(true).await? {
            return Ok(());
        }
        loop {
            let records = match self.queue.take(BATCH_RECORDS).await {
                Taken::Closed => return Ok(()),
                Taken::OutOfRange => {
                    if !self.look_at_range().await? {
                        return Ok(());
                    }
                    continue;
                }
                Taken::Records(records) => records,
            };
            let verify = match self.accept(records).await {
                Ok(()) => continue,
                Err(Interrupted::Closed) => return Ok(()),
                Err(Interrupted::Fatal(error)) => return Err(error),
                Err(Interrupted::Fenced) => {
                    self.shared.metrics.fenced.inc();
                    false
                }
                Err(Interrupted::Doubtful) => true,
            };
            warn!(
                kafka.topic = self.shared.topic,
                kafka.partition = self.partition,
                next = self.next,
                doubted = self.doubted,
                "the position is read again"
            );
            if !self.find_position(verify).await? {
                return Ok(());
            }
        }
    }

    /// Applies what follows the position without a gap.
    async fn accept(&mut self, records: Vec<Record>) -> Result<(), Interrupted> {
        let mut items: Vec<Item> = Vec::with_capacity(records.len());
        let mut expected = self.next;
        let mut gap = None;
        for record in records {
            if self.verify.is_some() {
                self.verify(&record).await?;
                continue;
            }
            // What was applied before a restart may come again.
            if record.offset < expected {
                continue;
            }
            // A log may begin anywhere. Later on an offset is missing where a transaction's marker stands, or
            // after compaction: believed when it is seen twice.
            if record.offset > expected && expected != 0 && self.doubted != Some(record.offset) {
                gap = Some(record.offset);
                break;
            }
            expected = record.offset + 1;
            items.push(Item::new(record, &self.shared.topic));
        }
        self.apply(&items).await?;
        if gap.is_some() {
            self.doubted = gap;
            return Err(Interrupted::Doubtful);
        }
        Ok(())
    }

    /// Compares the record before the position with the one that was applied there.
    async fn verify(&mut self, record: &Record) -> Result<(), Interrupted> {
        if record.offset < self.next - 1 {
            return Ok(());
        }
        let found = record.identity();
        if record.offset == self.next - 1 && self.verify.as_ref() == Some(&found) {
            self.verify = None;
            return Ok(());
        }
        if self.doubted != Some(record.offset) {
            self.doubted = Some(record.offset);
            return Err(Interrupted::Doubtful);
        }
        let expected = self.verify.clone().unwrap_or_default();
        let what = format!(
            "{expected} was applied at offset {}; offset {} holds {found}",
            self.next - 1,
            record.offset
        );
        Err(self.hold(&what).await)
    }

    /// Applies the records, in halves around what turns out to be poison, or too slow.
    async fn apply(&mut self, items: &[Item]) -> Result<(), Interrupted> {
        let mut ranges = VecDeque::from([(0..items.len(), Attempt::First)]);
        let mut backoff = BACKOFF_MIN;
        while let Some((range, attempt)) = ranges.pop_front() {
            let part = &items[range.clone()];
            let poison = if let Attempt::Bury(reason) = &attempt { Some(reason.as_str()) } else { None };
            match self.try_apply(part, poison).await {
                Ok(()) => backoff = BACKOFF_MIN,
                Err(Fault::Poison(reason)) if part.len() <= 1 => {
                    let attempt = match attempt {
                        Attempt::First => Attempt::Again,
                        Attempt::Again => Attempt::Bury(reason),
                        Attempt::Bury(_) => {
                            let error = anyhow::anyhow!("a dead letter can't be written: {reason}");
                            return Err(Interrupted::Fatal(error));
                        }
                    };
                    ranges.push_front((range, attempt));
                }
                Err(Fault::Poison(_)) => push_halves(&mut ranges, range),
                Err(Fault::Timeout(reason)) if part.len() > 1 => {
                    self.retry(&reason, &mut backoff).await?;
                    push_halves(&mut ranges, range);
                }
                Err(Fault::Transient(reason) | Fault::Timeout(reason)) => {
                    self.retry(&reason, &mut backoff).await?;
                    ranges.push_front((range, attempt));
                }
                Err(Fault::Fenced) => return Err(Interrupted::Fenced),
                Err(Fault::Fatal(reason)) => return Err(Interrupted::Fatal(anyhow::anyhow!(reason))),
            }
        }
        Ok(())
    }

    async fn retry(&self, reason: &str, backoff: &mut Duration) -> Result<(), Interrupted> {
        self.shared.metrics.batch_retries.inc();
        warn!(
            kafka.topic = self.shared.topic,
            kafka.partition = self.partition,
            reason,
            wait = ?backoff,
            "a batch is tried again"
        );
        self.pause(backoff).await
    }

    async fn pause(&self, backoff: &mut Duration) -> Result<(), Interrupted> {
        tokio::time::sleep(*backoff).await;
        *backoff = (*backoff * 2).min(BACKOFF_MAX);
        if self.queue.is_closed() { Err(Interrupted::Closed) } else { Ok(()) }
    }

    /// One transaction: effects, dead letters, position.
    async fn try_apply(&mut self, items: &[Item], poison: Option<&str>) -> Result<(), Fault> {
        let Some(last) = items.last() else { return Ok(()) };
        let began = Instant::now();
        let shared = Arc::clone(&self.shared);
        let to = Position { next: last.record.offset + 1, last_record: Some(last.record.identity()) };
        let span = info_span!(
            "apply",
            kafka.topic = shared.topic,
            kafka.partition = self.partition,
            records = items.len()
        );
        let sorted = Sorted::new(items, poison, &span);

        let work = async {
            let mut transaction = failpoint(failpoints::BEGIN, Transaction::begin(&shared.pool)).await?;
            let effects = if sorted.deliveries.is_empty() {
                None
            } else {
                let applied = shared.handler.apply(&mut transaction, &sorted.deliveries);
                Some(failpoint(failpoints::APPLY, applied).await?)
            };
            let letters: Vec<_> = sorted
                .dead
                .iter()
                .map(|(record, reason)| {
                    dead_letter::row(&shared.dead_letters, &shared.topic, shared.consumer, record, reason)
                })
                .collect();
            if !letters.is_empty() {
                failpoint(failpoints::DEAD_LETTER, outbox::insert(&mut transaction, &letters)).await?;
            }
            let (topic, partition) = (&shared.topic, self.partition);
            let advanced =
                offset::advance(&mut transaction, shared.consumer, topic, partition, self.next, &to);
            failpoint(failpoints::ADVANCE, advanced).await?;
            failpoint(failpoints::COMMIT, transaction.commit()).await?;
            Ok(effects)
        };
        let effects = database::bounded(work).instrument(span.clone()).await?;

        self.next = to.next;
        self.applied.store(to.next, Ordering::Relaxed);
        shared.outbox.wake();
        if let Some(effects) = effects {
            shared.handler.committed(effects);
        }
        sorted.count(&shared);
        shared.metrics.batch_records.observe(items.len() as f64);
        shared.metrics.batch_seconds.observe(began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Reads the stored position and has the consumer go there. `false` when the partition is gone.
    async fn find_position(&mut self, verify: bool) -> anyhow::Result<bool> {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.restart_at_stored(verify).await {
                Ok(found) => return Ok(found),
                Err(Fault::Transient(reason) | Fault::Timeout(reason)) => {
                    let (topic, partition) = (&self.shared.topic, self.partition);
                    warn!(kafka.topic = topic, kafka.partition = partition, reason, "finding the position");
                }
                Err(fault) => return Err(anyhow::anyhow!("finding the position: {fault}")),
            }
            if self.pause(&mut backoff).await.is_err() {
                return Ok(false);
            }
        }
    }

    async fn restart_at_stored(&mut self, verify: bool) -> Result<bool, Fault> {
        let mut position = database::bounded(self.stored()).await?;
        if !verify {
            position.last_record = None;
        }
        let (done, restarted) = oneshot::channel();
        let (partition, queue) = (self.partition, Arc::clone(&self.queue));
        let request = Request::Restart { partition, queue, at: start_offset(&position), done };
        if self.requests.send(request).await.is_err() || !restarted.await.unwrap_or(false) {
            return Ok(false);
        }
        self.next = position.next;
        self.applied.store(position.next, Ordering::Relaxed);
        self.verify = position.last_record;
        Ok(true)
    }

    async fn stored(&self) -> Result<Position, Fault> {
        let (consumer, topic) = (self.shared.consumer, &self.shared.topic);
        let mut reading = ReadConnection::begin(&self.shared.pool).await?;
        let positions = offset::read(&mut reading, consumer, topic, &[self.partition]).await?;
        reading.end();
        let position = positions.into_iter().next().map(|(_, position)| position);
        position.ok_or_else(|| Fault::Fatal("the position's row is gone".into()))
    }

    /// The broker refused some position as outside its log. If it is this one, the partition is held. It
    /// doesn't say which, and stops fetching that one: so all others begin again where they are.
    async fn look_at_range(&mut self) -> anyhow::Result<bool> {
        let (answer, watermarks) = oneshot::channel();
        let request = Request::Watermarks { partition: self.partition, answer };
        if self.requests.send(request).await.is_err() {
            return Ok(false);
        }
        let mut backoff = BACKOFF_MAX;
        let Ok(Some((low, high))) = watermarks.await else {
            // Kafka can't say now: ask again, unless the partition is gone.
            self.queue.report_out_of_range();
            return Ok(self.pause(&mut backoff).await.is_ok());
        };
        if self.verify.is_some() && self.next == low {
            // Retention took exactly what was applied: nothing is missing.
            return self.find_position(false).await;
        }
        let fetched = if self.verify.is_some() { self.next - 1 } else { self.next };
        if (fetched < low && self.next != 0) || fetched > high {
            let what = format!("the log reaches from {low} to {high}, the position is {}", self.next);
            return match self.hold(&what).await {
                Interrupted::Fatal(error) => Err(error),
                Interrupted::Closed | Interrupted::Fenced | Interrupted::Doubtful => Ok(false),
            };
        }
        if self.pause(&mut backoff).await.is_err() {
            return Ok(false);
        }
        self.find_position(true).await
    }

    /// Keeps the partition where it is, loudly, until it is revoked or the process restarts.
    async fn hold(&self, what: &str) -> Interrupted {
        let request = Request::Park { partition: self.partition, queue: Arc::clone(&self.queue) };
        if self.requests.send(request).await.is_err() {
            return Interrupted::Closed;
        }
        let labels = [self.shared.topic.as_str(), &self.partition.to_string()];
        loop {
            self.shared.metrics.held.with_label_values(&labels).set(1);
            error!(
                kafka.topic = self.shared.topic,
                kafka.partition = self.partition,
                what,
                "the log was truncated or made anew: this partition is held. Restore the topic; or set next to \
                 where reading shall go on, and last_record to null, in its row of consumer_offset; then restart"
            );
            let reminder = tokio::time::Instant::now() + HELD_REMINDER;
            loop {
                match tokio::time::timeout_at(reminder, self.queue.take(BATCH_RECORDS)).await {
                    Ok(Taken::Closed) => {
                        // Held no longer by this process; absent if the assignment's end took it already.
                        self.shared.metrics.held.remove_label_values(&labels).ok();
                        return Interrupted::Closed;
                    }
                    Ok(Taken::Records(_) | Taken::OutOfRange) => {}
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

/// A batch, by what is to be done with each record.
struct Sorted<'a> {
    deliveries: Vec<&'a Delivery>,
    dead: Vec<(&'a Record, String)>,
    /// Why, for the metric: we can't read them, or the database refuses what they would do.
    dead_for: &'static str,
    unknown: usize,
}

impl<'a> Sorted<'a> {
    fn new(items: &'a [Item], poison: Option<&str>, span: &tracing::Span) -> Self {
        let dead_for = if poison.is_some() { "refused" } else { "malformed" };
        let deliveries = Vec::with_capacity(items.len());
        let mut sorted = Self { deliveries, dead: Vec::new(), dead_for, unknown: 0 };
        for Item { record, content, .. } in items {
            match (poison, content) {
                (Some(reason), _) => sorted.dead.push((record, reason.to_owned())),
                (None, Err(malformed)) => sorted.dead.push((record, malformed.to_string())),
                (None, Ok(Content::Unknown(_))) => sorted.unknown += 1,
                (None, Ok(Content::Event(delivery))) => {
                    trace_context::add_link(span, &delivery.trace);
                    sorted.deliveries.push(delivery);
                }
            }
        }
        sorted
    }

    fn count<H>(&self, shared: &Shared<H>) {
        let topic = [shared.topic.as_str()];
        if self.unknown > 0 {
            shared.metrics.unknown_types.with_label_values(&topic).inc_by(self.unknown as u64);
        }
        if !self.dead.is_empty() {
            let labels = [topic[0], self.dead_for];
            shared.metrics.dead_letters.with_label_values(&labels).inc_by(self.dead.len() as u64);
        }
        for (record, reason) in &self.dead {
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
