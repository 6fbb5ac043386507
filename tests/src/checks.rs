//! What must hold of any theater at rest, asked of its databases, its calls and its log.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::log::{self, Entry};
use crate::theater::Stage;
use crate::{Api, eventually};

/// How many reservations ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub confirmed: usize,
    pub cancelled: HashMap<String, usize>,
    pub pending: usize,
}

/// How a movie's reservations stand.
///
/// # Errors
/// The calls'.
pub async fn outcomes(api: &Api, movie: Uuid) -> anyhow::Result<Outcomes> {
    let mut outcomes = Outcomes::default();
    let movie = movie.to_string();
    for reservation in api.all("/reservations").await? {
        if reservation["movieId"].as_str() != Some(&movie) {
            continue;
        }
        match reservation["reserveStatus"].as_str() {
            Some("CONFIRMED") => outcomes.confirmed += 1,
            Some("PENDING") => outcomes.pending += 1,
            _ => {
                let reason = reservation["cancelReason"].as_str().context("cancelReason")?;
                *outcomes.cancelled.entry(reason.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(outcomes)
}

/// Waits until nothing is on its way: no reservation undecided, no outbox filled, every consumer at the
/// end of its log.
///
/// # Errors
/// What was still on its way when the time was over.
pub async fn at_rest(stage: &Stage, limit: Duration) -> anyhow::Result<()> {
    eventually("the theater is at rest", limit, async || {
        let pending =
            count(&stage.reservation_url, "select count(*) from reservation where status = 'PENDING'");
        ensure!(pending.await? == 0, "reservations are undecided");
        for service in ["reservation", "movie", "notification", "reservation-list"] {
            let waiting = count(stage.database_url(service), "select count(*) from outbox").await?;
            ensure!(waiting == 0, "{service}'s outbox holds {waiting}");
        }
        // After the outboxes: what they held is in the log by now.
        let reservations = ends(&stage.bootstrap, &format!("{}reservations", stage.prefix)).await?;
        let movies = ends(&stage.bootstrap, &format!("{}movies", stage.prefix)).await?;
        for service in ["movie", "notification", "reservation-list"] {
            caught_up(stage, service, &reservations).await?;
        }
        caught_up(stage, "reservation", &movies).await?;
        // And nothing came of what they read: no event, no dead letter.
        for service in ["reservation", "movie", "notification", "reservation-list"] {
            let waiting = count(stage.database_url(service), "select count(*) from outbox").await?;
            ensure!(waiting == 0, "{service}'s outbox holds {waiting}");
        }
        Ok(())
    })
    .await
}

async fn caught_up(stage: &Stage, service: &str, ends: &HashMap<i32, i64>) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(stage.database_url(service)).await?;
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("select partition, next from consumer_offset").fetch_all(&mut connection).await?;
    let next: HashMap<_, _> = rows.into_iter().collect();
    for (partition, end) in ends {
        let at = next.get(partition).copied().unwrap_or(0);
        ensure!(at >= *end, "{service} is at {at} of {end} in partition {partition}");
    }
    Ok(())
}

async fn ends(bootstrap: &str, topic: &str) -> anyhow::Result<HashMap<i32, i64>> {
    let mut ends = HashMap::new();
    for entry in log::read(bootstrap, topic).await? {
        let end = ends.entry(entry.partition).or_insert(0);
        *end = (entry.offset + 1).max(*end);
    }
    Ok(ends)
}

/// # Errors
/// The database's.
pub async fn count(url: &str, sql: &'static str) -> anyhow::Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
}

/// Checks the invariants of a theater at rest.
///
/// # Errors
/// The first that does not hold.
pub async fn invariants(stage: &Stage, api: &Api) -> anyhow::Result<()> {
    ledger(stage).await?;
    let reservations = api.all("/reservations").await?;
    listed(api, &reservations).await?;
    notified(api, &reservations).await?;
    let log = log::read(&stage.bootstrap, &format!("{}movies", stage.prefix)).await?;
    for movie in api.all("/movies").await? {
        let id = movie["id"].as_str().context("id")?;
        chain(&log, id, movie["qty"].as_i64().context("qty")?)?;
    }
    Ok(())
}

/// Published + added = left + allocated, and what is allocated is what confirmed reservations hold.
async fn ledger(stage: &Stage) -> anyhow::Result<()> {
    let wrong = count(
        &stage.movie_url,
        "select count(*) from movie
         where published + added <> qty + allocated or qty < 0
            or allocated <> (select coalesce(sum(count), 0) from decision
                             where movie_id = movie.id and outcome = 'ALLOCATED')",
    )
    .await?;
    ensure!(wrong == 0, "{wrong} movies' ledgers are wrong");
    let allocated = count(&stage.movie_url, "select coalesce(sum(allocated), 0)::bigint from movie").await?;
    let confirmed = count(
        &stage.reservation_url,
        "select coalesce(sum(count), 0)::bigint from reservation where status = 'CONFIRMED'",
    )
    .await?;
    ensure!(allocated == confirmed, "{allocated} tickets are allocated, {confirmed} confirmed");
    Ok(())
}

/// The list equals the reservations' own truth.
async fn listed(api: &Api, reservations: &[Value]) -> anyhow::Result<()> {
    let mut truth = ids(reservations.iter().filter(|row| row["reserveStatus"] == "CONFIRMED"), "id");
    let mut listed = ids(api.all("/reservationLists").await?.iter(), "reserveId");
    truth.sort();
    listed.sort();
    ensure!(truth == listed, "{} are confirmed, {} listed", truth.len(), listed.len());
    let mut all = ids(api.all("/reservationLists?status=all").await?.iter(), "reserveId");
    let mut ended = ids(reservations.iter().filter(|row| row["reserveStatus"] != "PENDING"), "id");
    all.sort();
    ended.sort();
    ensure!(all == ended, "{} have ended, {} are in the list of all", ended.len(), all.len());
    Ok(())
}

/// Every outcome was notified once: a reservation's present status is among its notifications, and none
/// stands there twice.
async fn notified(api: &Api, reservations: &[Value]) -> anyhow::Result<()> {
    let mut notified: HashMap<(String, String), usize> = HashMap::new();
    for row in api.all("/notifications").await? {
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        *notified.entry((text("reserveId"), text("reserveStatus"))).or_default() += 1;
    }
    for ((id, status), times) in &notified {
        ensure!(*times == 1, "{id} was notified {times} times of {status}");
    }
    for row in reservations.iter().filter(|row| row["reserveStatus"] != "PENDING") {
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        let key = (text("id"), text("reserveStatus"));
        ensure!(notified.contains_key(&key), "{} was never notified of {}", key.0, key.1);
    }
    Ok(())
}

fn ids<'a>(rows: impl Iterator<Item = &'a Value>, field: &str) -> Vec<String> {
    rows.filter_map(|row| row[field].as_str().map(str::to_owned)).collect()
}

/// A movie's versions and quantities follow one another without a gap, from its publication to `left`,
/// repeats left out.
///
/// # Errors
/// Where the chain is broken.
pub fn chain(log: &[Entry], movie: &str, left: i64) -> anyhow::Result<()> {
    let mut chain: Vec<(i64, i64, i64)> = Vec::new();
    for entry in log {
        // The key of every event, and compared much faster than the value is read.
        if entry.key.as_deref() != Some(movie.as_bytes()) {
            continue;
        }
        let event = entry.json();
        if event["movieId"].as_str() != Some(movie) || event["eventType"] == "AllocationRejected" {
            continue;
        }
        let number = |field: &str| event[field].as_i64();
        let count = number("count").unwrap_or(0);
        let change = match event["eventType"].as_str().unwrap_or_default() {
            "MoviePublished" => number("qty").context("qty")?,
            "TicketsAdded" | "TicketsReleased" => count,
            "TicketsAllocated" => -count,
            _ => 0,
        };
        chain.push((number("version").context("version")?, change, number("qty").context("qty")?));
    }
    chain.dedup();
    // A repeat may come after newer ones: it equals what stands at its version.
    let mut first = Vec::new();
    for link in chain {
        if !first.contains(&link) {
            first.push(link);
        }
    }
    let mut qty = 0;
    for (index, (version, change, after)) in first.iter().enumerate() {
        ensure!(*version == i64::try_from(index)? + 1, "{movie}: version {version} at place {}", index + 1);
        ensure!(qty + change == *after, "{movie}: {qty} and {change} make {after} at version {version}");
        qty = *after;
    }
    ensure!(!first.is_empty() && qty == left, "{movie}: the log ends with {qty}, {left} are left");
    Ok(())
}
