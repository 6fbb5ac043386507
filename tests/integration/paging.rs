//! Pagination: clients read each collection page by page while rows are inserted.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use theater_tests::theater::TheaterConfig;
use theater_tests::{Api, Environment, Setup, Theater};
use uuid::Uuid;

use crate::calls::Call;

/// Rows of each collection before any client reads.
const OLD_ROWS: i32 = 10_000;

/// Rows that are inserted during one scan.
const NEW_ROWS: i32 = 1_000;

/// One scan through a collection.
struct Scan {
    service: &'static str,
    path: &'static str,
    limit: usize,
    next_page: NextPage,
    /// Selects the same rows in the same order from the database.
    expected: &'static str,
}

/// How the client requests the next page.
#[derive(Clone, Copy, Debug)]
enum NextPage {
    Cursor,
    Link,
}

/// Half of the rows belong to the user `ann & bob+1`, whose id must be escaped in a link.
#[rustfmt::skip]
const SCANS: [Scan; 14] = [
    scan("movie", "/movies", 199, "select id from movie order by seq desc"),
    scan("movie", "/movies?sort=name", 200, "select id from movie join movie_text using (seq) order by movie_text.name, seq"),
    scan("movie", "/movies?sort=qty&minQty=0", 200, "select id from movie order by qty desc, seq desc"),
    scan("movie", "/movies?minQty=50", 150, "select id from movie where qty >= 50 order by seq desc"),
    scan("movie", "/movies?q=tale%20C%C3%94MMON", 200, "select id from movie where name like '%common' order by seq desc"),
    scan("movie", "/movies?q=comon&sort=relevance", 200, "select id from movie join movie_text using (seq) where movie.name like '%common' order by (1000000 * (strict_word_similarity('comon', movie_text.name) + similarity('comon', movie_text.name)))::bigint desc, seq desc"),
    scan("reservation", "/reservations", 200, "select id from reservation order by seq desc"),
    scan("reservation", "/reservations?userId=ann%20%26%20bob%2B1", 99, "select id from reservation where user_id <> '7' order by seq desc"),
    scan("notification", "/notifications", 200, "select reservation_id from notification order by seq desc"),
    scan("notification", "/notifications?userId=ann%20%26%20bob%2B1", 200, "select reservation_id from notification where user_id <> '7' order by seq desc"),
    scan("reservation-list", "/reservationLists", 200, "select id from reservation where status = 'CONFIRMED' order by seq desc"),
    scan("reservation-list", "/reservationLists?status=all", 197, "select id from reservation order by seq desc"),
    scan("reservation-list", "/reservationLists?userId=ann%20%26%20bob%2B1", 200, "select id from reservation where status = 'CONFIRMED' and user_id <> '7' order by seq desc"),
    scan("reservation-list", "/reservationLists?userId=7&status=all", 200, "select id from reservation where user_id = '7' order by seq desc"),
];

const fn scan(service: &'static str, path: &'static str, limit: usize, expected: &'static str) -> Scan {
    // Some scans by cursor, some by link.
    let next_page = if limit == 200 { NextPage::Cursor } else { NextPage::Link };
    Scan { service, path, limit, next_page, expected }
}

/// The statement that inserts `$1` rows into a service's database.
fn insert(service: &str) -> &'static str {
    match service {
        "movie" => {
            "with made as (
                 insert into movie (id, name, description, published_name, published_description, published,
                                    added, allocated, qty, version, edition)
                 select gen_random_uuid(), 'A Tale of ' || md5(random()::text) || case n % 3 when 0 then ' common' else '' end, '', '', '',
                        n % 100, 0, 0, n % 100, 1, 1
                 from generate_series(1, $1) as n
                 returning seq, name
             )
             insert into movie_text select seq, 1, lower(name), to_tsvector('simple', name) from made"
        }
        "reservation" => {
            "insert into reservation (id, user_id, user_name, movie_id, count, date, date_given, status,
                                      placed_at, deadline)
             select gen_random_uuid(), case n % 2 when 0 then 'ann & bob+1' else '7' end, 'x',
                    gen_random_uuid(), 1, '2026-12-24', true, 'CONFIRMED', now(), now()
             from generate_series(1, $1) as n"
        }
        "notification" => {
            "insert into notification (id, reservation_id, outcome, user_id, user_name, movie_id, count, message)
             select gen_random_uuid(), gen_random_uuid(), 'CONFIRMED',
                    case n % 2 when 0 then 'ann & bob+1' else '7' end, 'x', gen_random_uuid(), 1, 'x'
             from generate_series(1, $1) as n"
        }
        _ => {
            "insert into reservation (id, status, user_id, movie_id, count, date)
             select gen_random_uuid(), case n % 3 when 0 then 'CANCELLED' else 'CONFIRMED' end,
                    case n % 2 when 0 then 'ann & bob+1' else '7' end, gen_random_uuid(), 1, '2026-12-24'
             from generate_series(1, $1) as n"
        }
    }
}

pub(crate) async fn no_row_is_missed_or_repeated_while_rows_arrive(
    environment: &Environment,
) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    for service in ["movie", "reservation", "notification", "reservation-list"] {
        let mut database = PgConnection::connect(theater.config.database_url(service)).await?;
        sqlx::query(insert(service)).bind(OLD_ROWS).execute(&mut database).await?;
        sqlx::raw_sql("analyze").execute(&mut database).await?;
    }
    try_join_all(SCANS.iter().map(async |scan| {
        let what = || format!("{} by {} and {:?}", scan.path, scan.limit, scan.next_page);
        scan.check(&theater.api, &theater.config).await.with_context(what)
    }))
    .await?;
    theater.stop().await
}

impl Scan {
    async fn check(&self, api: &Api, config: &TheaterConfig) -> anyhow::Result<()> {
        let old = self.expected_rows(config).await?;
        ensure!(old.len() >= OLD_ROWS as usize / 3, "only {} rows", old.len());
        let received = self.read_pages(api, Inserts::begin(config, self.service).await?, old.len()).await?;
        // Old and new rows come in strict order, so none comes twice.
        let positions: HashMap<_, _> = self.expected_rows(config).await?.into_iter().zip(0..).collect();
        let order = received.iter().map(|id| positions.get(id).copied().context("a row that isn't there"));
        let order: Vec<i32> = order.collect::<Result<_, _>>()?;
        ensure!(order.is_sorted_by(|a, b| a < b), "rows came twice, or not in order");
        let received: HashSet<_> = received.into_iter().collect();
        let missed = old.iter().filter(|id| !received.contains(id)).count();
        ensure!(missed == 0, "{missed} of {} old rows were missed", old.len());
        Ok(())
    }

    async fn expected_rows(&self, config: &TheaterConfig) -> anyhow::Result<Vec<Uuid>> {
        let mut database = PgConnection::connect(config.database_url(self.service)).await?;
        Ok(sqlx::query_scalar(AssertSqlSafe(self.expected)).fetch_all(&mut database).await?)
    }

    /// Reads all rows as a client does, while rows are inserted.
    async fn read_pages(&self, api: &Api, mut inserts: Inserts, rows: usize) -> anyhow::Result<Vec<Uuid>> {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        let first = format!("{}{separator}limit={}", self.path, self.limit);
        let pauses = rows.div_ceil(self.limit) - 1;
        let rows_per_pause = NEW_ROWS / i32::try_from(pauses)? + 1;
        let (mut target, mut received) = (first.clone(), Vec::new());
        loop {
            let answer = Call::get(&target, 200).expect_header("cache-control", "no-store").play(api).await?;
            let page = answer.json()?;
            ensure!(page.as_object().is_some_and(|page| page.len() == 2), "{page}");
            let items = page["items"].as_array().context("items")?;
            for item in items {
                let id = item.get("reserveId").unwrap_or(&item["id"]);
                received.push(id.as_str().context("no id")?.parse()?);
            }
            let link = answer.header("link");
            let Value::String(next) = &page["next"] else {
                ensure!(page["next"].is_null() && link.is_none(), "{} and {link:?}", page["next"]);
                ensure!(items.len() <= self.limit, "{} rows", items.len());
                return inserts.end().await.map(|()| received);
            };
            ensure!(items.len() == self.limit, "{} rows, and more after them", items.len());
            let safe = next.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
            ensure!(safe, "the cursor {next} must be escaped");
            target = match self.next_page {
                NextPage::Cursor => format!("{first}&cursor={next}"),
                NextPage::Link => link_target(link.context("no link")?)?,
            };
            inserts.insert(rows_per_pause).await?;
        }
    }
}

/// The target of `<…>; rel="next"`.
fn link_target(link: &str) -> anyhow::Result<String> {
    let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Ok(target.with_context(|| link.to_owned())?.to_owned())
}

/// Inserts rows while a client reads. Of two transactions, the one that begins first commits last, and the client reads a
/// page in between.
struct Inserts {
    statement: &'static str,
    early: PgConnection,
    late: PgConnection,
    open: bool,
    count: i32,
}

impl Inserts {
    async fn begin(config: &TheaterConfig, service: &str) -> anyhow::Result<Self> {
        let url = config.database_url(service);
        let (early, late) = (PgConnection::connect(url).await?, PgConnection::connect(url).await?);
        Ok(Self { statement: insert(service), early, late, open: false, count: 0 })
    }

    async fn insert(&mut self, rows: i32) -> anyhow::Result<()> {
        self.count += rows;
        if self.open {
            sqlx::query(self.statement).bind(rows).execute(&mut self.early).await?;
            return self.commit().await;
        }
        sqlx::raw_sql("begin").execute(&mut self.late).await?;
        sqlx::query(self.statement).bind(rows).execute(&mut self.late).await?;
        self.open = true;
        Ok(())
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        sqlx::raw_sql("commit").execute(&mut self.late).await?;
        self.open = false;
        Ok(())
    }

    async fn end(mut self) -> anyhow::Result<()> {
        if self.open {
            self.commit().await?;
        }
        ensure!(self.count >= NEW_ROWS, "only {} rows were inserted", self.count);
        Ok(())
    }
}
