//! Sends the rows of the outbox. Over all replicas, each shard has one relay at a time.
//!
//! A relay reads rows in the order of `seq`, sends them in that order, awaits every acknowledgement, deletes these
//! rows, and begins again. It owns its shard by an advisory lock on its own session. The server ends a session that
//! is silent for 5 s, so a frozen owner loses the shard. When that owner wakes up it may send events that the next
//! owner has sent already: consumers accept every event repeatedly.
//!
//! - `rows`: reads, deletes and truncates rows.
//! - `producer`: the Kafka producer of a relay.

mod producer;
mod rows;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, Producer};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::rows::{OutboxRow, delete_rows, read_rows, truncate_row};
use crate::messaging::failpoint::{failpoint, failpoint_sync};
use crate::messaging::failpoints;
use crate::messaging::kafka::Kafka;
use crate::messaging::metrics::EventMetrics;
use crate::messaging::outbox::{DEAD_LETTER_SHARD, EVENT_SHARDS, Outbox};
use crate::messaging::task_group::stop_limit_passed;

/// The first number of the advisory lock: `outb` in ASCII. The second number is the shard.
pub const LOCK_CLASS: i32 = 0x6f75_7462;

/// How often the owner's session sends a statement while acknowledgements are awaited, so that it isn't ended as
/// silent.
const KEEP_ALIVE_PERIOD: Duration = Duration::from_secs(1);

/// A statement that takes longer counts as a lost connection.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the owner polls for rows that another replica wrote, while it is busy and while it is idle.
const BUSY_POLL_PERIOD: Duration = Duration::from_millis(5);
const IDLE_POLL_PERIOD: Duration = Duration::from_millis(50);

/// A relay counts as busy for this time after its last row.
const BUSY_AFTER_SENDING: Duration = Duration::from_secs(1);

/// How often a relay that doesn't own its shard tries to lock it.
const LOCK_POLL_PERIOD: Duration = Duration::from_millis(500);

/// How long a relay continues to send when the process stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

// The delays are computed here, not by the crate backon: it rounds them (f32), and its iterator must be rebuilt after each
// success.
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
    /// Sends until told to stop, and then what is left, within a bound.
    ///
    /// # Errors
    /// If Kafka permanently refuses a producer.
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
                // An operator who looks at the locks sees which process sends.
                .application_name(&format!("{} {} relay {shard}", self.service, std::process::id()))
                .options([("idle_session_timeout", "5s")]),
            producer_settings: self.kafka.producer_settings(),
            // The broker applies its limit to all records of a request together, and doesn't say which was too large:
            // a dead letter must not lose its value because of another one.
            one_by_one: shard == DEAD_LETTER_SHARD,
            producer: None,
            wake_signal: self.outbox.wake_signal(),
            metrics: self.metrics.clone(),
        }
    }
}

struct Relay {
    shard: i16,
    database: PgConnectOptions,
    producer_settings: ClientConfig,
    /// Whether each record is sent in a request of its own: dead letters always, events once some together were over
    /// a topic's limit.
    one_by_one: bool,
    producer: Option<FutureProducer>,
    wake_signal: Arc<Notify>,
    metrics: EventMetrics,
}

impl Relay {
    async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = BACKOFF_MIN;
        while !shutdown.is_cancelled() {
            let result = self.own_shard(&shutdown, &mut backoff).await;
            // The next owner sends again what was not acknowledged.
            self.discard_producer().await;
            match result {
                Ok(()) => return Ok(()),
                Err(RelayError::Fatal(reason)) => anyhow::bail!("outbox shard {}: {reason}", self.shard),
                Err(error) => {
                    self.one_by_one |= matches!(error, RelayError::TooLarge { .. });
                    self.metrics.outbox_send_failures.inc();
                    warn!(outbox.shard = self.shard, %error, wait = ?backoff, "the relay restarts");
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

    /// Waits until it owns the shard, and sends until it loses the shard or the process stops.
    async fn own_shard(
        &mut self,
        shutdown: &CancellationToken,
        backoff: &mut Duration,
    ) -> Result<(), RelayError> {
        let mut connection = timeout(STATEMENT_TIMEOUT, PgConnection::connect_with(&self.database)).await??;
        while !try_lock(&mut connection, self.shard).await? {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOCK_POLL_PERIOD) => {}
            }
        }
        info!(outbox.shard = self.shard, "the relay owns this shard");
        let mut last_sent = Instant::now();
        while !shutdown.is_cancelled() {
            // Registers before the read, so that a wake-up by a later commit is not missed.
            let wake_signal = Arc::clone(&self.wake_signal);
            let mut woken = pin!(wake_signal.notified());
            woken.as_mut().enable();
            let rows_sent = tokio::select! {
                rows_sent = self.send_batch(&mut connection) => rows_sent?,
                () = stop_limit_passed(shutdown, DRAIN_LIMIT) => {
                    warn!(outbox.shard = self.shard, "Kafka is unavailable: the next owner sends the rest");
                    return Ok(());
                }
            };
            if rows_sent > 0 {
                last_sent = Instant::now();
                *backoff = BACKOFF_MIN;
                continue;
            }
            let busy = last_sent.elapsed() < BUSY_AFTER_SENDING;
            let poll_period = if busy { BUSY_POLL_PERIOD } else { IDLE_POLL_PERIOD };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = woken => {}
                () = tokio::time::sleep(poll_period) => {}
            }
        }
        self.drain(&mut connection).await;
        // Releases the lock at once.
        timeout(STATEMENT_TIMEOUT, connection.close()).await??;
        Ok(())
    }

    async fn drain(&mut self, connection: &mut PgConnection) {
        let rest = async {
            while self.send_batch(connection).await? > 0 {}
            Ok::<_, RelayError>(())
        };
        match timeout(DRAIN_LIMIT, rest).await {
            Ok(Ok(())) => debug!(outbox.shard = self.shard, "the outbox is empty"),
            Ok(Err(error)) => warn!(outbox.shard = self.shard, %error, "the next owner sends the rest"),
            Err(_) => warn!(outbox.shard = self.shard, "out of time: the next owner sends the rest"),
        }
    }

    /// Sends one batch: reads, sends in order, awaits all acknowledgements, deletes. Returns the number of rows.
    async fn send_batch(&mut self, connection: &mut PgConnection) -> Result<usize, RelayError> {
        let rows = read_rows(connection, self.shard).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let producer = self.producer()?;
        let mut keep_alive = interval(KEEP_ALIVE_PERIOD);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deliveries = VecDeque::with_capacity(rows.len());
        for row in &rows {
            let delivery = loop {
                match failpoint_sync(failpoints::SEND, || producer::send(&producer, row)) {
                    Ok(delivery) => break delivery,
                    Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                        let oldest = deliveries.pop_front();
                        let acknowledged = self.await_acknowledgement(connection, &mut keep_alive, oldest);
                        failpoint(failpoints::ACKNOWLEDGE, acknowledged).await?;
                    }
                    Err(error) => return Err(self.delivery_error(connection, row, error).await),
                }
            };
            deliveries.push_back((delivery, row));
        }
        while let Some(delivery) = deliveries.pop_front() {
            let acknowledged = self.await_acknowledgement(connection, &mut keep_alive, Some(delivery));
            failpoint(failpoints::ACKNOWLEDGE, acknowledged).await?;
        }
        failpoint(failpoints::DELETE, delete_rows(connection, self.shard, &rows)).await?;
        self.metrics.outbox_sent.inc_by(rows.len() as u64);
        Ok(rows.len())
    }

    /// Awaits one acknowledgement. Meanwhile it keeps the session alive, so that this relay keeps the lock.
    async fn await_acknowledgement(
        &self,
        connection: &mut PgConnection,
        keep_alive: &mut Interval,
        delivery: Option<(DeliveryFuture, &OutboxRow)>,
    ) -> Result<(), RelayError> {
        let Some((mut delivery, row)) = delivery else {
            // The producer's queue is full of an earlier batch's records: let it send some, and try again.
            tokio::task::yield_now().await;
            return Ok(());
        };
        loop {
            tokio::select! {
                biased;
                outcome = &mut delivery => {
                    return match outcome {
                        Ok(Ok(_)) => Ok(()),
                        Ok(Err((error, _))) => Err(self.delivery_error(connection, row, error).await),
                        Err(_) => Err(RelayError::Kafka(KafkaError::Canceled)),
                    };
                }
                _ = keep_alive.tick() => {
                    timeout(STATEMENT_TIMEOUT, sqlx::query("select 1").execute(&mut *connection)).await??;
                }
            }
        }
    }

    /// Classifies a failed delivery. If the broker refuses a dead letter as too large, truncates it.
    async fn delivery_error(
        &self,
        connection: &mut PgConnection,
        row: &OutboxRow,
        error: KafkaError,
    ) -> RelayError {
        let fatal = self.producer.as_ref().and_then(|producer| producer.client().fatal_error());
        match fatal {
            // Not fatal here: one record failed, so the producer sent none after it. A new producer begins with that record.
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
        if !self.one_by_one {
            return too_large;
        }
        if self.shard == DEAD_LETTER_SHARD {
            if let Err(error) =
                failpoint(failpoints::TRUNCATE, truncate_row(connection, self.shard, row)).await
            {
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
        let producer = producer::create(&self.producer_settings, self.shard, self.one_by_one)?;
        self.producer = Some(producer.clone());
        Ok(producer)
    }

    async fn discard_producer(&mut self) {
        if let Some(producer) = self.producer.take() {
            producer::discard(producer).await;
        }
    }
}

async fn try_lock(connection: &mut PgConnection, shard: i16) -> Result<bool, RelayError> {
    let lock = sqlx::query("select pg_try_advisory_lock($1, $2)")
        .bind(LOCK_CLASS)
        .bind(i32::from(shard))
        .fetch_one(connection);
    Ok(timeout(STATEMENT_TIMEOUT, lock).await??.try_get(0)?)
}
