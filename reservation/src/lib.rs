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

use std::net::TcpListener;

use service_kit::messaging::database::{ReadConnection, Transaction};
use service_kit::messaging::failpoint::failpoint;
use service_kit::messaging::waiters::StatusWaiters;
use service_kit::messaging::{Fault, Idempotency, Outbox, ServiceContext, ServiceOptions, idempotency};
use shared_events::{Consumer, ReservationId, Timestamp};
use sqlx::migrate::Migrator;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

pub use config::Config;
use metrics::ReservationMetrics;
use placement::{PlaceOutcome, PlaceRequest};
use reservation::{Input, State, Status, Writes};

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
            .spawn("intake", |stop| intake::run(requests, unit_of_work.clone(), stop))
            .spawn("admission", |stop| sampler.run(stop))
            .spawn("waiting", |stop| watch(unit_of_work.clone(), stop))
            .spawn("idempotency", |stop| idempotency::purge(unit_of_work.pool.clone(), stop))
            .spawn("undecided", |stop| undecided::watch(unit_of_work.clone(), stop))
            .spawn("sweeper", |stop| sweeper::run(unit_of_work, stop));
        context.spawn_consumer(tasks, handler).run(shutdown).await
    }
}

/// The one road of every change, whoever asks: load, locked; decide; save what was decided, and what it
/// tells; commit.
#[derive(Clone)]
pub struct UnitOfWork {
    pub pool: PgPool,
    pub outbox: Outbox,
    pub idempotency: Idempotency,
    pub metrics: ReservationMetrics,
    pub waiters: StatusWaiters<Status>,
    pub deadline_secs: u32,
}

impl UnitOfWork {
    /// Decides in a transaction of its own.
    ///
    /// # Errors
    /// Nothing was committed, unless the answer to the commit was lost.
    pub async fn execute(&self, inputs: &[Input]) -> Result<Writes, Fault> {
        let mut transaction = Transaction::begin(&self.pool).await?;
        let writes = self.decide(&mut transaction, inputs).await?;
        failpoint(failpoints::COMMIT_CALL, transaction.commit()).await?;
        self.committed(&writes);
        Ok(writes)
    }

    /// Places in a transaction of its own, each key once.
    ///
    /// # Errors
    /// Nothing was committed, unless the answer to the commit was lost.
    pub async fn place(&self, requests: &[PlaceRequest]) -> Result<Vec<PlaceOutcome>, Fault> {
        let mut transaction = Transaction::begin(&self.pool).await?;
        let keys = requests.iter().filter_map(|placing| placing.key.as_ref());
        let mut stored_responses = self.idempotency.load(&mut transaction, keys).await?;
        let state = store::load(&mut transaction, requests.iter().map(|placing| &placing.input)).await?;
        let (writes, answers) = placement::decide(state, &mut stored_responses, requests, Timestamp::now());
        self.save(&mut transaction, &writes).await?;
        self.idempotency.save(&mut transaction, &stored_responses).await?;
        failpoint(failpoints::COMMIT_PLACED, transaction.commit()).await?;
        self.committed(&writes);
        self.idempotency.count(answers.iter().flatten().map(|accepted| &accepted.stored_response));
        Ok(answers)
    }

    async fn decide(&self, connection: &mut PgConnection, inputs: &[Input]) -> Result<Writes, Fault> {
        let state = store::load(connection, inputs).await?;
        self.decide_loaded(connection, state, inputs).await
    }

    async fn decide_loaded(
        &self,
        connection: &mut PgConnection,
        state: State,
        inputs: &[Input],
    ) -> Result<Writes, Fault> {
        let writes = reservation::fold(state, inputs, Timestamp::now());
        self.save(connection, &writes).await?;
        Ok(writes)
    }

    async fn save(&self, connection: &mut PgConnection, writes: &Writes) -> Result<(), Fault> {
        store::save(connection, writes, self.deadline_secs).await?;
        self.outbox.insert(connection, &writes.events).await
    }

    fn committed(&self, writes: &Writes) {
        self.outbox.wake();
        self.metrics.count(&writes.decided);
        for reservation in &writes.changed {
            self.waiters.notify(reservation.id, reservation.status);
        }
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
