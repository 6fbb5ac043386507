//! Topics whose `max.message.bytes` is smaller than a batch of the producer. The broker refuses the whole batch, and does
//! not say which record is too large, or whether one is. Every event that fits by itself is still sent.

use std::time::Duration;

use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt, stream};
use theater_tests::theater::TheaterConfig;
use theater_tests::{Environment, Setup, Theater, checks, topics};

const SOON: Duration = Duration::from_secs(60);

fn setup() -> Setup {
    Setup { partitions: 1, deadline_secs: 300, ..Setup::default() }
}

pub(crate) async fn events_that_fit_are_sent(environment: &Environment) -> anyhow::Result<()> {
    let config = TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &setup()).await?;
    for topic in ["reservations", "movies"] {
        let name = format!("{}{topic}", config.prefix);
        topics::create(&config.bootstrap, &name, &[("max.message.bytes", "4000")]).await?;
    }
    let theater = Theater::start_with(config, 1).await?;
    let movie = theater.api.publish(150).await?;
    stream::iter(0..200)
        .map(|_| theater.api.reserve(movie, 1))
        .buffer_unordered(100)
        .try_collect::<Vec<_>>()
        .await?;
    checks::wait_until_at_rest(&theater.config, SOON).await?;
    ensure!(theater.api.tickets_left(movie).await? == 0);
    checks::invariants(&theater.config, &theater.api).await?;
    theater.stop().await
}
