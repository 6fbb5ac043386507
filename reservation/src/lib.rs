//! Reservations and their status.
//!
//! # Layout
//!
//! - [`reservation`]: the domain logic. Pure: every pair of status and command has an arm, and repeated events
//!   change nothing.
//! - [`unit_of_work`]: load, fold, save, commit: the only way in which reservations change.
//! - [`store`]: the SQL.
//! - [`http`]: the customer's calls. Its `dto` checks the body of a reservation, the count included; its `stream` sends
//!   live events.
//! - [`intake`]: places many reservations in one transaction; [`placement`]: decides them, at most one for each
//!   `Idempotency-Key`.
//! - [`admission`]: refuses reservations that could not be decided in time.
//! - [`events`]: turns movie's replies in the log into commands.
//! - [`sweeper`]: cancels reservations that are undecided past their deadline.
//! - [`pending_stats`]: measures how many reservations are undecided, and for how long.
//! - [`config`]: the settings; [`metrics`]: outcomes and how long they took.
//! - [`failpoints`]: the points at which tests kill the process.

pub mod admission;
pub mod config;
pub mod events;
pub mod failpoints;
pub mod http;
pub mod intake;
pub mod metrics;
pub mod pending_stats;
pub mod placement;
pub mod reservation;
pub mod store;
pub mod sweeper;
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
    /// If the address is in use, or the database can't be reached or migrated.
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

    /// The bound port; 0 if it can't be determined.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().map_or(0, |address| address.port())
    }

    /// Runs until told to stop, then finishes the calls and records that it has begun.
    ///
    /// # Errors
    /// If a fatal fault occurs.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { context, listener, unit_of_work, streams } = self;
        let (intake, requests) = intake::channel();
        let (admission, admission_monitor) = admission::new(unit_of_work.clone());
        let api = http::Api { unit_of_work: unit_of_work.clone(), intake, admission, streams };
        let handler = events::Handler { unit_of_work: unit_of_work.clone() };
        let tasks = context
            .spawn_server(listener, http::routes(api))
            .spawn("intake", |stop| {
                intake::run(requests, unit_of_work.clone(), http::accepted_response, stop)
            })
            .spawn("admission", |stop| admission_monitor.run(stop))
            .spawn("waiting", |stop| poll_waiters(unit_of_work.clone(), stop))
            .spawn("idempotency", |stop| idempotency::purge(unit_of_work.pool.clone(), stop))
            .spawn("undecided", |stop| pending_stats::run(unit_of_work.clone(), stop))
            .spawn("sweeper", |stop| sweeper::run(unit_of_work, stop));
        context.spawn_consumer(tasks, handler).run(shutdown).await
    }
}

/// Notifies waiters of what other replicas commit.
async fn poll_waiters(unit_of_work: UnitOfWork, stop: CancellationToken) -> anyhow::Result<()> {
    let query = |ids: Vec<ReservationId>| {
        let pool = unit_of_work.pool.clone();
        async move {
            let mut connection = ReadConnection::begin(&pool).await?;
            let statuses = store::statuses(&mut connection, &ids).await?;
            connection.end();
            Ok(statuses)
        }
    };
    unit_of_work.waiters.clone().run(query, stop).await
}
