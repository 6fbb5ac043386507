//! The one way in which reservations change: load (locked) → fold → save → commit.
//!
//! A cancellation ([`UnitOfWork::execute`]) and a batch of placements ([`UnitOfWork::place`]) have a transaction of their
//! own. The consumer and the sweeper pass their own transaction, and call `after_commit` when it has committed.

use service_kit::messaging::database::Transaction;
use service_kit::messaging::failpoint::failpoint;
use service_kit::messaging::waiters::StatusWaiters;
use service_kit::messaging::{Fault, Idempotency, Outbox};
use shared_events::Timestamp;
use sqlx::{PgConnection, PgPool};

use crate::metrics::ReservationMetrics;
use crate::placement::{self, PlaceOutcome, PlaceRequest, RenderAccepted};
use crate::reservation::{self, Input, State, Status, Writes};
use crate::{failpoints, store};

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
    /// Executes the inputs in a transaction of their own.
    ///
    /// # Errors
    /// Nothing was committed, unless the response to the commit was lost.
    pub async fn execute(&self, inputs: &[Input]) -> Result<Writes, Fault> {
        let mut transaction = Transaction::begin(&self.pool).await?;
        let writes = self.execute_in(&mut transaction, inputs).await?;
        failpoint(failpoints::COMMIT_CANCELLATION, transaction.commit()).await?;
        self.after_commit(&writes);
        Ok(writes)
    }

    /// Places reservations in a transaction of their own, at most one for each `Idempotency-Key`.
    ///
    /// # Errors
    /// Nothing was committed, unless the response to the commit was lost.
    pub async fn place(
        &self,
        requests: &[PlaceRequest],
        render: RenderAccepted,
    ) -> Result<Vec<PlaceOutcome>, Fault> {
        let mut transaction = Transaction::begin(&self.pool).await?;
        let keys = requests.iter().filter_map(|request| request.key.as_ref());
        let mut stored_responses = self.idempotency.load(&mut transaction, keys).await?;
        let state = store::load(&mut transaction, requests.iter().map(|request| &request.input)).await?;
        let (writes, outcomes) =
            placement::decide(state, &mut stored_responses, requests, render, Timestamp::now());
        self.save(&mut transaction, &writes).await?;
        self.idempotency.save(&mut transaction, &stored_responses).await?;
        failpoint(failpoints::COMMIT_PLACEMENTS, transaction.commit()).await?;
        self.after_commit(&writes);
        self.idempotency.count_replays(outcomes.iter().flatten().map(|accepted| &accepted.response));
        Ok(outcomes)
    }

    /// Executes the inputs in the caller's transaction. The caller calls `after_commit` when it has committed.
    pub(crate) async fn execute_in(
        &self,
        connection: &mut PgConnection,
        inputs: &[Input],
    ) -> Result<Writes, Fault> {
        let state = store::load(connection, inputs).await?;
        self.fold_and_save(connection, state, inputs).await
    }

    /// As `execute_in`, for a caller that has locked and loaded the reservations itself.
    pub(crate) async fn fold_and_save(
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

    /// Wakes the relay and the waiters, and counts what was decided.
    pub(crate) fn after_commit(&self, writes: &Writes) {
        self.outbox.wake();
        self.metrics.count(&writes.outcomes);
        for reservation in &writes.changed {
            self.waiters.notify(reservation.id, reservation.status);
        }
    }
}
