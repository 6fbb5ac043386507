//! 1 000 customers who want one ticket each of 500, and who repeat each call that is not answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use theater_tests::api::reservation;
use theater_tests::checks::{self, Outcomes};
use theater_tests::fleet::Fleet;
use theater_tests::{Api, eventually};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};
use uuid::Uuid;

const CUSTOMERS: usize = 1_000;
const TICKETS: i64 = 500;

const CONCURRENT_CALLS: usize = 16;

/// How long one customer repeats a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the fleet may take to come to rest after the last response.
const REST: Duration = Duration::from_secs(120);

/// The customers' calls, in a task of their own.
pub(crate) struct TicketRush {
    movie: Uuid,
    answered: Arc<AtomicUsize>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl TicketRush {
    pub(crate) async fn start(fleet: &Fleet) -> anyhow::Result<Self> {
        let movie = fleet.api.publish(TICKETS).await?;
        let answered = Arc::new(AtomicUsize::new(0));
        let (api, counter) = (fleet.api.clone(), Arc::clone(&answered));
        let task = tokio::spawn(async move {
            let customer = |_| {
                let (placing, counter) = (place(api.clone(), movie), Arc::clone(&counter));
                async move {
                    placing.await?;
                    counter.fetch_add(1, Ordering::Relaxed);
                    anyhow::Ok(())
                }
            };
            stream::iter(0..CUSTOMERS).map(customer).buffer_unordered(CONCURRENT_CALLS).try_collect().await
        });
        Ok(Self { movie, answered, task })
    }

    /// Waits until this many customers are answered.
    pub(crate) async fn wait_for_answers(&self, customers: usize) -> anyhow::Result<()> {
        eventually("customers were answered", CALL_TIMEOUT, async || {
            let answered = self.answered.load(Ordering::Relaxed);
            ensure!(answered >= customers, "{answered} of {customers}");
            Ok(())
        })
        .await
    }

    /// Waits for all customers and for the fleet to come to rest. Exactly the stock must be sold then.
    pub(crate) async fn finish(self, fleet: &Fleet) -> anyhow::Result<()> {
        self.task.await??;
        checks::wait_until_at_rest(&fleet.config, REST).await?;
        let outcomes = checks::outcomes(&fleet.api, self.movie).await?;
        let cancelled = HashMap::from([("OUT_OF_STOCK".to_owned(), CUSTOMERS - 500)]);
        ensure!(outcomes == Outcomes { confirmed: 500, cancelled, pending: 0 }, "{outcomes:?}");
        ensure!(fleet.api.tickets_left(self.movie).await? == 0, "left");
        let listed = fleet.api.list_all("/reservationLists").await?.len();
        ensure!(listed == 500, "{listed} are listed");
        let notified = fleet.api.list_all("/notifications").await?.len();
        ensure!(notified == CUSTOMERS, "{notified} notifications");
        checks::invariants(&fleet.config, &fleet.api).await
    }
}

/// Places a reservation under an id made by the customer, until it is accepted.
async fn place(api: Api, movie: Uuid) -> anyhow::Result<()> {
    let body = reservation(Uuid::now_v7(), movie, 1);
    let began = Instant::now();
    let mut pace = interval(Duration::from_millis(50));
    loop {
        pace.tick().await;
        let failure = match api.post("/reservations", &body).await {
            Ok(answer) if answer.status == StatusCode::ACCEPTED => return Ok(()),
            Ok(answer) if answer.status.is_server_error() => format!("{}: {}", answer.status, answer.text),
            Ok(answer) => bail!("refused: {}: {}", answer.status, answer.text),
            Err(error) => format!("{error:#}"),
        };
        ensure!(began.elapsed() < CALL_TIMEOUT, "no answer within {CALL_TIMEOUT:?}, last: {failure}");
    }
}
