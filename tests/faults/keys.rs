//! 200 customers send the same call five times at once, under a key of their own, and again whenever there is
//! no answer, while the reservation's replicas and the gateway die and are started again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use theater_tests::api::Answer;
use theater_tests::checks::{self, Outcomes};
use theater_tests::fleet::Fleet;
use theater_tests::theater::Stage;
use theater_tests::{Api, Environment, Setup, eventually, log};
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

const KEYS: usize = 200;
const REPEATS: usize = 5;
const TICKETS: usize = 150;

/// How long one call is made again.
const PATIENCE: Duration = Duration::from_secs(120);
const REST: Duration = Duration::from_secs(120);

/// How a member ends in the middle of calls.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill,
    Terminate,
}

/// What the calls have met so far.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    answers: usize,
    /// Cut connections and 5xx.
    troubles: usize,
}

pub(crate) async fn a_key_has_one_effect_whoever_dies(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { deadline_secs: 300, ..Setup::default() };
    let stage = Stage::new(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    let mut fleet = Fleet::start(env!("CARGO_BIN_EXE_theater-tests"), stage, 2).await?;
    let movie = fleet.api.publish(i64::try_from(TICKETS)?).await?;
    let (one, other) = (fleet.of("reservation")[0], fleet.of("reservation")[1]);
    let gateway = fleet.of("gateway")[0];
    let blows = [
        (one, Blow::Kill),
        (other, Blow::Terminate),
        (gateway, Blow::Kill),
        (other, Blow::Kill),
        (gateway, Blow::Terminate),
        (one, Blow::Terminate),
        (other, Blow::Kill),
        (one, Blow::Kill),
    ];

    let (released, met) = (Semaphore::new(0), watch::Sender::new(Met::default()));
    let api = fleet.api.clone();
    let customers = try_join_all((0..KEYS).map(async |customer| {
        released.acquire().await?.forget();
        try_join_all((0..REPEATS).map(|_| ask(&api, movie, customer, &met))).await
    }));
    let struck = async {
        for (index, blow) in blows {
            let before = met.borrow().answers;
            released.add_permits(KEYS / blows.len());
            // In the middle of their calls: one is answered, the others are not yet.
            met.subscribe().wait_for(|met| met.answers > before).await?;
            strike(&mut fleet, index, blow).await?;
        }
        anyhow::Ok(())
    };
    let (customers, ()) = tokio::try_join!(customers, struck)?;
    let mut ids = HashSet::new();
    for answers in customers {
        ensure!(ids.insert(one_reservation(&answers)?), "two keys have one reservation");
    }
    let met = *met.borrow();
    println!("  {} answers, {} troubles", met.answers, met.troubles);
    ensure!(met.answers == KEYS * REPEATS && met.troubles > 0, "no call met a fault: {met:?}");
    checks::at_rest(&fleet.stage, REST).await?;
    exactly(&fleet, movie, &ids).await?;
    checks::invariants(&fleet.stage, &fleet.api).await?;
    fleet.stop().await
}

async fn strike(fleet: &mut Fleet, index: usize, blow: Blow) -> anyhow::Result<()> {
    match blow {
        Blow::Kill => fleet.kill(index).await,
        Blow::Terminate => {
            let status = fleet.terminate(index).await?;
            ensure!(status.success(), "{} ended with {status}", fleet.members[index].service);
        }
    }
    fleet.spawn(index)?;
    fleet.ready(index).await
}

/// Makes the call until there is an answer that settles it.
async fn ask(api: &Api, movie: Uuid, customer: usize, met: &watch::Sender<Met>) -> anyhow::Result<Answer> {
    let body = json!({"userId": customer, "userName": "Jane", "movieId": movie, "count": 1});
    let answer = eventually("the call is answered", PATIENCE, async || {
        let request = api.request(reqwest::Method::POST, "/reservations").json(&body);
        let answer = Api::send(request.header("idempotency-key", format!("order {customer}"))).await;
        let settled = answer.and_then(|answer| {
            ensure!(!answer.status.is_server_error(), "{answer:?}");
            Ok(answer)
        });
        met.send_modify(|met| *if settled.is_ok() { &mut met.answers } else { &mut met.troubles } += 1);
        settled
    })
    .await?;
    ensure!(answer.status == 202, "{answer:?}");
    Ok(answer)
}

/// All answers of one key are the same to the byte, and at most one of them is the first: that may have been
/// lost on its way.
fn one_reservation(answers: &[Answer]) -> anyhow::Result<String> {
    let shown = |answer: &Answer| (answer.text.clone(), answer.header("location").map(str::to_owned));
    ensure!(answers.iter().all(|answer| shown(answer) == shown(&answers[0])), "{answers:#?}");
    let firsts = answers.iter().filter(|answer| answer.header("idempotent-replayed").is_none());
    ensure!(firsts.count() <= 1, "{answers:#?}");
    Ok(answers[0].json()?["id"].as_str().context("id")?.to_owned())
}

/// These reservations and no other: in the service, and in the log, where each was placed once and has an
/// outcome.
async fn exactly(fleet: &Fleet, movie: Uuid, ids: &HashSet<String>) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = fleet.api.all("/reservations").await?;
    ensure!(rows.len() == KEYS, "{} reservations", rows.len());
    ensure!(rows.iter().map(|row| text(&row["id"])).collect::<HashSet<_>>() == *ids);
    let cancelled = HashMap::from([("OUT_OF_STOCK".to_owned(), KEYS - TICKETS)]);
    let outcomes = checks::outcomes(&fleet.api, movie).await?;
    ensure!(outcomes == Outcomes { confirmed: TICKETS, cancelled, pending: 0 }, "{outcomes:?}");

    let log = log::read(&fleet.stage.bootstrap, &format!("{}reservations", fleet.stage.prefix)).await?;
    // Delivery is at least once: an event's repeats have its identity.
    let (mut placed, mut ended) = (HashSet::new(), HashSet::new());
    for entry in &log {
        let event = (text(&entry.json()["reservationId"]), entry.header("ce_id").context("ce_id")?);
        match entry.event_type().as_str() {
            "ReservationPlaced" => placed.insert(event),
            _ => ended.insert(event),
        };
    }
    for (what, events) in [("placed", placed), ("ended", ended)] {
        ensure!(events.len() == KEYS, "{} {what}", events.len());
        ensure!(events.into_iter().map(|(id, _)| id).collect::<HashSet<_>>() == *ids, "others are {what}");
    }
    Ok(())
}
