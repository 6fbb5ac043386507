//! Makes exports: takes what is due, writes its file, writes down what came of it; and clears what has expired.
//!
//! An export is taken for the length of a lease, which grows as it makes progress, so that replicas share the work, and
//! what a dead one has begun is begun again by another. Each attempt has a file of its own name, and the row tells whose
//! was concluded: one that has lost its lease without knowing can't put its file in the place of the other's.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use prometheus::{IntCounterVec, Opts, Registry};
use service_kit::messaging::database::{self, Transaction};
use service_kit::messaging::{Fault, Step, Worker};
use sqlx::{PgConnection, PgPool};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::State;
use super::folder::{Draft, Folder};
use super::table;
use crate::store::export::{self, Claimed, Outcome};

/// How often it looks for what has come due; for what was asked for here it is woken.
const PERIOD: Duration = Duration::from_secs(1);

/// How often it looks for what has expired.
const CLEAR_PERIOD: Duration = Duration::from_secs(10);

/// How long after the last progress of an attempt another process makes the next: longer than an attempt may take, so that
/// who is slow with its last step loses nothing.
const LEASE: Duration = Duration::from_secs(90);

/// How often progress is told.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// How long an attempt may take. Its snapshot keeps dead rows of this database alive for so long.
const LIMIT: Duration = Duration::from_secs(60);

const _: () = assert!(LEASE.as_secs() > LIMIT.as_secs());

/// How often an export is begun at most.
const ATTEMPTS_MAX: i32 = 3;

/// Rows that are in memory at once.
const BATCH: usize = 500;

/// What became of exports.
#[derive(Clone)]
pub struct ExportMetrics {
    concluded: IntCounterVec,
}

impl ExportMetrics {
    /// # Errors
    /// A name that is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let opts =
            Opts::new("exports_total", "Exports of reservations that were concluded, by their state then");
        let concluded = IntCounterVec::new(opts, &["state"])?;
        for state in [State::Ready, State::Failed] {
            // A rate needs a zero to begin with.
            concluded.with_label_values(&[state.as_str()]);
        }
        registry.register(Box::new(concluded.clone()))?;
        Ok(Self { concluded })
    }
}

/// Why an attempt has no file.
#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("the file can't be written: {0}")]
    File(#[from] std::io::Error),
    #[error("it would be larger than the {0} bytes that are left for exports")]
    TooLarge(u64),
    #[error("none of {ATTEMPTS_MAX} attempts came to its end")]
    Exhausted,
    #[error("it is somebody else's")]
    Lost,
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

#[derive(Clone)]
pub struct Maker {
    pub pool: PgPool,
    pub folder: Folder,
    /// What all exports may take together.
    pub bytes_max: u64,
    pub metrics: ExportMetrics,
    pub wake: Arc<Notify>,
}

impl Maker {
    /// Makes exports until told to stop. One that is under way then is begun again by whoever is there.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let worker = Worker { name: "making exports", period: PERIOD, wake: Arc::clone(&self.wake) };
        worker.run(stop, || self.step()).await
    }

    /// Clears what has expired until told to stop.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn clear(self, stop: CancellationToken) -> anyhow::Result<()> {
        let step = || async {
            let now = database::with_time_limit(async {
                let mut transaction = Transaction::begin(&self.pool).await?;
                let now = export::clear(&mut transaction).await?;
                transaction.commit().await?;
                Ok(now)
            })
            .await?;
            let swept = self.folder.sweep(now).await;
            // Those of a folder that is away are found later, too.
            let swept = swept.map_err(|error| Fault::Transient(format!("the folder of exports: {error}")))?;
            debug!(swept, "files of expired exports are deleted");
            Ok(Step::Idle)
        };
        Worker::new("clearing exports", CLEAR_PERIOD).run(stop, step).await
    }

    /// Makes one, if one is due.
    ///
    /// # Errors
    /// The database's.
    async fn step(&self) -> Result<Step, Fault> {
        let claimed = database::with_time_limit(async {
            let mut transaction = Transaction::begin(&self.pool).await?;
            let claimed = export::claim(&mut transaction, LEASE).await?;
            transaction.commit().await?;
            Ok(claimed)
        });
        let Some(claimed) = claimed.await? else { return Ok(Step::Idle) };
        let made = if claimed.name.attempt() > ATTEMPTS_MAX {
            Err(Failure::Exhausted)
        } else {
            self.make(&claimed).await
        };
        match outcome(&claimed, made)? {
            Some(outcome) => self.conclude(&claimed, outcome).await?,
            None => lost(&claimed),
        }
        Ok(Step::Done)
    }

    async fn make(&self, claimed: &Claimed) -> Result<(i64, u64), Failure> {
        let mut draft = self.folder.begin(claimed.name).await?;
        let made = timeout(LIMIT, async {
            let rows = self.fill(claimed, &mut draft).await?;
            draft.finish().await?;
            Ok((rows, draft.bytes()))
        });
        let slow = |_| Err(Failure::Fault(Fault::Timeout(format!("not done within {LIMIT:?}"))));
        let made = made.await.unwrap_or_else(slow);
        if made.is_err() {
            self.forget(claimed).await;
        }
        made
    }

    /// Writes the rows, and tells how many.
    async fn fill(&self, claimed: &Claimed, draft: &mut Draft) -> Result<i64, Failure> {
        draft.write(&table::head()).await?;
        let mut transaction = Transaction::begin(&self.pool).await?;
        let rows = self.copy(claimed, &mut transaction, draft).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    async fn copy(
        &self,
        claimed: &Claimed,
        connection: &mut PgConnection,
        draft: &mut Draft,
    ) -> Result<i64, Failure> {
        let room = self.bytes_max.saturating_sub(u64::try_from(claimed.taken).unwrap_or(0));
        let (mut rows, mut told) = (0, Instant::now());
        let reservations = export::reservations(connection, claimed.movie_id, LIMIT).await?;
        let mut batches = pin!(reservations.try_chunks(BATCH));
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| error.1)?;
            draft.write(&table::rows(&batch)).await?;
            rows += i64::try_from(batch.len()).unwrap_or(i64::MAX);
            fits(draft, room)?;
            if told.elapsed() >= PROGRESS_PERIOD {
                self.tell(claimed, rows).await?;
                told = Instant::now();
            }
        }
        // One without rows has its head.
        fits(draft, room)?;
        Ok(rows)
    }

    async fn tell(&self, claimed: &Claimed, rows: i64) -> Result<(), Failure> {
        let ours = database::with_time_limit(async {
            let mut transaction = Transaction::begin(&self.pool).await?;
            let ours = export::progress(&mut transaction, claimed, rows, LEASE).await?;
            transaction.commit().await?;
            Ok(ours)
        });
        match ours.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Lost),
            // The lease is long enough without.
            Err(Fault::Transient(reason) | Fault::Timeout(reason)) => {
                debug!(export.id = %claimed.id, reason, "progress is told later");
                Ok(())
            }
            Err(fault) => Err(fault.into()),
        }
    }

    async fn conclude(&self, claimed: &Claimed, outcome: Outcome) -> Result<(), Fault> {
        let concluded = database::with_time_limit(async {
            let mut transaction = Transaction::begin(&self.pool).await?;
            let concluded = export::conclude(&mut transaction, claimed, &outcome).await?;
            transaction.commit().await?;
            Ok(concluded)
        });
        if concluded.await? {
            self.metrics.concluded.with_label_values(&[outcome.state().as_str()]).inc();
        } else {
            lost(claimed);
            self.forget(claimed).await;
        }
        Ok(())
    }

    /// What can't be deleted now is when the next attempt begins, or when it expires.
    async fn forget(&self, claimed: &Claimed) {
        if let Err(error) = self.folder.remove(claimed.name).await {
            debug!(export.id = %claimed.id, %error, "a file stays behind for now");
        }
    }
}

fn fits(draft: &Draft, room: u64) -> Result<(), Failure> {
    if draft.bytes() > room { Err(Failure::TooLarge(room)) } else { Ok(()) }
}

fn lost(claimed: &Claimed) {
    warn!(export.id = %claimed.id, "an attempt took longer than its lease, or than its export was kept");
}

/// What an attempt comes to; nothing, if it is another's by now. An export that can't be made stops nobody: nothing
/// depends on it.
///
/// # Errors
/// What passes: somebody begins again when the lease is over.
fn outcome(claimed: &Claimed, made: Result<(i64, u64), Failure>) -> Result<Option<Outcome>, Fault> {
    let reason = match made {
        Ok((rows, bytes)) => {
            debug!(export.id = %claimed.id, rows, bytes, "an export is ready");
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            return Ok(Some(Outcome::Ready { rows, bytes }));
        }
        Err(Failure::Lost) => return Ok(None),
        Err(Failure::Fault(fault @ (Fault::Transient(_) | Fault::Timeout(_)))) => return Err(fault),
        // What the database says is the log's business only.
        Err(Failure::Fault(fault)) => {
            error!(export.id = %claimed.id, %fault, "reservations can't be read for an export");
            "the reservations can't be read".to_owned()
        }
        Err(failure) => failure.to_string(),
    };
    warn!(export.id = %claimed.id, reason, "an export has failed");
    Ok(Some(Outcome::Failed { reason }))
}
