//! Invalid requests. Each is refused with a problem as in the contract, which names the field and its bound. No request
//! causes a 5xx or a panic, and a refused one has no effect. Each is sent to the gateway and to the services themselves.
//!
//! The services run as processes here, because the end of the test searches their logs for panics.
//!
//! - [`bodies`], [`queries`]: invalid JSON bodies; invalid paths, queries and methods.
//! - [`malformed_http`]: invalid HTTP, sent by a raw TCP [`socket`].

mod bodies;
mod malformed_http;
mod queries;
pub(crate) mod socket;

use std::time::Duration;

use anyhow::ensure;
use futures_util::future::join_all;
use theater_tests::fleet::Fleet;
use theater_tests::theater::TheaterConfig;
use theater_tests::{Api, Environment, Setup, checks, eventually};

use crate::calls::Call;
use crate::prometheus;

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn invalid_fields_are_named_with_their_bounds(
    environment: &Environment,
) -> anyhow::Result<()> {
    let fleet = start(environment).await?;
    let movie = fleet.api.publish(1_000).await?;
    let calls = [
        bodies::unparsable(),
        bodies::of_movies(movie),
        bodies::of_reservations(movie),
        bodies::too_large(),
        bodies::of_other_types(movie),
        queries::filters(movie),
        queries::pages(&fleet.api).await?,
        queries::ids(),
    ]
    .concat();
    let entrances = entrances(&fleet)?;
    let mut failures = Vec::new();
    for call in calls.iter().chain(&queries::methods(movie)) {
        let owner = owner(call.path());
        for (name, api) in &entrances {
            if *name == "gateway" || *name == owner {
                failures.extend(call.play(api).await.err());
            }
        }
    }
    for (_, api) in &entrances {
        for call in queries::routes() {
            failures.extend(call.play(api).await.err());
        }
    }
    let failures: Vec<_> = failures.iter().map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    expect_healthy(fleet).await
}

pub(crate) async fn malformed_http_is_refused(environment: &Environment) -> anyhow::Result<()> {
    let fleet = start(environment).await?;
    let refusals =
        fleet.members.iter().map(|member| malformed_http::all_are_refused(member.service, member.port));
    let failures: Vec<_> = join_all(refusals).await.into_iter().filter_map(Result::err).collect();
    let failures: Vec<_> = failures.iter().map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    malformed_http::nothing_was_smuggled(&fleet.api).await?;
    expect_healthy(fleet).await
}

async fn start(environment: &Environment) -> anyhow::Result<Fleet> {
    let config =
        TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &Setup::default()).await?;
    Fleet::start(env!("CARGO_BIN_EXE_theater-tests"), config, 1).await
}

fn entrances(fleet: &Fleet) -> anyhow::Result<Vec<(&'static str, Api)>> {
    fleet
        .members
        .iter()
        .map(|member| Ok((member.service, Api::new(format!("http://127.0.0.1:{}", member.port))?)))
        .collect()
}

/// The service that handles a path.
fn owner(path: &str) -> &'static str {
    match path.split(['/', '?']).nth(1) {
        Some("movies") => "movie",
        Some("reservations") => "reservation",
        Some("notifications") => "notification",
        Some("reservationLists") => "reservation-list",
        _ => "gateway",
    }
}

/// No response was a 5xx, the saga still works, every process exits with success, and none has panicked.
async fn expect_healthy(fleet: Fleet) -> anyhow::Result<()> {
    let movie = fleet.api.publish(1).await?;
    let id = fleet.api.reserve(movie, 1).await?;
    eventually("a reservation is confirmed", SOON, async || {
        let reservation = fleet.api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
        Ok(())
    })
    .await?;
    checks::wait_until_at_rest(&fleet.config, SOON).await?;
    checks::invariants(&fleet.config, &fleet.api).await?;
    for (name, api) in entrances(&fleet)? {
        let metrics = prometheus::parse(&Call::get("/metrics", 200).play(&api).await?.text)?;
        for sample in metrics.samples("http_server_request_duration_seconds_count") {
            let status = sample.label("http_response_status_code").unwrap_or_default();
            ensure!(!status.starts_with('5'), "{name} answered {sample:?}");
        }
    }
    fleet.stop().await
}
