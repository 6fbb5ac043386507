//! Collections, page by page, while they grow.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use theater_tests::theater::Stage;
use theater_tests::{Api, Environment, Setup, Theater};
use uuid::Uuid;

use crate::calls::Call;

/// Rows of each collection that are there before anyone walks.
const OLD: i32 = 10_000;

/// Rows that arrive during one walk.
const NEW: i32 = 1_000;

/// One way through a collection.
struct Walk {
    service: &'static str,
    path: &'static str,
    limit: usize,
    way: Way,
    /// The same rows in the same order, straight from the database.
    order: &'static str,
}

/// How the next page is asked for.
#[derive(Clone, Copy, Debug)]
enum Way {
    Cursor,
    Link,
}

/// A user's id that must be escaped in a link is `ann & bob+1`, who has half of the rows.
#[rustfmt::skip]
const WALKS: [Walk; 14] = [
    walk("movie", "/movies", 199, "select id from movie order by seq desc"),
    walk("movie", "/movies?sort=name", 200, "select id from movie join movie_text using (seq) order by movie_text.name, seq"),
    walk("movie", "/movies?sort=qty&minQty=0", 200, "select id from movie order by qty desc, seq desc"),
    walk("movie", "/movies?minQty=50", 150, "select id from movie where qty >= 50 order by seq desc"),
    walk("movie", "/movies?q=tale%20C%C3%94MMON", 200, "select id from movie where name like '%common' order by seq desc"),
    walk("movie", "/movies?q=comon&sort=relevance", 200, "select id from movie join movie_text using (seq) where movie.name like '%common' order by (1000000 * (strict_word_similarity('comon', movie_text.name) + similarity('comon', movie_text.name)))::bigint desc, seq desc"),
    walk("reservation", "/reservations", 200, "select id from reservation order by seq desc"),
    walk("reservation", "/reservations?userId=ann%20%26%20bob%2B1", 99, "select id from reservation where user_id <> '7' order by seq desc"),
    walk("notification", "/notifications", 200, "select reservation_id from notification order by seq desc"),
    walk("notification", "/notifications?userId=ann%20%26%20bob%2B1", 200, "select reservation_id from notification where user_id <> '7' order by seq desc"),
    walk("reservation-list", "/reservationLists", 200, "select id from reservation where status = 'CONFIRMED' order by seq desc"),
    walk("reservation-list", "/reservationLists?status=all", 197, "select id from reservation order by seq desc"),
    walk("reservation-list", "/reservationLists?userId=ann%20%26%20bob%2B1", 200, "select id from reservation where status = 'CONFIRMED' and user_id <> '7' order by seq desc"),
    walk("reservation-list", "/reservationLists?userId=7&status=all", 200, "select id from reservation where user_id = '7' order by seq desc"),
];

const fn walk(service: &'static str, path: &'static str, limit: usize, order: &'static str) -> Walk {
    // Both ways, each with every kind of page.
    let way = if limit == 200 { Way::Cursor } else { Way::Link };
    Walk { service, path, limit, way, order }
}

/// Adds `$1` rows to a service's database.
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

pub(crate) async fn no_old_row_is_missed_or_repeated_while_rows_arrive(
    environment: &Environment,
) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    for service in ["movie", "reservation", "notification", "reservation-list"] {
        let mut database = PgConnection::connect(theater.stage.database_url(service)).await?;
        sqlx::query(insert(service)).bind(OLD).execute(&mut database).await?;
        sqlx::raw_sql("analyze").execute(&mut database).await?;
    }
    try_join_all(WALKS.iter().map(async |walk| {
        let what = || format!("{} by {} and {:?}", walk.path, walk.limit, walk.way);
        walk.check(&theater.api, &theater.stage).await.with_context(what)
    }))
    .await?;
    theater.stop().await
}

impl Walk {
    async fn check(&self, api: &Api, stage: &Stage) -> anyhow::Result<()> {
        let old = self.rows(stage).await?;
        ensure!(old.len() >= OLD as usize / 3, "only {} rows", old.len());
        let seen = self.go(api, Arrivals::begin(stage, self.service).await?, old.len()).await?;
        // Strictly in order: nothing twice, old and new ones alike.
        let places: HashMap<_, _> = self.rows(stage).await?.into_iter().zip(0..).collect();
        let met = seen.iter().map(|id| places.get(id).copied().context("a row that isn't there"));
        let met: Vec<i32> = met.collect::<Result<_, _>>()?;
        ensure!(met.is_sorted_by(|a, b| a < b), "rows came twice, or not in order");
        let seen: HashSet<_> = seen.into_iter().collect();
        let missed = old.iter().filter(|id| !seen.contains(id)).count();
        ensure!(missed == 0, "{missed} of {} old rows were missed", old.len());
        Ok(())
    }

    async fn rows(&self, stage: &Stage) -> anyhow::Result<Vec<Uuid>> {
        let mut database = PgConnection::connect(stage.database_url(self.service)).await?;
        Ok(sqlx::query_scalar(AssertSqlSafe(self.order)).fetch_all(&mut database).await?)
    }

    /// All rows, as a client reads them.
    async fn go(&self, api: &Api, mut arrivals: Arrivals, rows: usize) -> anyhow::Result<Vec<Uuid>> {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        let first = format!("{}{separator}limit={}", self.path, self.limit);
        let pauses = rows.div_ceil(self.limit) - 1;
        let at_once = NEW / i32::try_from(pauses)? + 1;
        let (mut target, mut seen) = (first.clone(), Vec::new());
        loop {
            let answer = Call::get(&target, 200).header("cache-control", "no-store").play(api).await?;
            let page = answer.json()?;
            ensure!(page.as_object().is_some_and(|page| page.len() == 2), "{page}");
            let items = page["items"].as_array().context("items")?;
            for item in items {
                let id = item.get("reserveId").unwrap_or(&item["id"]);
                seen.push(id.as_str().context("no id")?.parse()?);
            }
            let link = answer.header("link");
            let Value::String(next) = &page["next"] else {
                ensure!(page["next"].is_null() && link.is_none(), "{} and {link:?}", page["next"]);
                ensure!(items.len() <= self.limit, "{} rows", items.len());
                return arrivals.end().await.map(|()| seen);
            };
            ensure!(items.len() == self.limit, "{} rows, and more after them", items.len());
            let safe = next.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
            ensure!(safe, "the cursor {next} must be escaped");
            target = match self.way {
                Way::Cursor => format!("{first}&cursor={next}"),
                Way::Link => linked(link.context("no link")?)?,
            };
            arrivals.come(at_once).await?;
        }
    }
}

/// The target of `<…>; rel="next"`.
fn linked(link: &str) -> anyhow::Result<String> {
    let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Ok(target.with_context(|| link.to_owned())?.to_owned())
}

/// New rows, in transactions of which every second is committed after a later one, and after a page was read
/// in between.
struct Arrivals {
    insert: &'static str,
    early: PgConnection,
    late: PgConnection,
    held: bool,
    count: i32,
}

impl Arrivals {
    async fn begin(stage: &Stage, service: &str) -> anyhow::Result<Self> {
        let url = stage.database_url(service);
        let (early, late) = (PgConnection::connect(url).await?, PgConnection::connect(url).await?);
        Ok(Self { insert: insert(service), early, late, held: false, count: 0 })
    }

    async fn come(&mut self, rows: i32) -> anyhow::Result<()> {
        self.count += rows;
        if self.held {
            sqlx::query(self.insert).bind(rows).execute(&mut self.early).await?;
            return self.commit().await;
        }
        sqlx::raw_sql("begin").execute(&mut self.late).await?;
        sqlx::query(self.insert).bind(rows).execute(&mut self.late).await?;
        self.held = true;
        Ok(())
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        sqlx::raw_sql("commit").execute(&mut self.late).await?;
        self.held = false;
        Ok(())
    }

    async fn end(mut self) -> anyhow::Result<()> {
        if self.held {
            self.commit().await?;
        }
        ensure!(self.count >= NEW, "only {} rows arrived", self.count);
        Ok(())
    }
}
