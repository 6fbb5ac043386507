//! The read side: lists what customers have reserved, and exports it for vendors.
//!
//! # Layout
//!
//! - [`projection`]: the pure decision how events change the list.
//! - [`store`]: the SQL statements.
//! - [`events`]: projects outcomes from the log.
//! - [`export`]: an export, its CSV and its folder; [`exporter`]: makes the files, and deletes expired exports.
//! - [`http`]: the list, newest first, read-your-writes with a consistency token; and the calls about exports.
//! - [`config`]: the settings.
//! - [`failpoints`]: the points at which tests kill the process.

pub mod config;
pub mod events;
pub mod export;
pub mod exporter;
pub mod failpoints;
pub mod http;
pub mod projection;
pub mod store;

use std::net::TcpListener;
use std::sync::Arc;

use service_kit::messaging::database::ReadConnection;
use service_kit::messaging::waiters::StatusWaiters;
use service_kit::messaging::{Idempotency, ServiceContext, ServiceOptions, idempotency};
use shared_events::{Consumer, ReservationId};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use config::Config;
use export::folder::Folder;
use exporter::{ExportMetrics, Exporter};
use http::exports::ExportApi;
use projection::Status;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The service, built and bound, not yet running.
pub struct Application {
    context: ServiceContext,
    listener: TcpListener,
    metrics: events::ListMetrics,
    waiters: StatusWaiters<Status>,
    exports: ExportApi,
    exporter: Exporter,
}

impl Application {
    /// Binds the address, connects to the database and migrates it. Kafka may be unavailable.
    ///
    /// # Errors
    /// If the address is in use, or the database can't be reached or migrated.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let listener = service_kit::http::bind(config.bind_address)?;
        let options = ServiceOptions {
            consumer: Consumer::ReservationList,
            migrations: Migrator::with_migrations(MIGRATIONS.iter().cloned().collect()),
            publishes: false,
            // A crash of the database loses rows and position together, and the consumer reads the events again.
            session: &[("synchronous_commit", "off")],
        };
        let context = ServiceContext::build(&config.events, options).await?;
        let registry = context.metrics.registry();
        let metrics = events::ListMetrics::new(registry)?;
        let waiters = StatusWaiters::new(registry)?;
        let exporter = Exporter {
            pool: context.pool.clone(),
            folder: Folder::new(config.exports.exports_dir),
            bytes_max: config.exports.exports_bytes_max,
            metrics: ExportMetrics::new(registry)?,
            wake: Arc::new(Notify::new()),
        };
        let idempotency = Idempotency::new(&config.idempotency, registry)?;
        let exports = ExportApi::new(&exporter, config.exports.exports_ttl_secs, idempotency);
        Ok(Self { context, listener, metrics, waiters, exports, exporter })
    }

    /// The bound port; 0 if it can't be determined.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().map_or(0, |address| address.port())
    }

    /// Runs until told to stop, and drains.
    ///
    /// # Errors
    /// If a task fails.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { context, listener, metrics, waiters, exports, exporter } = self;
        let pool = context.pool.clone();
        let api = http::Api { pool: pool.clone(), waiters: waiters.clone(), exports };
        let handler = events::Handler { metrics, waiters: waiters.clone() };
        let cleanup = exporter.clone();
        let tasks = context
            .spawn_server(listener, http::routes(api))
            .spawn("waiting", |stop| notify_waiters(waiters, pool.clone(), stop))
            .spawn("exports", |stop| exporter.run(stop))
            .spawn("expired exports", |stop| cleanup.delete_expired(stop))
            .spawn("idempotency", |stop| idempotency::purge(pool, stop));
        context.spawn_consumer(tasks, handler).run(shutdown).await
    }
}

/// Notifies waiters of rows that other replicas have projected.
async fn notify_waiters(
    waiters: StatusWaiters<Status>,
    pool: PgPool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let query = |ids: Vec<ReservationId>| {
        let pool = pool.clone();
        async move {
            let mut connection = ReadConnection::begin(&pool).await?;
            let statuses = store::statuses(&mut connection, &ids).await?;
            connection.end();
            Ok(statuses)
        }
    };
    waiters.run(query, stop).await
}
