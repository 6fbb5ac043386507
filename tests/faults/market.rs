//! What goes on at a theater while its processes die: customers place and cancel, some with a key, some in vain; a
//! vendor publishes, delivers and edits; some deadlines pass; some records are broken. Every call is repeated until it
//! is answered, and then it is in the books.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use theater_tests::api::{Answer, reservation};
use theater_tests::theater::Stage;
use theater_tests::{Api, eventually, records};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// More than anybody buys.
const PLENTY: i64 = 100_000;

/// How long one call is made again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pace of one customer, of one who is late, of the vendor, and of whoever breaks records.
const CUSTOMER_PERIOD: Duration = Duration::from_millis(60);
/// Meanwhile the service refuses other placings: its oldest is overdue.
const LATE_PERIOD: Duration = Duration::from_millis(700);
const VENDOR_PERIOD: Duration = Duration::from_millis(120);
const POISON_PERIOD: Duration = Duration::from_millis(300);

/// The value of a broken record; every other one is large.
pub(crate) const BROKEN: &[u8] = b"no event";
const LARGE: usize = 4_000;

/// What was accepted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    pub(crate) reservations: HashSet<Uuid>,
    /// Those whose cancellation was accepted.
    pub(crate) cancelled: HashSet<Uuid>,
    /// Those whose deadline was made to pass, whether they were decided before or not.
    pub(crate) hurried: HashSet<Uuid>,
    /// Published and delivered.
    pub(crate) stock: HashMap<Uuid, i64>,
    pub(crate) names: HashMap<Uuid, String>,
    /// Movies that are never sold out.
    pub(crate) plenty: HashSet<Uuid>,
    pub(crate) broken: usize,
}

/// Books that all write in.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedBooks(Arc<Mutex<Books>>);

impl SharedBooks {
    /// What has been written by now.
    pub(crate) fn so_far(&self) -> Books {
        self.open().clone()
    }

    fn open(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A market with two movies of its own, and what all who are there share.
pub(crate) struct Market {
    api: Api,
    stage: Stage,
    books: SharedBooks,
    closing: CancellationToken,
    /// A movie that lasts, and one that is soon sold out.
    plenty: Uuid,
    scarce: Uuid,
}

impl Market {
    pub(crate) async fn opens(api: &Api, stage: &Stage, books: &SharedBooks) -> anyhow::Result<Self> {
        let market = Self {
            api: api.clone(),
            stage: stage.clone(),
            books: books.clone(),
            closing: CancellationToken::new(),
            plenty: Uuid::now_v7(),
            scarce: Uuid::now_v7(),
        };
        books.open().plenty.insert(market.plenty);
        market.publish(market.plenty, PLENTY).await?;
        market.publish(market.scarce, 10).await?;
        Ok(market)
    }

    /// Goes on until the market closes and everybody has the last answer.
    pub(crate) async fn trades(&self) -> anyhow::Result<()> {
        tokio::try_join!(
            self.buys(),
            self.buys_with_a_key(),
            self.misses_the_deadline(),
            self.sells(),
            self.breaks()
        )?;
        Ok(())
    }

    pub(crate) fn closes(&self) {
        self.closing.cancel();
    }

    /// Under ids of their own; every other one cancels at once.
    async fn buys(&self) -> anyhow::Result<()> {
        let mut pace = Pace::new(CUSTOMER_PERIOD, &self.closing);
        while let Some(turn) = pace.turn().await {
            let id = Uuid::now_v7();
            let movie = if turn % 3 == 0 { self.scarce } else { self.plenty };
            let mut body = reservation(id, movie, 1 + turn % 3);
            body["email"] = json!(format!("{id}@example.org"));
            self.settled(202, || self.api.request(Method::POST, "/reservations").json(&body)).await?;
            self.books.open().reservations.insert(id);
            if turn % 2 == 0 {
                self.cancel(id).await?;
            }
        }
        Ok(())
    }

    /// Under keys; the answer says which reservation it is. Every other one is cancelled once it is decided.
    async fn buys_with_a_key(&self) -> anyhow::Result<()> {
        let mut pace = Pace::new(CUSTOMER_PERIOD, &self.closing);
        while let Some(turn) = pace.turn().await {
            let key = Uuid::now_v7().to_string();
            let movie = if turn % 3 == 0 { self.scarce } else { self.plenty };
            let body = json!({"userId": "8", "userName": "Joe", "movieId": movie, "count": 1});
            let request = || self.api.request(Method::POST, "/reservations").json(&body);
            let answer = self.settled(202, || request().header("idempotency-key", &key)).await?;
            let id = answer.json()?["id"].as_str().context("id")?.parse()?;
            ensure!(self.books.open().reservations.insert(id), "{id} was placed under two keys");
            if turn % 2 == 0 {
                self.decided(id).await?;
                self.cancel(id).await?;
            }
        }
        Ok(())
    }

    /// Its deadline passes at once: the saga and the sweeper race.
    async fn misses_the_deadline(&self) -> anyhow::Result<()> {
        let mut database = PgConnection::connect(&self.stage.reservation_url).await?;
        let mut pace = Pace::new(LATE_PERIOD, &self.closing);
        while pace.turn().await.is_some() {
            let id = Uuid::now_v7();
            let body = reservation(id, self.plenty, 1);
            self.settled(202, || self.api.request(Method::POST, "/reservations").json(&body)).await?;
            sqlx::query("update reservation set deadline = placed_at where id = $1 and status = 'PENDING'")
                .bind(id)
                .execute(&mut database)
                .await?;
            let mut books = self.books.open();
            books.reservations.insert(id);
            books.hurried.insert(id);
        }
        Ok(())
    }

    /// A new movie, a delivery, an edit.
    async fn sells(&self) -> anyhow::Result<()> {
        let mut database = PgConnection::connect(&self.stage.movie_url).await?;
        let mut pace = Pace::new(VENDOR_PERIOD, &self.closing);
        while let Some(turn) = pace.turn().await {
            match turn % 3 {
                0 => {
                    let id = Uuid::now_v7();
                    self.publish(id, 3).await?;
                    // Nobody makes this call again: its key has had its time.
                    sqlx::query("update idempotency set expires_at = now() where key = $1")
                        .bind(id.to_string())
                        .execute(&mut database)
                        .await?;
                }
                1 => self.deliver(self.scarce, 2).await?,
                _ => self.rename(self.plenty).await?,
            }
        }
        Ok(())
    }

    /// Broken records in both topics.
    async fn breaks(&self) -> anyhow::Result<()> {
        let producer = records::producer(&self.stage.bootstrap)?;
        let mut pace = Pace::new(POISON_PERIOD, &self.closing);
        while let Some(turn) = pace.turn().await {
            let topic = if turn % 2 == 0 { "reservations" } else { "movies" };
            let mut value = BROKEN.to_vec();
            if turn % 4 < 2 {
                value.resize(LARGE, b'.');
            }
            let record = records::bare(&self.plenty.to_string(), &value);
            records::produce(&producer, &format!("{}{topic}", self.stage.prefix), &record).await?;
            self.books.open().broken += 1;
        }
        Ok(())
    }

    async fn publish(&self, id: Uuid, qty: i64) -> anyhow::Result<()> {
        let body = json!({"id": id, "movieName": "LALALand", "qty": qty});
        let request = || self.api.request(Method::POST, "/movies").json(&body);
        self.settled(201, || request().header("idempotency-key", id.to_string())).await?;
        let mut books = self.books.open();
        books.stock.insert(id, qty);
        books.names.insert(id, "LALALand".to_owned());
        Ok(())
    }

    async fn deliver(&self, movie: Uuid, count: i64) -> anyhow::Result<()> {
        let body = json!({"id": Uuid::now_v7(), "count": count});
        let path = format!("/movies/{movie}/tickets");
        self.settled(201, || self.api.request(Method::POST, &path).json(&body)).await?;
        *self.books.open().stock.entry(movie).or_default() += count;
        Ok(())
    }

    /// What got no answer may have had its effect: looked at before it is tried again.
    async fn rename(&self, movie: Uuid) -> anyhow::Result<()> {
        let (path, name) = (format!("/movies/{movie}"), format!("LALALand {}", Uuid::now_v7()));
        eventually("the movie has its new name", PATIENCE, async || {
            let answer = self.api.get(&path).await?;
            ensure!(answer.status == 200, "{answer:?}");
            if answer.json()?["movieName"] == json!(name) {
                return Ok(());
            }
            let edition = answer.header("etag").context("ETag")?;
            let request = self.api.request(Method::PATCH, &path).json(&json!({"movieName": name}));
            let answer = Api::send(request.header("if-match", edition)).await?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        })
        .await?;
        self.books.open().names.insert(movie, name);
        Ok(())
    }

    async fn decided(&self, id: Uuid) -> anyhow::Result<()> {
        eventually("the reservation is decided", PATIENCE, async || {
            let reservation = self.api.reservation(id).await?;
            ensure!(reservation["reserveStatus"] != "PENDING", "{reservation}");
            Ok(())
        })
        .await
    }

    async fn cancel(&self, id: Uuid) -> anyhow::Result<()> {
        let path = format!("/reservations/{id}");
        eventually("the cancellation is accepted", PATIENCE, async || {
            let answer = self.api.delete(&path).await?;
            ensure!(matches!(answer.status.as_u16(), 200 | 202), "{answer:?}");
            Ok(())
        })
        .await?;
        self.books.open().cancelled.insert(id);
        Ok(())
    }

    /// Makes a call until it is answered as it should be; what comes meanwhile can only be that someone is away.
    async fn settled(&self, status: u16, request: impl Fn() -> RequestBuilder) -> anyhow::Result<Answer> {
        let answer = eventually("the call is answered", PATIENCE, async || {
            let answer = Api::send(request()).await?;
            ensure!(!answer.status.is_server_error(), "{answer:?}");
            Ok(answer)
        })
        .await?;
        ensure!(answer.status == status, "{answer:?}");
        Ok(answer)
    }
}

/// Turns of one who stays until the market closes.
struct Pace<'a> {
    tick: tokio::time::Interval,
    closing: &'a CancellationToken,
    turns: i64,
}

impl<'a> Pace<'a> {
    fn new(period: Duration, closing: &'a CancellationToken) -> Self {
        let mut tick = interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { tick, closing, turns: 0 }
    }

    /// The number of the turn that begins now.
    async fn turn(&mut self) -> Option<i64> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => None,
            _ = self.tick.tick() => {
                self.turns += 1;
                Some(self.turns)
            }
        }
    }
}
