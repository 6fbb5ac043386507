//! Topics that take less than what is sent together: the broker refuses the whole of it, and doesn't say
//! which record is too large, or whether any is.

use std::time::Duration;

use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt, stream};
use theater_tests::theater::Stage;
use theater_tests::{Environment, Setup, Theater, checks, topics};

const SOON: Duration = Duration::from_secs(60);

fn setup() -> Setup {
    Setup { partitions: 1, deadline_secs: 300, ..Setup::default() }
}

pub(crate) async fn events_that_fit_are_sent(environment: &Environment) -> anyhow::Result<()> {
    let stage = Stage::new(environment.bootstrap(), &environment.admin_url(), &setup()).await?;
    for topic in ["reservations", "movies"] {
        let name = format!("{}{topic}", stage.prefix);
        topics::create(&stage.bootstrap, &name, &[("max.message.bytes", "4000")]).await?;
    }
    let theater = Theater::start_on(stage, 1).await?;
    let movie = theater.api.publish(150).await?;
    stream::iter(0..200)
        .map(|_| theater.api.reserve(movie, 1))
        .buffer_unordered(100)
        .try_collect::<Vec<_>>()
        .await?;
    checks::at_rest(&theater.stage, SOON).await?;
    ensure!(theater.api.left(movie).await? == 0);
    checks::invariants(&theater.stage, &theater.api).await?;
    theater.stop().await
}
