//! Reservations and their status.
//!
//! # Layout
//!
//! - [`reservation`]: what a reservation decides: pure, every state and every input.
//! - [`store`]: the rows behind it.
//! - [`http`]: the customer's calls, waiting for the outcome, and live events; [`intake`]: placing many of them in one
//!   transaction, each `Idempotency-Key` once ([`placing`]).
//! - [`admission`]: refusing what could not be decided in time.
//! - [`events`]: the movie's answers from the log.
//! - [`sweeper`]: cancelling what is undecided past its deadline.
//! - [`undecided`]: counting what is undecided, and for how long.
//! - [`config`]: the settings; [`metrics`]: outcomes and how long they took.
//! - [`acts`]: where the tests let the process die.

pub mod acts;
pub mod admission;
pub mod config;
pub mod events;
pub mod http;
pub mod intake;
pub mod metrics;
pub mod placing;
pub mod reservation;
pub mod store;
pub mod sweeper;
pub mod undecided;

use std::net::TcpListener;

use service_kit::events::database::{Reading, Transaction};
use service_kit::events::failpoint::around;
use service_kit::events::waiting::Room;
use service_kit::events::{Fault, Foundation, Idempotency, Needs, Outbox, idempotency};
use shared_events::{Consumer, ReservationId, Timestamp};
use sqlx::migrate::Migrator;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

pub use config::Config;
use metrics::ReservationMetrics;
use placing::{Placed, Placing};
use reservation::{Input, State, Status, Writes};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The service, built and bound, not yet running.
pub struct Application {
    foundation: Foundation,
    listener: TcpListener,
    road: Road,
    streams: http::Streams,
}

impl Application {
    /// Binds the address, connects to the database and migrates it.
    ///
    /// # Errors
    /// An address in use; a database that can't be reached or migrated.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let listener = service_kit::http::bind(config.bind_address)?;
        let needs = Needs {
            consumer: Consumer::Reservation,
            migrations: Migrator::with_migrations(MIGRATIONS.iter().cloned().collect()),
            publishes: true,
            session: &[],
        };
        let foundation = Foundation::build(&config.events, needs).await?;
        let road = Road {
            pool: foundation.pool.clone(),
            outbox: foundation.outbox.clone(),
            idempotency: Idempotency::new(&config.idempotency, foundation.metrics.registry())?,
            metrics: ReservationMetrics::new(foundation.metrics.registry())?,
            room: Room::new(foundation.metrics.registry())?,
            deadline_secs: config.reservation_deadline_secs,
        };
        let streams = http::Streams::new(config.event_streams_max, foundation.metrics.registry())?;
        Ok(Self { foundation, listener, road, streams })
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
        let Self { foundation, listener, road, streams } = self;
        let (intake, placings) = intake::channel();
        let (admission, sampler) = admission::new(road.clone());
        let api = http::Api { road: road.clone(), intake, admission, streams };
        let handler = events::Handler { road: road.clone() };
        let stages = foundation
            .serve(listener, http::routes(api))
            .then("intake", |stop| intake::run(placings, road.clone(), stop))
            .then("admission", |stop| sampler.run(stop))
            .then("waiting", |stop| watch(road.clone(), stop))
            .then("idempotency", |stop| idempotency::purge(road.pool.clone(), stop))
            .then("undecided", |stop| undecided::watch(road.clone(), stop))
            .then("sweeper", |stop| sweeper::run(road, stop));
        foundation.consume(stages, handler).run(shutdown).await
    }
}

/// The one road of every change, whoever asks: load, locked; decide; save what was decided, and what it
/// tells; commit.
#[derive(Clone)]
pub struct Road {
    pub pool: PgPool,
    pub outbox: Outbox,
    pub idempotency: Idempotency,
    pub metrics: ReservationMetrics,
    pub room: Room<Status>,
    pub deadline_secs: u32,
}

impl Road {
    /// Decides in a transaction of its own.
    ///
    /// # Errors
    /// Nothing was committed, unless the answer to the commit was lost.
    pub async fn travel(&self, inputs: &[Input]) -> Result<Writes, Fault> {
        let mut transaction = Transaction::begin(&self.pool).await?;
        let writes = self.decide(&mut transaction, inputs).await?;
        around(acts::COMMIT_CALL, transaction.commit()).await?;
        self.committed(&writes);
        Ok(writes)
    }

    /// Places in a transaction of its own, each key once.
    ///
    /// # Errors
    /// Nothing was committed, unless the answer to the commit was lost.
    pub async fn place(&self, placings: &[Placing]) -> Result<Vec<Placed>, Fault> {
        let mut transaction = Transaction::begin(&self.pool).await?;
        let claims = placings.iter().filter_map(|placing| placing.claim.as_ref());
        let mut kept = self.idempotency.load(&mut transaction, claims).await?;
        let state = store::load(&mut transaction, placings.iter().map(|placing| &placing.input)).await?;
        let (writes, answers) = placing::decide(state, &mut kept, placings, Timestamp::now());
        self.save(&mut transaction, &writes).await?;
        self.idempotency.save(&mut transaction, &kept).await?;
        around(acts::COMMIT_PLACED, transaction.commit()).await?;
        self.committed(&writes);
        self.idempotency.count(answers.iter().flatten().map(|accepted| &accepted.acceptance));
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
            self.room.tell(reservation.id, reservation.status);
        }
    }
}

/// Looks for what other replicas decide while somebody waits for it.
async fn watch(road: Road, stop: CancellationToken) -> anyhow::Result<()> {
    let look = |ids: Vec<ReservationId>| {
        let pool = road.pool.clone();
        async move {
            let mut reading = Reading::begin(&pool).await?;
            let seen = store::statuses(&mut reading, &ids).await?;
            reading.end();
            Ok(seen)
        }
    };
    road.room.clone().run(look, stop).await
}
