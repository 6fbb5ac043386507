//! 1 000 concurrent customers on two replicas of every service: exactly the stock is sold.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt, stream};
use theater_tests::checks::{self, Outcomes};
use theater_tests::{Environment, Setup, Theater};

const SOON: Duration = Duration::from_secs(60);

const CONCURRENT_CALLS: usize = 100;

pub(crate) async fn two_replicas_sell_exactly_the_stock(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { replicas: 2, deadline_secs: 300, ..Setup::default() };
    let theater = Theater::start(environment, setup).await?;
    let movie = theater.api.publish(500).await?;
    stream::iter(0..1_000)
        .map(|_| theater.api.reserve(movie, 1))
        .buffer_unordered(CONCURRENT_CALLS)
        .try_collect::<Vec<_>>()
        .await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    let cancelled = HashMap::from([("OUT_OF_STOCK".to_owned(), 500)]);
    let outcomes = checks::outcomes(&theater.api, movie).await?;
    ensure!(outcomes == Outcomes { confirmed: 500, cancelled, pending: 0 }, "{outcomes:?}");
    ensure!(theater.api.tickets_left(movie).await? == 0);
    ensure!(theater.api.list_all("/reservationLists").await?.len() == 500);
    ensure!(theater.api.list_all("/notifications").await?.len() == 1_000);
    checks::invariants(&theater.config, &theater.api).await?;
    theater.stop().await
}
