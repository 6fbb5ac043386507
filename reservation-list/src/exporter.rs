//! Makes exports: claims one that is due, writes its file, records the outcome. Also deletes expired exports.
//!
//! A claim is a lease, which progress extends: replicas share the work, and when a replica dies, another begins its
//! export again. Each attempt's file has its own name, and the row tells which attempt was recorded: an attempt that
//! has lost its lease without noticing can't replace the other's file.

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

use crate::export::State;
use crate::export::csv_format;
use crate::export::folder::{Folder, PartialFile};
use crate::store::export::{self, Claimed, Outcome};

/// How often it looks for exports that are due. It is woken for those that this process accepted.
const PERIOD: Duration = Duration::from_secs(1);

/// How often expired exports are deleted.
const CLEANUP_PERIOD: Duration = Duration::from_secs(10);

/// After this time without progress another process may claim the export. It is longer than an attempt may take, so an
/// attempt whose last step is slow keeps its claim.
const LEASE: Duration = Duration::from_secs(90);

/// How often progress is recorded.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// How long an attempt may take: its snapshot keeps the database from vacuuming dead rows.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(60);

const _: () = assert!(LEASE.as_secs() > ATTEMPT_LIMIT.as_secs());

/// Attempts at an export.
const ATTEMPTS_MAX: i32 = 3;

/// Rows in memory at once.
const BATCH_ROWS: usize = 500;

/// Counts exports by their outcome.
#[derive(Clone)]
pub struct ExportMetrics {
    concluded: IntCounterVec,
}

impl ExportMetrics {
    /// # Errors
    /// If the metric's name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let opts =
            Opts::new("exports_total", "Exports of reservations that were concluded, by their state then");
        let concluded = IntCounterVec::new(opts, &["state"])?;
        for state in [State::Ready, State::Failed] {
            // A counter starts at 0: without it Prometheus misses the first increase.
            concluded.with_label_values(&[state.as_str()]);
        }
        registry.register(Box::new(concluded.clone()))?;
        Ok(Self { concluded })
    }
}

/// Why an attempt failed.
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
    #[error("another attempt has taken over")]
    LeaseLost,
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

#[derive(Clone)]
pub struct Exporter {
    pub pool: PgPool,
    pub folder: Folder,
    /// Bytes that all exports may take together.
    pub bytes_max: u64,
    pub metrics: ExportMetrics,
    pub wake: Arc<Notify>,
}

impl Exporter {
    /// Makes exports until told to stop. An export that is abandoned then is begun again when its lease expires.
    ///
    /// # Errors
    /// If a fault other than a transient one occurs.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let worker = Worker { name: "making exports", period: PERIOD, wake: Arc::clone(&self.wake) };
        worker.run(stop, || self.step()).await
    }

    /// Deletes expired exports, rows and files, until told to stop.
    ///
    /// # Errors
    /// If a fault other than a transient one occurs.
    pub async fn delete_expired(self, stop: CancellationToken) -> anyhow::Result<()> {
        let step = || async {
            let now = database::with_time_limit(async {
                let mut transaction = Transaction::begin(&self.pool).await?;
                let now = export::delete_expired(&mut transaction).await?;
                transaction.commit().await?;
                Ok(now)
            })
            .await?;
            let deleted = self.folder.delete_expired(now).await;
            // While the folder is unavailable its files stay. Later runs find them by their names.
            let deleted =
                deleted.map_err(|error| Fault::Transient(format!("the folder of exports: {error}")))?;
            debug!(swept = deleted, "files of expired exports are deleted");
            Ok(Step::Idle)
        };
        Worker::new("clearing exports", CLEANUP_PERIOD).run(stop, step).await
    }

    /// Makes one export, if one is due.
    ///
    /// # Errors
    /// If the database fails.
    async fn step(&self) -> Result<Step, Fault> {
        let claimed = database::with_time_limit(async {
            let mut transaction = Transaction::begin(&self.pool).await?;
            let claimed = export::claim(&mut transaction, LEASE).await?;
            transaction.commit().await?;
            Ok(claimed)
        });
        let Some(claimed) = claimed.await? else { return Ok(Step::Idle) };
        let result = if claimed.file_name.attempt() > ATTEMPTS_MAX {
            Err(Failure::Exhausted)
        } else {
            self.write_file(&claimed).await
        };
        match outcome(&claimed, result)? {
            Some(outcome) => self.record_outcome(&claimed, outcome).await?,
            None => warn_lease_lost(&claimed),
        }
        Ok(Step::Done)
    }

    /// Writes the file within the attempt's limit. Returns its rows and bytes.
    async fn write_file(&self, claimed: &Claimed) -> Result<(i64, u64), Failure> {
        let mut file = self.folder.create(claimed.file_name).await?;
        let written = timeout(ATTEMPT_LIMIT, async {
            let rows = self.write_table(claimed, &mut file).await?;
            file.finish().await?;
            Ok((rows, file.bytes()))
        });
        let timed_out = |_| Err(Failure::Fault(Fault::Timeout(format!("not done within {ATTEMPT_LIMIT:?}"))));
        let result = written.await.unwrap_or_else(timed_out);
        if result.is_err() {
            self.remove_file(claimed).await;
        }
        result
    }

    /// Writes the header and the rows. Returns the number of rows.
    async fn write_table(&self, claimed: &Claimed, file: &mut PartialFile) -> Result<i64, Failure> {
        file.write(&csv_format::header()).await?;
        let mut transaction = Transaction::begin(&self.pool).await?;
        let rows = self.write_rows(claimed, &mut transaction, file).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    async fn write_rows(
        &self,
        claimed: &Claimed,
        connection: &mut PgConnection,
        file: &mut PartialFile,
    ) -> Result<i64, Failure> {
        let bytes_left = self.bytes_max.saturating_sub(u64::try_from(claimed.used_bytes).unwrap_or(0));
        let (mut rows, mut recorded_at) = (0, Instant::now());
        let reservations = export::reservations(connection, claimed.movie_id, ATTEMPT_LIMIT).await?;
        let mut batches = pin!(reservations.try_chunks(BATCH_ROWS));
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| error.1)?;
            file.write(&csv_format::rows(&batch)).await?;
            rows += i64::try_from(batch.len()).unwrap_or(i64::MAX);
            check_size(file, bytes_left)?;
            if recorded_at.elapsed() >= PROGRESS_PERIOD {
                self.record_progress(claimed, rows).await?;
                recorded_at = Instant::now();
            }
        }
        // Without rows the loop checks nothing, but the header has a size too.
        check_size(file, bytes_left)?;
        Ok(rows)
    }

    async fn record_progress(&self, claimed: &Claimed, rows: i64) -> Result<(), Failure> {
        let recorded = database::with_time_limit(async {
            let mut transaction = Transaction::begin(&self.pool).await?;
            let recorded = export::record_progress(&mut transaction, claimed, rows, LEASE).await?;
            transaction.commit().await?;
            Ok(recorded)
        });
        match recorded.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::LeaseLost),
            // The lease outlasts the attempt even if it isn't extended.
            Err(Fault::Transient(reason) | Fault::Timeout(reason)) => {
                debug!(export.id = %claimed.id, reason, "progress is recorded later");
                Ok(())
            }
            Err(fault) => Err(fault.into()),
        }
    }

    async fn record_outcome(&self, claimed: &Claimed, outcome: Outcome) -> Result<(), Fault> {
        let recorded = database::with_time_limit(async {
            let mut transaction = Transaction::begin(&self.pool).await?;
            let recorded = export::record_outcome(&mut transaction, claimed, &outcome).await?;
            transaction.commit().await?;
            Ok(recorded)
        });
        if recorded.await? {
            self.metrics.concluded.with_label_values(&[outcome.state().as_str()]).inc();
        } else {
            warn_lease_lost(claimed);
            self.remove_file(claimed).await;
        }
        Ok(())
    }

    /// Removes the attempt's file. If that fails, it is deleted when the next attempt begins or when the file expires.
    async fn remove_file(&self, claimed: &Claimed) {
        if let Err(error) = self.folder.remove(claimed.file_name).await {
            debug!(export.id = %claimed.id, %error, "a file stays behind for now");
        }
    }
}

fn check_size(file: &PartialFile, bytes_left: u64) -> Result<(), Failure> {
    if file.bytes() > bytes_left { Err(Failure::TooLarge(bytes_left)) } else { Ok(()) }
}

fn warn_lease_lost(claimed: &Claimed) {
    warn!(export.id = %claimed.id, "an attempt took longer than its lease, or than its export was kept");
}

/// The outcome to record; `None` if the attempt has lost its lease. Even after a fatal fault only the export fails and
/// the service runs on: nothing depends on an export.
///
/// # Errors
/// Transient faults: the export is begun again when its lease expires.
fn outcome(claimed: &Claimed, result: Result<(i64, u64), Failure>) -> Result<Option<Outcome>, Fault> {
    let reason = match result {
        Ok((rows, bytes)) => {
            debug!(export.id = %claimed.id, rows, bytes, "an export is ready");
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            return Ok(Some(Outcome::Ready { rows, bytes }));
        }
        Err(Failure::LeaseLost) => return Ok(None),
        Err(Failure::Fault(fault @ (Fault::Transient(_) | Fault::Timeout(_)))) => return Err(fault),
        // The database's message goes to the log, not to clients.
        Err(Failure::Fault(fault)) => {
            error!(export.id = %claimed.id, %fault, "reservations can't be read for an export");
            "the reservations can't be read".to_owned()
        }
        Err(failure) => failure.to_string(),
    };
    warn!(export.id = %claimed.id, reason, "an export has failed");
    Ok(Some(Outcome::Failed { reason }))
}
