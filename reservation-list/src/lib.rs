//! The read side: what a customer has reserved.
//!
//! # Layout
//!
//! - [`projection`]: what the log says of a reservation, in whatever order: pure.
//! - [`store`]: the rows behind it.
//! - [`events`]: outcomes from the log.
//! - [`export`]: a movie's reservations as a file, for its vendor.
//! - [`http`]: the list, newest first, with what the caller has seen already; and the calls about exports.
//! - [`config`]: the settings.
//! - [`failpoints`]: where the tests let the process die.

pub mod config;
pub mod events;
pub mod export;
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
use export::maker::{ExportMetrics, Maker};
use http::exports::Exports;
use projection::Status;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The service, built and bound, not yet running.
pub struct Application {
    context: ServiceContext,
    listener: TcpListener,
    metrics: events::ListMetrics,
    waiters: StatusWaiters<Status>,
    exports: Exports,
    maker: Maker,
}

impl Application {
    /// Binds the address, connects to the database and migrates it. Kafka may be away.
    ///
    /// # Errors
    /// An address in use; a database that can't be reached or migrated.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let listener = service_kit::http::bind(config.bind_address)?;
        let options = ServiceOptions {
            consumer: Consumer::ReservationList,
            migrations: Migrator::with_migrations(MIGRATIONS.iter().cloned().collect()),
            publishes: false,
            // Rows and position are lost together, and the log still has what they were made of.
            session: &[("synchronous_commit", "off")],
        };
        let context = ServiceContext::build(&config.events, options).await?;
        let registry = context.metrics.registry();
        let metrics = events::ListMetrics::new(registry)?;
        let waiters = StatusWaiters::new(registry)?;
        let maker = Maker {
            pool: context.pool.clone(),
            folder: Folder::new(config.exports.exports_dir),
            bytes_max: config.exports.exports_bytes_max,
            metrics: ExportMetrics::new(registry)?,
            wake: Arc::new(Notify::new()),
        };
        let idempotency = Idempotency::new(&config.idempotency, registry)?;
        let exports = Exports::new(&maker, config.exports.exports_ttl_secs, idempotency);
        Ok(Self { context, listener, metrics, waiters, exports, maker })
    }

    /// The port that was bound; 0 if the system can't tell.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().map_or(0, |address| address.port())
    }

    /// Runs until told to stop, and drains.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { context, listener, metrics, waiters, exports, maker } = self;
        let pool = context.pool.clone();
        let api = http::Api { pool: pool.clone(), waiters: waiters.clone(), exports };
        let handler = events::Handler { metrics, waiters: waiters.clone() };
        let clearing = maker.clone();
        let tasks = context
            .spawn_server(listener, http::routes(api))
            .spawn("waiting", |stop| watch(waiters, pool.clone(), stop))
            .spawn("exports", |stop| maker.run(stop))
            .spawn("expired exports", |stop| clearing.clear(stop))
            .spawn("idempotency", |stop| idempotency::purge(pool, stop));
        context.spawn_consumer(tasks, handler).run(shutdown).await
    }
}

/// Looks for what other replicas project while somebody waits for it.
async fn watch(waiters: StatusWaiters<Status>, pool: PgPool, stop: CancellationToken) -> anyhow::Result<()> {
    let look = |ids: Vec<ReservationId>| {
        let pool = pool.clone();
        async move {
            let mut reading = ReadConnection::begin(&pool).await?;
            let seen = store::statuses(&mut reading, &ids).await?;
            reading.end();
            Ok(seen)
        }
    };
    waiters.run(look, stop).await
}
