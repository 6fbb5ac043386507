//! All that a theater knows, says and counts, to be compared.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use reqwest::{Method, StatusCode};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use theater_tests::theater::Stage;
use theater_tests::{Api, Theater};

pub(crate) const SERVICES: [&str; 4] = ["reservation", "movie", "notification", "reservation-list"];

/// What is to stay as it is: rows by table, answers by path.
pub(crate) type Seen = BTreeMap<String, Vec<String>>;

/// Every row and every answer.
pub(crate) async fn everything(theater: &Theater) -> anyhow::Result<Seen> {
    let mut seen = rows(&theater.stage).await?;
    let mut paths: Vec<String> =
        ["/movies", "/reservations", "/notifications", "/reservationLists?status=all"]
            .map(str::to_owned)
            .to_vec();
    for path in ["/movies", "/reservations"] {
        for item in theater.api.all(path).await? {
            paths.push(format!("{path}/{}", item["id"].as_str().context("id")?));
        }
    }
    paths.push("/reservationLists".to_owned());
    for path in paths {
        let answer = theater.api.get(&path).await?;
        ensure!(answer.status == StatusCode::OK, "{path}: {answer:?}");
        let etag = answer.header("etag").unwrap_or_default().to_owned();
        seen.insert(path, vec![etag, answer.text]);
    }
    Ok(seen)
}

/// Every row of every table that holds what happened; not where a consumer stands.
pub(crate) async fn rows(stage: &Stage) -> anyhow::Result<Seen> {
    let mut seen = Seen::new();
    for service in SERVICES {
        let mut connection = PgConnection::connect(stage.database_url(service)).await?;
        let tables: Vec<String> = sqlx::query_scalar(
            "select tablename::text from pg_tables
             where schemaname = 'public' and tablename not in ('outbox', 'consumer_offset')
               and tablename not like '%migrations'",
        )
        .fetch_all(&mut connection)
        .await?;
        for table in tables {
            let rows = format!("select row_of::text from {table} row_of order by 1");
            let rows = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(&mut connection).await?;
            seen.insert(format!("{service}: {table}"), rows);
        }
    }
    ensure!(seen.len() == 13, "tables: {:?}", seen.keys());
    Ok(seen)
}

/// Tells what differs, by table or path.
pub(crate) fn same(before: &Seen, after: &Seen) -> anyhow::Result<()> {
    for (place, was) in before {
        let is = after.get(place).with_context(|| format!("{place} is gone"))?;
        ensure!(was == is, "{place} changed from {was:#?} to {is:#?}");
    }
    ensure!(before.len() == after.len(), "{:?} became {:?}", before.keys(), after.keys());
    Ok(())
}

/// The sum of a service's metric over the labels that contain `labels`; 0 if there is none yet.
pub(crate) async fn metric(port: u16, name: &str, labels: &str) -> anyhow::Result<f64> {
    let api = Api::new(format!("http://127.0.0.1:{port}"))?;
    let answer = Api::send(api.request(Method::GET, "/metrics")).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    let mut sum = 0.0;
    for line in answer.text.lines() {
        let Some(rest) = line.strip_prefix(name) else { continue };
        if rest.starts_with(['{', ' ']) && rest.contains(labels) {
            let (_, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            sum += value.parse::<f64>().with_context(|| line.to_owned())?;
        }
    }
    Ok(sum)
}
