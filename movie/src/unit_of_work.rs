//! The one way in which movies change: load (locked) → fold → save → commit.
//!
//! A vendor's call has a transaction of its own ([`UnitOfWork::execute`]). The consumer passes its own transaction
//! ([`UnitOfWork::execute_in`]).

use service_kit::http::problem::Problem;
use service_kit::messaging::database::Transaction;
use service_kit::messaging::failpoint::failpoint;
use service_kit::messaging::{Fault, Idempotency, IdempotencyKey, Outbox, StoredResponse};
use shared_events::Timestamp;
use sqlx::{PgConnection, PgPool};

use crate::movie::{self, Answer, Input, Writes};
use crate::{failpoints, store};

/// How many times a call is tried. It is tried again if another transaction has just inserted the same id or key.
const ATTEMPTS_MAX: usize = 3;

/// The response of an accepted call, or the problem with which it was refused.
pub type CallOutcome = Result<StoredResponse, Problem>;

#[derive(Clone)]
pub struct UnitOfWork {
    pub pool: PgPool,
    pub outbox: Outbox,
    pub idempotency: Idempotency,
}

impl UnitOfWork {
    /// Executes one call in a transaction of its own, at most once for each `Idempotency-Key`. `render` makes the response,
    /// which is stored under the key in the same transaction.
    ///
    /// # Errors
    /// The problem with which the call is refused; 503 if the database fails.
    pub async fn execute(
        &self,
        input: &Input,
        key: Option<&IdempotencyKey>,
        render: impl Fn(Answer) -> CallOutcome,
    ) -> CallOutcome {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.try_execute(input, key, &render).await {
                // The same id or key was inserted between load and save: the next attempt finds it.
                Err(Fault::Poison(_) | Fault::Fenced) if attempts < ATTEMPTS_MAX => {}
                result => return result?,
            }
        }
    }

    async fn try_execute(
        &self,
        input: &Input,
        key: Option<&IdempotencyKey>,
        render: impl Fn(Answer) -> CallOutcome,
    ) -> Result<CallOutcome, Fault> {
        let mut transaction = Transaction::begin(&self.pool).await?;
        let mut stored_responses = self.idempotency.load(&mut transaction, key.into_iter()).await?;
        let outcome = match stored_responses.find(key) {
            Some(stored) => stored,
            None => {
                let mut writes = self.execute_in(&mut transaction, std::slice::from_ref(input)).await?;
                let answer = writes.answers.pop().ok_or_else(Problem::internal);
                match answer.and_then(render) {
                    Ok(response) => {
                        stored_responses.store(key, &response);
                        Ok(response)
                    }
                    Err(problem) => {
                        self.reload_stored_response(&mut transaction, key).await?.unwrap_or(Err(problem))
                    }
                }
            }
        };
        self.idempotency.save(&mut transaction, &stored_responses).await?;
        failpoint(failpoints::COMMIT_CALL, transaction.commit()).await?;
        self.outbox.wake();
        self.idempotency.count_replays(&outcome);
        Ok(outcome)
    }

    /// The response that was stored under the key since it was looked up. The same call may have been accepted while this
    /// one waited for the movie's row, and this one refused because of it: a delivery that fits only once.
    async fn reload_stored_response(
        &self,
        connection: &mut PgConnection,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<CallOutcome>, Fault> {
        Ok(self.idempotency.load(connection, key.into_iter()).await?.find(key))
    }

    /// Executes the inputs in the caller's transaction. The caller wakes the relay after its commit.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn execute_in(&self, connection: &mut PgConnection, inputs: &[Input]) -> Result<Writes, Fault> {
        let state = store::load(connection, inputs).await?;
        let writes = movie::fold(state, inputs, Timestamp::now());
        store::save(connection, &writes).await?;
        self.outbox.insert(connection, &writes.events).await?;
        Ok(writes)
    }
}
