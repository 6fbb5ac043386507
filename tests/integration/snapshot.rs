//! Snapshots of a theater's rows and HTTP responses, to be compared; and single metrics.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use reqwest::{Method, StatusCode};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use theater_tests::theater::TheaterConfig;
use theater_tests::{Api, Theater};

pub(crate) const SERVICES: [&str; 4] = ["reservation", "movie", "notification", "reservation-list"];

/// Rows by table, and responses by path.
pub(crate) type Snapshot = BTreeMap<String, Vec<String>>;

/// All rows and all responses.
pub(crate) async fn take(theater: &Theater) -> anyhow::Result<Snapshot> {
    let mut snapshot = rows(&theater.config).await?;
    let mut paths: Vec<String> =
        ["/movies", "/reservations", "/notifications", "/reservationLists?status=all"]
            .map(str::to_owned)
            .to_vec();
    for path in ["/movies", "/reservations"] {
        for item in theater.api.list_all(path).await? {
            paths.push(format!("{path}/{}", item["id"].as_str().context("id")?));
        }
    }
    paths.push("/reservationLists".to_owned());
    for path in paths {
        let answer = theater.api.get(&path).await?;
        ensure!(answer.status == StatusCode::OK, "{path}: {answer:?}");
        let etag = answer.header("etag").unwrap_or_default().to_owned();
        snapshot.insert(path, vec![etag, answer.text]);
    }
    Ok(snapshot)
}

/// The rows of all tables, except those that deliveries and restarts change: outbox, consumer offsets and migrations.
pub(crate) async fn rows(config: &TheaterConfig) -> anyhow::Result<Snapshot> {
    let mut snapshot = Snapshot::new();
    for service in SERVICES {
        let mut connection = PgConnection::connect(config.database_url(service)).await?;
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
            snapshot.insert(format!("{service}: {table}"), rows);
        }
    }
    ensure!(snapshot.len() == 13, "tables: {:?}", snapshot.keys());
    Ok(snapshot)
}

/// Fails with the first table or path that differs.
pub(crate) fn expect_unchanged(before: &Snapshot, after: &Snapshot) -> anyhow::Result<()> {
    for (source, was) in before {
        let is = after.get(source).with_context(|| format!("{source} is missing"))?;
        ensure!(was == is, "{source} changed from {was:#?} to {is:#?}");
    }
    ensure!(before.len() == after.len(), "{:?} became {:?}", before.keys(), after.keys());
    Ok(())
}

/// The sum of a metric of the service at this port, over the series whose labels contain `labels`. 0 without any.
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
