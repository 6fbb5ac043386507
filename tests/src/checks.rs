//! The invariant checks of a theater at rest: they query its databases, its API and its topics.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::log::{self, Entry};
use crate::theater::TheaterConfig;
use crate::{Api, eventually};

/// Numbers of reservations by their status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub confirmed: usize,
    pub cancelled: HashMap<String, usize>,
    pub pending: usize,
}

/// Counts a movie's reservations by their status.
///
/// # Errors
/// If a call fails.
pub async fn outcomes(api: &Api, movie: Uuid) -> anyhow::Result<Outcomes> {
    let mut outcomes = Outcomes::default();
    let movie = movie.to_string();
    for reservation in api.list_all("/reservations").await? {
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

/// Waits until the theater is at rest: no reservation is pending, all outboxes are empty, every consumer is at the end
/// of its topic.
///
/// # Errors
/// If that doesn't happen within the limit.
pub async fn wait_until_at_rest(config: &TheaterConfig, limit: Duration) -> anyhow::Result<()> {
    eventually("the theater is at rest", limit, async || {
        let pending =
            count_rows(&config.reservation_url, "select count(*) from reservation where status = 'PENDING'");
        ensure!(pending.await? == 0, "reservations are undecided");
        for service in ["reservation", "movie", "notification", "reservation-list"] {
            let waiting = count_rows(config.database_url(service), "select count(*) from outbox").await?;
            ensure!(waiting == 0, "{service}'s outbox holds {waiting}");
        }
        // After the outboxes: their rows are in the log by now.
        let reservations = end_offsets(&config.bootstrap, &format!("{}reservations", config.prefix)).await?;
        let movies = end_offsets(&config.bootstrap, &format!("{}movies", config.prefix)).await?;
        for service in ["movie", "notification", "reservation-list"] {
            ensure_caught_up(config, service, &reservations).await?;
        }
        ensure_caught_up(config, "reservation", &movies).await?;
        // And the records that they read have led to no event or dead letter.
        for service in ["reservation", "movie", "notification", "reservation-list"] {
            let waiting = count_rows(config.database_url(service), "select count(*) from outbox").await?;
            ensure!(waiting == 0, "{service}'s outbox holds {waiting}");
        }
        Ok(())
    })
    .await
}

async fn ensure_caught_up(
    config: &TheaterConfig,
    service: &str,
    ends: &HashMap<i32, i64>,
) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(config.database_url(service)).await?;
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("select partition, next from consumer_offset").fetch_all(&mut connection).await?;
    let positions: HashMap<_, _> = rows.into_iter().collect();
    for (partition, end) in ends {
        let position = positions.get(partition).copied().unwrap_or(0);
        ensure!(position >= *end, "{service} is at {position} of {end} in partition {partition}");
    }
    Ok(())
}

async fn end_offsets(bootstrap: &str, topic: &str) -> anyhow::Result<HashMap<i32, i64>> {
    let mut ends = HashMap::new();
    for entry in log::read(bootstrap, topic).await? {
        let end = ends.entry(entry.partition).or_insert(0);
        *end = (entry.offset + 1).max(*end);
    }
    Ok(ends)
}

/// # Errors
/// If the database fails.
pub async fn count_rows(url: &str, sql: &'static str) -> anyhow::Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
}

/// Checks all invariants of a theater at rest.
///
/// # Errors
/// If one is violated.
pub async fn invariants(config: &TheaterConfig, api: &Api) -> anyhow::Result<()> {
    ticket_ledger(config).await?;
    let reservations = api.list_all("/reservations").await?;
    reservation_list(api, &reservations).await?;
    notifications(api, &reservations).await?;
    let log = log::read(&config.bootstrap, &format!("{}movies", config.prefix)).await?;
    for movie in api.list_all("/movies").await? {
        let id = movie["id"].as_str().context("id")?;
        version_chain(&log, id, movie["qty"].as_i64().context("qty")?)?;
    }
    Ok(())
}

/// Published + added = left + allocated, and the allocated tickets are those of the confirmed reservations.
async fn ticket_ledger(config: &TheaterConfig) -> anyhow::Result<()> {
    let wrong = count_rows(
        &config.movie_url,
        "select count(*) from movie
         where published + added <> qty + allocated or qty < 0
            or allocated <> (select coalesce(sum(count), 0) from decision
                             where movie_id = movie.id and outcome = 'ALLOCATED')",
    )
    .await?;
    ensure!(wrong == 0, "{wrong} movies' ledgers are wrong");
    let allocated =
        count_rows(&config.movie_url, "select coalesce(sum(allocated), 0)::bigint from movie").await?;
    let confirmed = count_rows(
        &config.reservation_url,
        "select coalesce(sum(count), 0)::bigint from reservation where status = 'CONFIRMED'",
    )
    .await?;
    ensure!(allocated == confirmed, "{allocated} tickets are allocated, {confirmed} confirmed");
    Ok(())
}

/// The reservation list agrees with the reservations.
async fn reservation_list(api: &Api, reservations: &[Value]) -> anyhow::Result<()> {
    let mut confirmed = ids(reservations.iter().filter(|row| row["reserveStatus"] == "CONFIRMED"), "id");
    let mut listed = ids(api.list_all("/reservationLists").await?.iter(), "reserveId");
    confirmed.sort();
    listed.sort();
    ensure!(confirmed == listed, "{} are confirmed, {} listed", confirmed.len(), listed.len());
    let mut all = ids(api.list_all("/reservationLists?status=all").await?.iter(), "reserveId");
    let mut ended = ids(reservations.iter().filter(|row| row["reserveStatus"] != "PENDING"), "id");
    all.sort();
    ended.sort();
    ensure!(all == ended, "{} have ended, {} are in the list of all", ended.len(), all.len());
    Ok(())
}

/// Every outcome was notified once: a reservation's current status is among its notifications, and none of them exists
/// twice.
async fn notifications(api: &Api, reservations: &[Value]) -> anyhow::Result<()> {
    let mut notified: HashMap<(String, String), usize> = HashMap::new();
    for row in api.list_all("/notifications").await? {
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

/// Checks that a movie's versions and quantities form an unbroken chain from its publication to `left`, without
/// redeliveries.
///
/// # Errors
/// If the chain is broken.
pub fn version_chain(log: &[Entry], movie: &str, left: i64) -> anyhow::Result<()> {
    let mut chain: Vec<(i64, i64, i64)> = Vec::new();
    for entry in log {
        // The key of every event. Comparing it is much faster than parsing the value.
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
    // A redelivery may follow newer events. It equals the first delivery of its version.
    let mut distinct = Vec::new();
    for link in chain {
        if !distinct.contains(&link) {
            distinct.push(link);
        }
    }
    let mut qty = 0;
    for (index, (version, change, after)) in distinct.iter().enumerate() {
        ensure!(*version == i64::try_from(index)? + 1, "{movie}: version {version} at place {}", index + 1);
        ensure!(qty + change == *after, "{movie}: {qty} and {change} make {after} at version {version}");
        qty = *after;
    }
    ensure!(!distinct.is_empty() && qty == left, "{movie}: the log ends with {qty}, {left} are left");
    Ok(())
}
