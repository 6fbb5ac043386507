//! Reservations and their status.
//!
//! # Layout
//!
//! - [`reservation`]: what a reservation decides: pure, every state and every input.
//! - [`store`]: the rows behind it.
//! - [`http`]: the customer's calls, waiting for the outcome, and live events; [`intake`]: placing many of them in one
//!   transaction, each `Idempotency-Key` once ([`placement`]).
//! - [`admission`]: refusing what could not be decided in time.
//! - [`events`]: the movie's answers from the log.
//! - [`sweeper`]: cancelling what is undecided past its deadline.
//! - [`undecided`]: counting what is undecided, and for how long.
//! - [`config`]: the settings; [`metrics`]: outcomes and how long they took.
//! - [`failpoints`]: where the tests let the process die.

pub mod admission;
pub mod config;
pub mod events;
pub mod failpoints;
pub mod http;
pub mod intake;
pub mod metrics;
pub mod placement;
pub mod reservation;
pub mod store;
pub mod sweeper;
pub mod undecided;
pub mod unit_of_work;

use std::net::TcpListener;

use service_kit::messaging::database::ReadConnection;
use service_kit::messaging::waiters::StatusWaiters;
use service_kit::messaging::{Idempotency, ServiceContext, ServiceOptions, idempotency};
use shared_events::{Consumer, ReservationId};
use sqlx::migrate::Migrator;
use tokio_util::sync::CancellationToken;

pub use config::Config;
use metrics::ReservationMetrics;
use unit_of_work::UnitOfWork;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The service, built and bound, not yet running.
pub struct Application {
    context: ServiceContext,
    listener: TcpListener,
    unit_of_work: UnitOfWork,
    streams: http::Streams,
}

impl Application {
    /// Binds the address, connects to the database and migrates it.
    ///
    /// # Errors
    /// An address in use; a database that can't be reached or migrated.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let listener = service_kit::http::bind(config.bind_address)?;
        let options = ServiceOptions {
            consumer: Consumer::Reservation,
            migrations: Migrator::with_migrations(MIGRATIONS.iter().cloned().collect()),
            publishes: true,
            session: &[],
        };
        let context = ServiceContext::build(&config.events, options).await?;
        let unit_of_work = UnitOfWork {
            pool: context.pool.clone(),
            outbox: context.outbox.clone(),
            idempotency: Idempotency::new(&config.idempotency, context.metrics.registry())?,
            metrics: ReservationMetrics::new(context.metrics.registry())?,
            waiters: StatusWaiters::new(context.metrics.registry())?,
            deadline_secs: config.reservation_deadline_secs,
        };
        let streams = http::Streams::new(config.event_streams_max, context.metrics.registry())?;
        Ok(Self { context, listener, unit_of_work, streams })
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
        let Self { context, listener, unit_of_work, streams } = self;
        let (intake, requests) = intake::channel();
        let (admission, sampler) = admission::new(unit_of_work.clone());
        let api = http::Api { unit_of_work: unit_of_work.clone(), intake, admission, streams };
        let handler = events::Handler { unit_of_work: unit_of_work.clone() };
        let tasks = context
            .spawn_server(listener, http::routes(api))
            .spawn("intake", |stop| {
                intake::run(requests, unit_of_work.clone(), http::accepted_response, stop)
            })
            .spawn("admission", |stop| sampler.run(stop))
            .spawn("waiting", |stop| watch(unit_of_work.clone(), stop))
            .spawn("idempotency", |stop| idempotency::purge(unit_of_work.pool.clone(), stop))
            .spawn("undecided", |stop| undecided::watch(unit_of_work.clone(), stop))
            .spawn("sweeper", |stop| sweeper::run(unit_of_work, stop));
        context.spawn_consumer(tasks, handler).run(shutdown).await
    }
}

/// Looks for what other replicas decide while somebody waits for it.
async fn watch(unit_of_work: UnitOfWork, stop: CancellationToken) -> anyhow::Result<()> {
    let look = |ids: Vec<ReservationId>| {
        let pool = unit_of_work.pool.clone();
        async move {
            let mut reading = ReadConnection::begin(&pool).await?;
            let seen = store::statuses(&mut reading, &ids).await?;
            reading.end();
            Ok(seen)
        }
    };
    unit_of_work.waiters.clone().run(look, stop).await
}
