//! Whatever a client sends: the contract's problem, which names the field and the bound; never a 5xx, never
//! a panic, and nothing of it stays. Each through the gateway, and at each service itself.
//!
//! The services are processes here, so that their logs are read for panics at the end.

mod bodies;
mod queries;
mod shapes;
pub(crate) mod socket;

use std::time::Duration;

use anyhow::ensure;
use futures_util::future::join_all;
use theater_tests::fleet::Fleet;
use theater_tests::theater::Stage;
use theater_tests::{Api, Environment, Setup, checks, eventually};

use crate::calls::Call;
use crate::prometheus;

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn fields_are_named_with_their_bounds(environment: &Environment) -> anyhow::Result<()> {
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
    let mut wrong = Vec::new();
    for call in calls.iter().chain(&queries::methods(movie)) {
        let owner = owner(call.path());
        for (name, api) in &entrances {
            if *name == "gateway" || *name == owner {
                wrong.extend(call.play(api).await.err());
            }
        }
    }
    for (_, api) in &entrances {
        for call in queries::routes() {
            wrong.extend(call.play(api).await.err());
        }
    }
    let wrong: Vec<_> = wrong.iter().map(|error| format!("{error:#}")).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    plays_on(fleet).await
}

pub(crate) async fn bytes_that_are_no_request_are_refused(environment: &Environment) -> anyhow::Result<()> {
    let fleet = start(environment).await?;
    let servers = fleet.members.iter().map(|member| shapes::refused(member.service, member.port));
    let wrong: Vec<_> = join_all(servers).await.into_iter().filter_map(Result::err).collect();
    let wrong: Vec<_> = wrong.iter().map(|error| format!("{error:#}")).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    shapes::nothing_was_smuggled(&fleet.api).await?;
    plays_on(fleet).await
}

async fn start(environment: &Environment) -> anyhow::Result<Fleet> {
    let stage = Stage::new(environment.bootstrap(), &environment.admin_url(), &Setup::default()).await?;
    Fleet::start(env!("CARGO_BIN_EXE_theater-tests"), stage, 1).await
}

fn entrances(fleet: &Fleet) -> anyhow::Result<Vec<(&'static str, Api)>> {
    fleet
        .members
        .iter()
        .map(|member| Ok((member.service, Api::new(format!("http://127.0.0.1:{}", member.port))?)))
        .collect()
}

/// Whose path it is.
fn owner(path: &str) -> &'static str {
    match path.split(['/', '?']).nth(1) {
        Some("movies") => "movie",
        Some("reservations") => "reservation",
        Some("notifications") => "notification",
        Some("reservationLists") => "reservation-list",
        _ => "gateway",
    }
}

/// No answer was a 5xx, the theater still plays, every process ends well, and none has panicked.
async fn plays_on(fleet: Fleet) -> anyhow::Result<()> {
    let movie = fleet.api.publish(1).await?;
    let id = fleet.api.reserve(movie, 1).await?;
    eventually("a reservation is confirmed", SOON, async || {
        let reservation = fleet.api.reservation(id).await?;
        ensure!(reservation["reserveStatus"] == "CONFIRMED", "{reservation}");
        Ok(())
    })
    .await?;
    checks::at_rest(&fleet.stage, SOON).await?;
    checks::invariants(&fleet.stage, &fleet.api).await?;
    for (name, api) in entrances(&fleet)? {
        let metrics = prometheus::parse(&Call::get("/metrics", 200).play(&api).await?.text)?;
        for sample in metrics.samples("http_server_request_duration_seconds_count") {
            let status = sample.label("http_response_status_code").unwrap_or_default();
            ensure!(!status.starts_with('5'), "{name} answered {sample:?}");
        }
    }
    fleet.stop().await
}
