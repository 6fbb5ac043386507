//! Sends e-mails: claims those that are due, tries each, records the outcome. No transaction is open during the SMTP
//! dialogue, and the consumer is not blocked by it.
//!
//! A claim is a lease, so replicas share the work and no two send the same e-mail. If a process dies after sending and
//! before recording, the e-mail is sent again when its lease expires, under the same Message-ID.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures_util::future::join_all;
use service_kit::messaging::database::{self, Transaction};
use service_kit::messaging::failpoint::failpoint;
use service_kit::messaging::{Fault, Step, Worker};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::failpoints;
use crate::mailer::{Mailer, QUIT_LIMIT, SEND_LIMIT, Verdict};
use crate::metrics::EmailMetrics;
use crate::store::email::{self, Claimed, Outcome};

/// E-mails that one process sends at the same time.
const CONCURRENCY: i64 = 8;

/// How often it looks for e-mails that are due. It is woken for those that this process recorded.
const PERIOD: Duration = Duration::from_secs(1);

/// How long recording an outcome is retried while the database is unavailable.
const RECORD_LIMIT: Duration = Duration::from_secs(4);

/// After this time another process may claim the e-mail.
const LEASE: Duration = Duration::from_secs(60);

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60 * 60);

/// How often the backlog is counted.
const COUNT_PERIOD: Duration = Duration::from_secs(5);

// The claim's and the record's transactions may take 8 s each, and clocks differ.
const _: () =
    assert!(LEASE.as_secs() > SEND_LIMIT.as_secs() + QUIT_LIMIT.as_secs() + RECORD_LIMIT.as_secs() + 2 * 8);

pub struct Sender {
    pub pool: PgPool,
    pub mailer: Mailer,
    pub attempts_max: i32,
    pub metrics: EmailMetrics,
    pub wake: Arc<Notify>,
}

impl Sender {
    /// Sends until told to stop. E-mails that are being sent then are finished first, if the mail server is quick enough.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let worker = Worker { name: "sending e-mails", period: PERIOD, wake: Arc::clone(&self.wake) };
        worker.run(stop, || self.step()).await
    }

    /// Tries a batch of e-mails that are due.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn step(&self) -> Result<Step, Fault> {
        let claimed = database::with_time_limit(async {
            let mut transaction = Transaction::begin(&self.pool).await?;
            let claimed =
                failpoint(failpoints::CLAIM, email::claim(&mut transaction, CONCURRENCY, LEASE)).await?;
            failpoint(failpoints::COMMIT_CLAIM, transaction.commit()).await?;
            Ok(claimed)
        })
        .await?;
        if claimed.is_empty() {
            return Ok(Step::Idle);
        }
        let results = join_all(claimed.into_iter().map(|claimed| self.attempt(claimed))).await;
        results.into_iter().collect::<Result<Vec<()>, Fault>>()?;
        Ok(Step::Done)
    }

    async fn attempt(&self, claimed: Claimed) -> Result<(), Fault> {
        let verdict = if claimed.attempts > self.attempts_max {
            Verdict::Permanent("the last attempt was never finished".to_owned())
        } else {
            self.mailer.send(&claimed.notification).await
        };
        let outcome = outcome(verdict, claimed.attempts, self.attempts_max, Uuid::new_v4());
        self.metrics.count(&outcome);
        let (id, attempts) = (claimed.notification.id, claimed.attempts);
        match &outcome {
            Outcome::Sent => debug!(notification.id = %id, attempts, "an e-mail is sent"),
            Outcome::Retry { after, reason } => {
                info!(notification.id = %id, attempts, ?after, reason, "an e-mail is to be sent again");
            }
            Outcome::Failed { reason } => {
                warn!(notification.id = %id, attempts, reason, "an e-mail has failed");
            }
        }
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_total_delay(Some(RECORD_LIMIT))
            .without_max_times();
        let recorded = (|| self.record(&claimed, &outcome))
            .retry(backoff)
            .when(|fault| matches!(fault, Fault::Transient(_) | Fault::Timeout(_)))
            .await?;
        if !recorded {
            warn!(notification.id = %id, "an attempt took longer than its lease: the e-mail may be sent twice");
        }
        Ok(())
    }

    async fn record(&self, claimed: &Claimed, outcome: &Outcome) -> Result<bool, Fault> {
        database::with_time_limit(async {
            let mut transaction = Transaction::begin(&self.pool).await?;
            let recorded =
                failpoint(failpoints::RECORD_OUTCOME, email::record(&mut transaction, claimed, outcome))
                    .await?;
            failpoint(failpoints::COMMIT_OUTCOME, transaction.commit()).await?;
            Ok(recorded)
        })
        .await
    }
}

/// Counts the e-mails that are not sent, until told to stop.
///
/// # Errors
/// None: a count that fails is repeated after the period.
pub async fn report_backlog(
    pool: PgPool,
    metrics: EmailMetrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tick = interval(COUNT_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let counted = database::with_time_limit(async {
            let mut transaction = Transaction::begin(&pool).await?;
            let backlog = email::backlog(&mut transaction).await?;
            transaction.commit().await?;
            Ok(backlog)
        });
        match counted.await {
            Ok(backlog) => metrics.set_backlog(&backlog),
            Err(fault) => debug!(%fault, "e-mails can't be counted now"),
        }
    }
}

/// The outcome of an attempt with this verdict.
fn outcome(verdict: Verdict, attempts: i32, attempts_max: i32, random: Uuid) -> Outcome {
    match verdict {
        Verdict::Sent => Outcome::Sent,
        Verdict::Permanent(reason) => Outcome::Failed { reason },
        Verdict::Transient(reason) if attempts >= attempts_max => Outcome::Failed { reason },
        Verdict::Transient(reason) => Outcome::Retry { after: backoff(attempts, random), reason },
    }
}

/// 1 s after the first attempt, twice as long after each further one, an hour at most. The wait is a random share of that,
/// between half and all of it, so that e-mails that failed together aren't retried together. The random number
/// is an argument, so that tests can set it. It is computed here, not by the crate
/// backon: the number of attempts is a column of the table.
fn backoff(attempts: i32, random: Uuid) -> Duration {
    let doublings = u32::try_from(attempts.clamp(1, 13) - 1).unwrap_or(0);
    let whole = (BACKOFF_MIN * (1 << doublings)).min(BACKOFF_MAX);
    let share = f64::from(random.as_fields().0) / f64::from(u32::MAX);
    whole.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour() {
        for (attempts, secs) in
            [(1, 1), (2, 2), (5, 16), (12, 2048), (13, 3600), (14, 3600), (i32::MAX, 3600)]
        {
            let whole = Duration::from_secs(secs);
            assert_eq!(backoff(attempts, Uuid::max()), whole, "{attempts}");
            assert_eq!(backoff(attempts, Uuid::nil()), whole / 2, "{attempts}");
        }
    }

    #[test]
    fn the_last_attempt_fails() {
        let transient = || Verdict::Transient("away".into());
        let again = outcome(transient(), 1, 2, Uuid::max());
        assert_eq!(again, Outcome::Retry { after: BACKOFF_MIN, reason: "away".into() });
        for attempts in [2, 3] {
            assert_eq!(
                outcome(transient(), attempts, 2, Uuid::max()),
                Outcome::Failed { reason: "away".into() },
                "{attempts}"
            );
        }
        let permanent = Verdict::Permanent("refused".into());
        assert_eq!(outcome(permanent, 1, 2, Uuid::max()), Outcome::Failed { reason: "refused".into() });
        assert_eq!(outcome(Verdict::Sent, 2, 2, Uuid::max()), Outcome::Sent);
    }
}
