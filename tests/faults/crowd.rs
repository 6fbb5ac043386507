//! 1 000 customers who want one ticket each of 500, and repeat what got no answer.

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

/// Requests under way at once.
const AT_ONCE: usize = 16;

/// How long one customer goes on asking.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the fleet may take to come to rest after the last answer.
const REST: Duration = Duration::from_secs(120);

/// A crowd at the entrance.
pub(crate) struct Crowd {
    movie: Uuid,
    answered: Arc<AtomicUsize>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Crowd {
    pub(crate) async fn arrives(fleet: &Fleet) -> anyhow::Result<Self> {
        let movie = fleet.api.publish(TICKETS).await?;
        let answered = Arc::new(AtomicUsize::new(0));
        let (api, counter) = (fleet.api.clone(), Arc::clone(&answered));
        let task = tokio::spawn(async move {
            let customer = |_| {
                let (asking, counter) = (ask(api.clone(), movie), Arc::clone(&counter));
                async move {
                    asking.await?;
                    counter.fetch_add(1, Ordering::Relaxed);
                    anyhow::Ok(())
                }
            };
            stream::iter(0..CUSTOMERS).map(customer).buffer_unordered(AT_ONCE).try_collect().await
        });
        Ok(Self { movie, answered, task })
    }

    /// Waits until so many have their answer.
    pub(crate) async fn served(&self, customers: usize) -> anyhow::Result<()> {
        eventually("customers were answered", PATIENCE, async || {
            let answered = self.answered.load(Ordering::Relaxed);
            ensure!(answered >= customers, "{answered} of {customers}");
            Ok(())
        })
        .await
    }

    /// Waits for all, and for the fleet to come to rest; then exactly what there was is sold.
    pub(crate) async fn leaves(self, fleet: &Fleet) -> anyhow::Result<()> {
        self.task.await??;
        checks::at_rest(&fleet.stage, REST).await?;
        let outcomes = checks::outcomes(&fleet.api, self.movie).await?;
        let cancelled = HashMap::from([("OUT_OF_STOCK".to_owned(), CUSTOMERS - 500)]);
        ensure!(outcomes == Outcomes { confirmed: 500, cancelled, pending: 0 }, "{outcomes:?}");
        ensure!(fleet.api.left(self.movie).await? == 0, "left");
        let listed = fleet.api.all("/reservationLists").await?.len();
        ensure!(listed == 500, "{listed} are listed");
        let notified = fleet.api.all("/notifications").await?.len();
        ensure!(notified == CUSTOMERS, "{notified} notifications");
        checks::invariants(&fleet.stage, &fleet.api).await
    }
}

/// Asks under an id of the customer's own until there is an answer that settles it.
async fn ask(api: Api, movie: Uuid) -> anyhow::Result<()> {
    let body = reservation(Uuid::now_v7(), movie, 1);
    let began = Instant::now();
    // The pace of one impatient customer.
    let mut pace = interval(Duration::from_millis(50));
    loop {
        pace.tick().await;
        let trouble = match api.post("/reservations", &body).await {
            Ok(answer) if answer.status == StatusCode::ACCEPTED => return Ok(()),
            Ok(answer) if answer.status.is_server_error() => format!("{}: {}", answer.status, answer.text),
            Ok(answer) => bail!("refused: {}: {}", answer.status, answer.text),
            Err(error) => format!("{error:#}"),
        };
        ensure!(began.elapsed() < PATIENCE, "no answer within {PATIENCE:?}, last: {trouble}");
    }
}
