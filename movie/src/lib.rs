//! The catalogue and the stock.
//!
//! # Layout
//!
//! - [`movie`]: what a movie decides: pure, every state and every input.
//! - [`search`]: what a movie is found by, and in which order.
//! - [`store`]: the rows behind it.
//! - [`http`]: the vendor's calls.
//! - [`events`]: placements and cancellations from the log.
//! - [`config`]: the settings.
//! - [`failpoints`]: where the tests let the process die.

pub mod config;
pub mod events;
pub mod failpoints;
pub mod http;
pub mod movie;
pub mod search;
pub mod store;
pub mod unit_of_work;

use std::net::TcpListener;
use std::time::Duration;

use service_kit::messaging::{Idempotency, ServiceContext, ServiceOptions, Worker, database, idempotency};
use shared_events::Consumer;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tokio_util::sync::CancellationToken;

pub use config::Config;
use store::catalogue;
use unit_of_work::UnitOfWork;

/// How often movies are looked for that are not described: in all of the catalogue.
const FILL_PERIOD: Duration = Duration::from_secs(30);

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The service, built and bound, not yet running.
pub struct Application {
    context: ServiceContext,
    listener: TcpListener,
    unit_of_work: UnitOfWork,
    metrics: events::MovieMetrics,
}

impl Application {
    /// Binds the address, connects to the database and migrates it.
    ///
    /// # Errors
    /// An address in use; a database that can't be reached or migrated.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let listener = service_kit::http::bind(config.bind_address)?;
        let options = ServiceOptions {
            consumer: Consumer::Movie,
            migrations: Migrator::with_migrations(MIGRATIONS.iter().cloned().collect()),
            publishes: true,
            session: &[search::SIMILAR],
        };
        let context = ServiceContext::build(&config.events, options).await?;
        let metrics = events::MovieMetrics::new(context.metrics.registry())?;
        let unit_of_work = UnitOfWork {
            pool: context.pool.clone(),
            outbox: context.outbox.clone(),
            idempotency: Idempotency::new(&config.idempotency, context.metrics.registry())?,
        };
        Ok(Self { context, listener, unit_of_work, metrics })
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
        let Self { context, listener, unit_of_work, metrics } = self;
        let pool = unit_of_work.pool.clone();
        let api = http::Api { unit_of_work: unit_of_work.clone() };
        let handler = events::Handler { unit_of_work, metrics };
        let tasks = context
            .spawn_server(listener, http::routes(api))
            .spawn("idempotency", |stop| idempotency::purge(pool.clone(), stop))
            .spawn("catalogue", |stop| fill(pool, stop));
        context.spawn_consumer(tasks, handler).run(shutdown).await
    }
}

/// Keeps movies from being overlooked that a replica of an older release has published or edited.
async fn fill(pool: PgPool, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || database::with_time_limit(catalogue::fill(&pool));
    Worker::new("describing movies", FILL_PERIOD).run(stop, step).await
}
