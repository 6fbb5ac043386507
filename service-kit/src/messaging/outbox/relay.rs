//! Sends what waits in the outbox: one relay a shard at a time, over all replicas.
//!
//! Read in the order of `seq`, send in that order, await every acknowledgement, delete those rows, again.
//! Who may is decided by an advisory lock on the relay's own session, which the server ends when it is
//! silent for 5 s: a frozen owner loses the shard. One that wakes up may still be sending what another
//! one sent already; consumers expect any event again.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer, PurgeConfig};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{DEAD_LETTER_SHARD, EVENT_SHARDS, Outbox, headers_from_text};
use crate::messaging::dead_letter::{CUT, OWN_HEADERS};
use crate::messaging::failpoint::{failpoint, failpoint_sync};
use crate::messaging::failpoints;
use crate::messaging::kafka::Kafka;
use crate::messaging::metrics::EventMetrics;
use crate::messaging::task_group::stop_limit_passed;

/// Rows that are read and sent at once, and the bytes after which no further row is.
const BATCH_ROWS: i64 = 1_000;
const BATCH_BYTES: i64 = 8 * 1024 * 1024;

/// The first number of the advisory lock; the second is the shard.
pub const LOCK_CLASS: i32 = 0x6f75_7462;

/// How often the owner's session is heard of while acknowledgements are awaited.
const TOUCH: Duration = Duration::from_secs(1);

/// A statement that takes longer counts as a lost connection.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the owner looks for rows that another replica wrote, while there is work and when idle.
const POLL_BUSY: Duration = Duration::from_millis(5);
const POLL_IDLE: Duration = Duration::from_millis(50);
const BUSY_FOR: Duration = Duration::from_secs(1);

/// How often a relay that has no shard asks for it.
const POLL_LOCK: Duration = Duration::from_millis(500);

/// How long a relay goes on sending when the process stops.
const DRAIN: Duration = Duration::from_secs(3);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, Error)]
enum RelayError {
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the database did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("a row's headers: {0}")]
    Headers(#[from] serde_json::Error),
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error(
        "{topic}: a record of {bytes} bytes, or what was sent together with it, is over the topic's limit"
    )]
    TooLarge { topic: String, bytes: usize },
    #[error("the producer is no longer usable: {0}")]
    Fatal(String),
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Sent(usize),
    Idle,
}

/// All relays of one service.
pub struct Relays {
    pub kafka: Kafka,
    pub outbox: Outbox,
    pub database: PgConnectOptions,
    pub metrics: EventMetrics,
    pub service: &'static str,
    /// Whether the service publishes events of its own, or dead letters only.
    pub publishes: bool,
}

impl Relays {
    /// Sends until told to stop, then what is left, within a bound.
    ///
    /// # Errors
    /// A producer that Kafka refuses for good.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            ready = self.kafka.ensure_topics() => ready?,
        }
        let shards =
            if self.publishes { 0..EVENT_SHARDS + 1 } else { DEAD_LETTER_SHARD..DEAD_LETTER_SHARD + 1 };
        let relays = shards.map(|shard| self.relay(shard).run(shutdown.clone()));
        futures_util::future::try_join_all(relays).await?;
        Ok(())
    }

    fn relay(&self, shard: i16) -> Relay {
        Relay {
            shard,
            database: self
                .database
                .clone()
                // Whoever looks at the locks sees which process sends.
                .application_name(&format!("{} {} relay {shard}", self.service, std::process::id()))
                .options([("idle_session_timeout", "5s")]),
            producer_settings: self.kafka.producer_settings(),
            // The broker holds its limit against what it is sent together, and doesn't say which was too large:
            // a dead letter must not lose its value for another's.
            alone: shard == DEAD_LETTER_SHARD,
            producer: None,
            woken: self.outbox.woken(),
            metrics: self.metrics.clone(),
        }
    }
}

struct Relay {
    shard: i16,
    database: PgConnectOptions,
    producer_settings: ClientConfig,
    /// Whether each record is sent by itself, because some together were over a topic's limit.
    alone: bool,
    producer: Option<FutureProducer>,
    woken: Arc<Notify>,
    metrics: EventMetrics,
}

impl Relay {
    async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = BACKOFF_MIN;
        while !shutdown.is_cancelled() {
            let result = self.own_shard(&shutdown, &mut backoff).await;
            // Whatever is on its way is sent again by the next owner.
            self.discard_producer().await;
            match result {
                Ok(()) => return Ok(()),
                Err(RelayError::Fatal(reason)) => anyhow::bail!("outbox shard {}: {reason}", self.shard),
                Err(error) => {
                    self.alone |= matches!(error, RelayError::TooLarge { .. });
                    self.metrics.outbox_send_failures.inc();
                    warn!(outbox.shard = self.shard, %error, wait = ?backoff, "the relay starts again");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        Ok(())
    }

    /// Waits for the shard, and sends for as long as it is this relay's.
    async fn own_shard(
        &mut self,
        shutdown: &CancellationToken,
        backoff: &mut Duration,
    ) -> Result<(), RelayError> {
        let mut connection = timeout(STATEMENT_TIMEOUT, PgConnection::connect_with(&self.database)).await??;
        while !try_lock(&mut connection, self.shard).await? {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(POLL_LOCK) => {}
            }
        }
        info!(outbox.shard = self.shard, "sends this shard");
        let mut last_sent = Instant::now();
        while !shutdown.is_cancelled() {
            // Before the read, so that a commit after it is not missed.
            let outbox = Arc::clone(&self.woken);
            let mut woken = pin!(outbox.notified());
            woken.as_mut().enable();
            let step = tokio::select! {
                step = self.step(&mut connection) => step?,
                () = stop_limit_passed(shutdown, DRAIN) => {
                    warn!(outbox.shard = self.shard, "Kafka is away: the next owner sends what waits");
                    return Ok(());
                }
            };
            if let Step::Sent(_) = step {
                last_sent = Instant::now();
                *backoff = BACKOFF_MIN;
                continue;
            }
            let poll = if last_sent.elapsed() < BUSY_FOR { POLL_BUSY } else { POLL_IDLE };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = woken => {}
                () = tokio::time::sleep(poll) => {}
            }
        }
        self.drain(&mut connection).await;
        // Gives the lock back at once.
        timeout(STATEMENT_TIMEOUT, connection.close()).await??;
        Ok(())
    }

    async fn drain(&mut self, connection: &mut PgConnection) {
        let rest = async {
            while let Step::Sent(_) = self.step(connection).await? {}
            Ok::<_, RelayError>(())
        };
        match timeout(DRAIN, rest).await {
            Ok(Ok(())) => debug!(outbox.shard = self.shard, "the outbox is empty"),
            Ok(Err(error)) => warn!(outbox.shard = self.shard, %error, "the next owner sends the rest"),
            Err(_) => warn!(outbox.shard = self.shard, "out of time: the next owner sends the rest"),
        }
    }

    /// Sends one batch: reads, sends in order, awaits all acknowledgements, deletes.
    async fn step(&mut self, connection: &mut PgConnection) -> Result<Step, RelayError> {
        let rows = read(connection, self.shard).await?;
        if rows.is_empty() {
            return Ok(Step::Idle);
        }
        let producer = self.producer()?;
        let mut touch = interval(TOUCH);
        touch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deliveries = VecDeque::with_capacity(rows.len());
        for row in &rows {
            let delivery = loop {
                match failpoint_sync(failpoints::SEND, || send(&producer, row)) {
                    Ok(delivery) => break delivery,
                    Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                        let first = deliveries.pop_front();
                        failpoint(failpoints::ACKNOWLEDGE, self.settle(connection, &mut touch, first))
                            .await?;
                    }
                    Err(error) => return Err(self.refused(connection, row, error).await),
                }
            };
            deliveries.push_back((delivery, row));
        }
        while let Some(delivery) = deliveries.pop_front() {
            failpoint(failpoints::ACKNOWLEDGE, self.settle(connection, &mut touch, Some(delivery))).await?;
        }
        failpoint(failpoints::DELETE, delete(connection, self.shard, &rows)).await?;
        self.metrics.outbox_sent.inc_by(rows.len() as u64);
        Ok(Step::Sent(rows.len()))
    }

    /// Awaits one acknowledgement; meanwhile the session is heard of, so that the lock stays ours.
    async fn settle(
        &self,
        connection: &mut PgConnection,
        touch: &mut Interval,
        delivery: Option<(DeliveryFuture, &OutboxRow)>,
    ) -> Result<(), RelayError> {
        let Some((mut delivery, row)) = delivery else {
            // A full queue without anything of ours in it.
            tokio::task::yield_now().await;
            return Ok(());
        };
        loop {
            tokio::select! {
                biased;
                outcome = &mut delivery => {
                    return match outcome {
                        Ok(Ok(_)) => Ok(()),
                        Ok(Err((error, _))) => Err(self.refused(connection, row, error).await),
                        Err(_) => Err(RelayError::Kafka(KafkaError::Canceled)),
                    };
                }
                _ = touch.tick() => {
                    timeout(STATEMENT_TIMEOUT, sqlx::query("select 1").execute(&mut *connection)).await??;
                }
            }
        }
    }

    /// What a failed delivery means.
    async fn refused(&self, connection: &mut PgConnection, row: &OutboxRow, error: KafkaError) -> RelayError {
        let fatal = self.producer.as_ref().and_then(|producer| producer.client().fatal_error());
        match fatal {
            // One record failed, and so none after it was sent: a new producer begins with it.
            Some((RDKafkaErrorCode::GaplessGuarantee, _)) | None => {}
            Some((_, reason)) => return RelayError::Fatal(reason),
        }
        let too_large = matches!(
            error,
            KafkaError::MessageProduction(
                RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize
            )
        );
        if !too_large {
            return RelayError::Kafka(error);
        }
        let bytes = row.payload.as_ref().map_or(0, Vec::len);
        let too_large = RelayError::TooLarge { topic: row.topic.clone(), bytes };
        if !self.alone {
            return too_large;
        }
        if self.shard == DEAD_LETTER_SHARD {
            if let Err(error) = failpoint(failpoints::TRUNCATE, cut(connection, self.shard, row)).await {
                return error;
            }
            warn!(
                outbox.seq = row.seq,
                row.topic, "a dead letter is over its topic's limit: sent without its value, or its headers"
            );
        } else {
            error!(
                outbox.seq = row.seq,
                row.topic, "an event is over its topic's limit: raise max.message.bytes"
            );
        }
        too_large
    }

    fn producer(&mut self) -> Result<FutureProducer, RelayError> {
        if let Some(producer) = &self.producer {
            return Ok(producer.clone());
        }
        let mut settings = self.producer_settings.clone();
        if self.alone {
            settings.set("batch.num.messages", "1");
        }
        if self.shard != DEAD_LETTER_SHARD {
            // An event that is refused must not be overtaken by a later one. Dead letters have no order.
            settings.set("enable.gapless.guarantee", "true");
        }
        let producer: FutureProducer = settings.create()?;
        self.producer = Some(producer.clone());
        Ok(producer)
    }

    async fn discard_producer(&mut self) {
        let Some(producer) = self.producer.take() else { return };
        // Dropping blocks while librdkafka's threads end.
        let dropped = tokio::task::spawn_blocking(move || {
            producer.purge(PurgeConfig::default().queue().inflight());
            drop(producer);
        });
        if let Err(error) = dropped.await {
            warn!(%error, "dropping a producer");
        }
    }
}

struct OutboxRow {
    seq: i64,
    topic: String,
    key: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    payload: Option<Vec<u8>>,
}

fn send(producer: &FutureProducer, row: &OutboxRow) -> Result<DeliveryFuture, KafkaError> {
    let headers =
        row.headers.iter().fold(OwnedHeaders::new_with_capacity(row.headers.len()), |all, header| {
            all.insert(Header { key: &header.0, value: header.1.as_deref() })
        });
    let mut record = FutureRecord::<[u8], [u8]>::to(&row.topic).headers(headers);
    if let Some(key) = &row.key {
        record = record.key(key);
    }
    if let Some(payload) = &row.payload {
        record = record.payload(payload);
    }
    producer.send_result(record).map_err(|(error, _)| error)
}

async fn try_lock(connection: &mut PgConnection, shard: i16) -> Result<bool, RelayError> {
    let lock = sqlx::query("select pg_try_advisory_lock($1, $2)")
        .bind(LOCK_CLASS)
        .bind(i32::from(shard))
        .fetch_one(connection);
    Ok(timeout(STATEMENT_TIMEOUT, lock).await??.try_get(0)?)
}

async fn read(connection: &mut PgConnection, shard: i16) -> Result<Vec<OutboxRow>, RelayError> {
    let read = sqlx::query(
        "select seq, topic, key, headers, payload
         from (select seq, topic, key, headers, payload,
                      sum(coalesce(octet_length(payload), 0)) over (order by seq)
                          - coalesce(octet_length(payload), 0) as bytes_before
               from (select seq, topic, key, headers, payload from outbox
                     where shard = $1 order by seq limit $2) as head) as batch
         where bytes_before < $3
         order by seq",
    )
    .bind(shard)
    .bind(BATCH_ROWS)
    .bind(BATCH_BYTES)
    .fetch_all(connection);
    let rows = timeout(STATEMENT_TIMEOUT, read).await??;
    rows.iter()
        .map(|row| {
            Ok(OutboxRow {
                seq: row.try_get("seq")?,
                topic: row.try_get("topic")?,
                key: row.try_get("key")?,
                headers: headers_from_text(row.try_get("headers")?)?,
                payload: row.try_get("payload")?,
            })
        })
        .collect()
}

async fn delete(connection: &mut PgConnection, shard: i16, rows: &[OutboxRow]) -> Result<(), RelayError> {
    let seqs: Vec<i64> = rows.iter().map(|row| row.seq).collect();
    let delete = sqlx::query("delete from outbox where shard = $1 and seq = any ($2)")
        .bind(shard)
        .bind(seqs)
        .execute(connection);
    timeout(STATEMENT_TIMEOUT, delete).await??;
    Ok(())
}

/// Takes the value out of a dead letter that its topic refuses, and if that is not enough the record's own
/// headers; where the original stands is in ours.
async fn cut(connection: &mut PgConnection, shard: i16, row: &OutboxRow) -> Result<(), RelayError> {
    let mut headers = row.headers.clone();
    if row.payload.is_none() {
        headers.retain(|(name, _)| name.starts_with(OWN_HEADERS));
    }
    if !headers.iter().any(|(name, _)| name == CUT) {
        let bytes = row.payload.as_ref().map_or(0, Vec::len);
        headers.push((CUT.to_owned(), Some(bytes.to_string().into_bytes())));
    }
    let update = sqlx::query("update outbox set payload = null, headers = $3 where shard = $1 and seq = $2")
        .bind(shard)
        .bind(row.seq)
        .bind(super::headers_to_text(headers))
        .execute(connection);
    timeout(STATEMENT_TIMEOUT, update).await??;
    Ok(())
}

/// Keeps the outbox gauges current.
///
/// # Errors
/// None but a bug: what the database can't answer now is asked again.
pub async fn watch_backlog(
    pool: sqlx::PgPool,
    metrics: EventMetrics,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut tick = interval(Duration::from_secs(5));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let backlog = sqlx::query(
            "select count(*) as events,
                    coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8 as age
             from outbox",
        )
        .fetch_one(&pool)
        .await;
        match backlog {
            Ok(row) => {
                metrics.outbox_backlog.set(row.try_get("events").context("events")?);
                metrics.outbox_age_seconds.set(row.try_get("age").context("age")?);
            }
            Err(error) => debug!(%error, "the outbox can't be counted now"),
        }
    }
}
