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

use std::net::TcpListener;
use std::time::Duration;

use service_kit::messaging::{
    Fault, Idempotency, Outbox, ServiceContext, ServiceOptions, Worker, database, idempotency,
};
use shared_events::{Consumer, Timestamp};
use sqlx::migrate::Migrator;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

pub use config::Config;
use movie::{Input, Writes};
use store::catalogue;

/// How often movies are looked for that are not described: in all of the catalogue.
const FILL_PERIOD: Duration = Duration::from_secs(30);

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The service, built and bound, not yet running.
pub struct Application {
    context: ServiceContext,
    listener: TcpListener,
    metrics: events::MovieMetrics,
    idempotency: Idempotency,
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
        let idempotency = Idempotency::new(&config.idempotency, context.metrics.registry())?;
        Ok(Self { context, listener, metrics, idempotency })
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
        let Self { context, listener, metrics, idempotency } = self;
        let (pool, outbox) = (context.pool.clone(), context.outbox.clone());
        let api = http::Api { pool: pool.clone(), outbox, idempotency };
        let handler = events::Handler { outbox: context.outbox.clone(), metrics };
        let tasks = context
            .spawn_server(listener, http::routes(api))
            .spawn("idempotency", |stop| idempotency::purge(pool.clone(), stop))
            .spawn("catalogue", |stop| fill(pool, stop));
        context.spawn_consumer(tasks, handler).run(shutdown).await
    }
}

/// Keeps movies from being overlooked that a replica of an older release has published or edited.
async fn fill(pool: PgPool, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || database::bounded(catalogue::fill(&pool));
    Worker::new("describing movies", FILL_PERIOD).run(stop, step).await
}

/// The one road of every change: load, locked; decide; save what was decided, and what it tells.
async fn decide(connection: &mut PgConnection, outbox: &Outbox, inputs: &[Input]) -> Result<Writes, Fault> {
    let state = store::load(connection, inputs).await?;
    let writes = movie::fold(state, inputs, Timestamp::now());
    store::save(connection, &writes).await?;
    outbox.insert(connection, &writes.events).await?;
    Ok(writes)
}
