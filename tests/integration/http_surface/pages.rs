//! Collections, page by page, while they grow.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use theater_tests::{Api, Environment, Setup, Theater, checks};
use tokio::sync::watch;
use uuid::Uuid;

use crate::calls::Call;

const SOON: Duration = Duration::from_secs(20);

/// Rows of each collection that are there before anyone walks.
const ROWS: usize = 30;

/// Rows of a page; it divides neither [`ROWS`] nor half of them.
const LIMIT: usize = 7;

/// Who has half of the reservations; an id that must be escaped in a link.
const USER: &str = "ann & bob+1";

pub(crate) async fn pages_lose_and_repeat_no_row_while_rows_arrive(
    environment: &Environment,
) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let api = &theater.api;
    let mut movies = Vec::new();
    for _ in 0..ROWS {
        movies.push(api.publish(100).await?);
    }
    let (mut reserved, mut of_user) = (Vec::new(), Vec::new());
    for index in 0..ROWS {
        let user = if index % 2 == 0 { USER } else { "7" };
        let id = reserve(api, movies[index % 3], user).await?;
        reserved.push(id);
        of_user.extend((user == USER).then_some(id));
    }
    checks::at_rest(&theater.stage, SOON).await?;

    let query = "userId=ann%20%26%20bob%2B1";
    let walks = [
        ("/movies".to_owned(), "id", &movies),
        ("/reservations".to_owned(), "id", &reserved),
        (format!("/reservations?{query}"), "id", &of_user),
        ("/reservationLists?status=all".to_owned(), "reserveId", &reserved),
        (format!("/reservationLists?{query}"), "reserveId", &of_user),
        ("/notifications".to_owned(), "reserveId", &reserved),
        (format!("/notifications?{query}"), "reserveId", &of_user),
    ];
    let (arrived, mut arrivals) = watch::channel(0);
    let walking = async move {
        for (path, field, old) in walks {
            for way in [Way::Cursor, Way::Link] {
                let what = || format!("{path} by {way:?}");
                let seen = walk(api, &path, field, way, &mut arrivals).await.with_context(what)?;
                complete(&seen, old).with_context(what)?;
                if field == "id" {
                    newest_first(&seen, old).with_context(what)?;
                }
            }
        }
        anyhow::Ok(())
    };
    tokio::try_join!(walking, arrive(api, movies[0], arrived))?;
    theater.stop().await
}

async fn reserve(api: &Api, movie: Uuid, user: &str) -> anyhow::Result<Uuid> {
    let id = Uuid::now_v7();
    let body = json!({"id": id, "userId": user, "userName": "x", "movieId": movie, "count": 1});
    Call::post("/reservations", &body, 202).play(api).await?;
    Ok(id)
}

/// New movies and reservations, without a pause, until nobody wants to hear of them any more.
async fn arrive(api: &Api, movie: Uuid, arrived: watch::Sender<u32>) -> anyhow::Result<()> {
    while !arrived.is_closed() {
        let user = if arrived.borrow().is_multiple_of(4) { "7" } else { USER };
        tokio::try_join!(api.publish(1), reserve(api, movie, user))?;
        arrived.send_modify(|count| *count += 1);
    }
    Ok(())
}

/// How the next page is asked for.
#[derive(Clone, Copy, Debug)]
enum Way {
    Cursor,
    Link,
}

/// All rows from the newest on, as a client reads them; between any two pages a row arrives.
async fn walk(
    api: &Api,
    path: &str,
    field: &str,
    way: Way,
    arrivals: &mut watch::Receiver<u32>,
) -> anyhow::Result<Vec<Uuid>> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let first = format!("{path}{separator}limit={LIMIT}");
    let (mut target, mut seen) = (first.clone(), Vec::new());
    loop {
        let answer = Call::get(&target, 200).header("cache-control", "no-store").play(api).await?;
        let page = answer.json()?;
        ensure!(page.as_object().is_some_and(|page| page.len() == 2), "{page}");
        let items = page["items"].as_array().context("items")?;
        for item in items {
            seen.push(item[field].as_str().context("no id")?.parse()?);
        }
        let link = answer.header("link");
        let Value::String(next) = &page["next"] else {
            ensure!(page["next"].is_null() && link.is_none(), "{} and {link:?}", page["next"]);
            ensure!(items.len() <= LIMIT, "{} rows", items.len());
            return Ok(seen);
        };
        ensure!(items.len() == LIMIT, "{} rows, and more after them", items.len());
        let safe = next.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
        ensure!(safe, "the cursor {next} must be escaped");
        target = match way {
            Way::Cursor => format!("{first}&cursor={next}"),
            Way::Link => linked(link.context("no link")?)?,
        };
        arrivals.borrow_and_update();
        arrivals.changed().await?;
    }
}

/// The target of `<…>; rel="next"`.
fn linked(link: &str) -> anyhow::Result<String> {
    let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Ok(target.with_context(|| link.to_owned())?.to_owned())
}

/// Every old row was seen, and none twice: rows that come meanwhile are newer, so that they neither push
/// an old one out of sight nor are met later on.
fn complete(seen: &[Uuid], old: &[Uuid]) -> anyhow::Result<()> {
    let mut once = HashSet::new();
    for id in seen {
        ensure!(once.insert(id), "{id} came twice");
    }
    let missed: Vec<_> = old.iter().filter(|id| !once.contains(id)).collect();
    ensure!(missed.is_empty(), "{} of {} old rows were missed", missed.len(), old.len());
    Ok(())
}

/// What was made one after the other is read the other way round.
fn newest_first(seen: &[Uuid], old: &[Uuid]) -> anyhow::Result<()> {
    let met = seen.iter().filter(|id| old.contains(id));
    ensure!(met.eq(old.iter().rev()), "the newest don't come first");
    Ok(())
}
