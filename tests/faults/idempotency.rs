//! 200 customers each send one call five times at once, under an idempotency key of their own, and repeat it whenever it
//! is not answered. Meanwhile the replicas of reservation and the gateway are killed or terminated, and started again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use theater_tests::api::Answer;
use theater_tests::checks::{self, Outcomes};
use theater_tests::fleet::Fleet;
use theater_tests::theater::TheaterConfig;
use theater_tests::{Api, Environment, Setup, eventually, log};
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

const KEYS: usize = 200;
const REPEATS: usize = 5;
const TICKETS: usize = 150;

/// How long one call is repeated.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
const REST: Duration = Duration::from_secs(120);

/// The signal that ends a process in the middle of calls.
#[derive(Clone, Copy, Debug)]
enum Signal {
    Kill,
    Terminate,
}

/// The results of all attempts so far.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    answered: usize,
    /// Cut connections and 5xx.
    failed: usize,
}

pub(crate) async fn a_key_has_one_effect_despite_crashes(environment: &Environment) -> anyhow::Result<()> {
    let setup = Setup { deadline_secs: 300, ..Setup::default() };
    let config = TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    let mut fleet = Fleet::start(env!("CARGO_BIN_EXE_theater-tests"), config, 2).await?;
    let movie = fleet.api.publish(i64::try_from(TICKETS)?).await?;
    let (one, other) = (fleet.members_of("reservation")[0], fleet.members_of("reservation")[1]);
    let gateway = fleet.members_of("gateway")[0];
    let signals = [
        (one, Signal::Kill),
        (other, Signal::Terminate),
        (gateway, Signal::Kill),
        (other, Signal::Kill),
        (gateway, Signal::Terminate),
        (one, Signal::Terminate),
        (other, Signal::Kill),
        (one, Signal::Kill),
    ];

    let (released, attempts) = (Semaphore::new(0), watch::Sender::new(Attempts::default()));
    let api = fleet.api.clone();
    let customers = try_join_all((0..KEYS).map(async |customer| {
        released.acquire().await?.forget();
        try_join_all((0..REPEATS).map(|_| place(&api, movie, customer, &attempts))).await
    }));
    let faults = async {
        for (index, signal) in signals {
            let before = attempts.borrow().answered;
            released.add_permits(KEYS / signals.len());
            // In the middle of these calls: one is answered, the others are not yet.
            attempts.subscribe().wait_for(|attempts| attempts.answered > before).await?;
            restart(&mut fleet, index, signal).await?;
        }
        anyhow::Ok(())
    };
    let (customers, ()) = tokio::try_join!(customers, faults)?;
    let mut ids = HashSet::new();
    for answers in customers {
        ensure!(ids.insert(one_reservation(&answers)?), "two keys have one reservation");
    }
    let attempts = *attempts.borrow();
    println!("  {} answers, {} failed attempts", attempts.answered, attempts.failed);
    ensure!(attempts.answered == KEYS * REPEATS && attempts.failed > 0, "no call met a fault: {attempts:?}");
    checks::wait_until_at_rest(&fleet.config, REST).await?;
    only_these_reservations(&fleet, movie, &ids).await?;
    checks::invariants(&fleet.config, &fleet.api).await?;
    fleet.stop().await
}

async fn restart(fleet: &mut Fleet, index: usize, signal: Signal) -> anyhow::Result<()> {
    match signal {
        Signal::Kill => fleet.kill(index).await,
        Signal::Terminate => {
            let status = fleet.terminate(index).await?;
            ensure!(status.success(), "{} ended with {status}", fleet.members[index].service);
        }
    }
    fleet.spawn(index)?;
    fleet.wait_until_ready(index).await
}

/// Repeats the call until it is accepted.
async fn place(
    api: &Api,
    movie: Uuid,
    customer: usize,
    attempts: &watch::Sender<Attempts>,
) -> anyhow::Result<Answer> {
    let body = json!({"userId": customer, "userName": "Jane", "movieId": movie, "count": 1});
    let answer = eventually("the call is answered", CALL_TIMEOUT, async || {
        let request = api.request(reqwest::Method::POST, "/reservations").json(&body);
        let answer = Api::send(request.header("idempotency-key", format!("order {customer}"))).await;
        let result = answer.and_then(|answer| {
            ensure!(!answer.status.is_server_error(), "{answer:?}");
            Ok(answer)
        });
        attempts.send_modify(|attempts| {
            *if result.is_ok() { &mut attempts.answered } else { &mut attempts.failed } += 1
        });
        result
    })
    .await?;
    ensure!(answer.status == 202, "{answer:?}");
    Ok(answer)
}

/// All responses to one key are equal byte for byte. At most one of them is the original: the connection that carried it
/// may have been cut.
fn one_reservation(answers: &[Answer]) -> anyhow::Result<String> {
    let content = |answer: &Answer| (answer.text.clone(), answer.header("location").map(str::to_owned));
    ensure!(answers.iter().all(|answer| content(answer) == content(&answers[0])), "{answers:#?}");
    let originals = answers.iter().filter(|answer| answer.header("idempotent-replayed").is_none());
    ensure!(originals.count() <= 1, "{answers:#?}");
    Ok(answers[0].json()?["id"].as_str().context("id")?.to_owned())
}

/// The service and the log contain these reservations and no other. In the log each was placed once and has one outcome.
async fn only_these_reservations(fleet: &Fleet, movie: Uuid, ids: &HashSet<String>) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = fleet.api.list_all("/reservations").await?;
    ensure!(rows.len() == KEYS, "{} reservations", rows.len());
    ensure!(rows.iter().map(|row| text(&row["id"])).collect::<HashSet<_>>() == *ids);
    let cancelled = HashMap::from([("OUT_OF_STOCK".to_owned(), KEYS - TICKETS)]);
    let outcomes = checks::outcomes(&fleet.api, movie).await?;
    ensure!(outcomes == Outcomes { confirmed: TICKETS, cancelled, pending: 0 }, "{outcomes:?}");

    let log = log::read(&fleet.config.bootstrap, &format!("{}reservations", fleet.config.prefix)).await?;
    // Delivery is at least once: a repeated event has the same identity.
    let (mut placed, mut ended) = (HashSet::new(), HashSet::new());
    for entry in &log {
        let event = (text(&entry.json()["reservationId"]), entry.header("ce_id").context("ce_id")?);
        match entry.event_type().as_str() {
            "ReservationPlaced" => placed.insert(event),
            _ => ended.insert(event),
        };
    }
    for (kind, events) in [("placed", placed), ("ended", ended)] {
        ensure!(events.len() == KEYS, "{} {kind}", events.len());
        ensure!(events.into_iter().map(|(id, _)| id).collect::<HashSet<_>>() == *ids, "others are {kind}");
    }
    Ok(())
}
