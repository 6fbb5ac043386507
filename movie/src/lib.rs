//! The catalogue and the stock.
//!
//! # Layout
//!
//! - [`movie`]: the domain logic. Pure: every pair of state and command has an arm, and repeated events change
//!   nothing. The stock is decremented here.
//! - [`unit_of_work`]: load, fold, save, commit: the only way in which movies change.
//! - [`store`]: the SQL; its `catalogue` searches and lists.
//! - [`http`]: the vendor's calls. Its `dto` checks their bodies, counts included.
//! - [`search`]: the words by which a movie is found, queries, and sort orders.
//! - [`events`]: turns placements and cancellations in the log into commands.
//! - [`config`]: the settings.
//! - [`failpoints`]: the points at which tests kill the process.

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

/// How often the whole catalogue is searched for movies without a search text.
const BACKFILL_PERIOD: Duration = Duration::from_secs(30);

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
    /// If the address is in use, or the database can't be reached or migrated.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let listener = service_kit::http::bind(config.bind_address)?;
        let options = ServiceOptions {
            consumer: Consumer::Movie,
            migrations: Migrator::with_migrations(MIGRATIONS.iter().cloned().collect()),
            publishes: true,
            session: &[search::SIMILARITY_THRESHOLD],
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

    /// The bound port; 0 if it can't be determined.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().map_or(0, |address| address.port())
    }

    /// Runs until told to stop, then finishes the calls and records that it has begun.
    ///
    /// # Errors
    /// If a fatal fault occurs.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { context, listener, unit_of_work, metrics } = self;
        let pool = unit_of_work.pool.clone();
        let api = http::Api { unit_of_work: unit_of_work.clone() };
        let handler = events::Handler { unit_of_work, metrics };
        let tasks = context
            .spawn_server(listener, http::routes(api))
            .spawn("idempotency", |stop| idempotency::purge(pool.clone(), stop))
            .spawn("catalogue", |stop| backfill_search_texts(pool, stop));
        context.spawn_consumer(tasks, handler).run(shutdown).await
    }
}

/// Adds the search texts of movies that a replica of an older release has published or edited: search would miss them.
async fn backfill_search_texts(pool: PgPool, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || database::with_time_limit(catalogue::backfill_search_texts(&pool));
    Worker::new("adding missing search texts", BACKFILL_PERIOD).run(stop, step).await
}
