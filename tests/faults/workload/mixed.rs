//! Every kind of call, while processes die: customers place and cancel, some with an idempotency key, some for a movie
//! that is sold out. A vendor publishes, delivers and edits. Some deadlines pass, and some records are malformed. Every
//! call is repeated until it is answered, and the ledger then records it.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use theater_tests::api::{Answer, reservation};
use theater_tests::theater::TheaterConfig;
use theater_tests::{Api, eventually, records};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ledger::SharedLedger;

/// More tickets than all customers buy together.
const LARGE_STOCK: i64 = 100_000;

/// How long one call is repeated.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

const CUSTOMER_PERIOD: Duration = Duration::from_millis(60);
/// Long, because the service refuses other placements while its oldest reservation is past its deadline.
const DEADLINE_PERIOD: Duration = Duration::from_millis(700);
const VENDOR_PERIOD: Duration = Duration::from_millis(120);
const MALFORMED_PERIOD: Duration = Duration::from_millis(300);

/// The value of a malformed record. Half of them are padded to `LARGE_BYTES`.
pub(crate) const MALFORMED: &[u8] = b"no event";
const LARGE_BYTES: usize = 4_000;

/// A load on two movies of its own.
pub(crate) struct MixedLoad {
    api: Api,
    config: TheaterConfig,
    ledger: SharedLedger,
    stop: CancellationToken,
    never_sold_out: Uuid,
    soon_sold_out: Uuid,
}

impl MixedLoad {
    /// Publishes the two movies.
    pub(crate) async fn new(
        api: &Api,
        config: &TheaterConfig,
        ledger: &SharedLedger,
    ) -> anyhow::Result<Self> {
        let load = Self {
            api: api.clone(),
            config: config.clone(),
            ledger: ledger.clone(),
            stop: CancellationToken::new(),
            never_sold_out: Uuid::now_v7(),
            soon_sold_out: Uuid::now_v7(),
        };
        ledger.lock().never_sold_out.insert(load.never_sold_out);
        load.publish(load.never_sold_out, LARGE_STOCK).await?;
        load.publish(load.soon_sold_out, 10).await?;
        Ok(load)
    }

    /// Runs until [`MixedLoad::stop`] is called and every call under way is answered.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        tokio::try_join!(
            self.place_with_ids(),
            self.place_with_keys(),
            self.miss_deadlines(),
            self.manage_movies(),
            self.produce_malformed_records()
        )?;
        Ok(())
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Places under ids made by the customer, and cancels every second reservation at once.
    async fn place_with_ids(&self) -> anyhow::Result<()> {
        let mut pace = Pace::new(CUSTOMER_PERIOD, &self.stop);
        while let Some(turn) = pace.next_turn().await {
            let id = Uuid::now_v7();
            let movie = if turn % 3 == 0 { self.soon_sold_out } else { self.never_sold_out };
            let mut body = reservation(id, movie, 1 + turn % 3);
            body["email"] = json!(format!("{id}@example.org"));
            self.call_until_answered(202, || self.api.request(Method::POST, "/reservations").json(&body))
                .await?;
            self.ledger.lock().reservations.insert(id);
            if turn % 2 == 0 {
                self.cancel(id).await?;
            }
        }
        Ok(())
    }

    /// Places under idempotency keys; the response says which reservation it is. Cancels every second one once it is
    /// decided.
    async fn place_with_keys(&self) -> anyhow::Result<()> {
        let mut pace = Pace::new(CUSTOMER_PERIOD, &self.stop);
        while let Some(turn) = pace.next_turn().await {
            let key = Uuid::now_v7().to_string();
            let movie = if turn % 3 == 0 { self.soon_sold_out } else { self.never_sold_out };
            let body = json!({"userId": "8", "userName": "Joe", "movieId": movie, "count": 1});
            let request = || self.api.request(Method::POST, "/reservations").json(&body);
            let answer = self.call_until_answered(202, || request().header("idempotency-key", &key)).await?;
            let id = answer.json()?["id"].as_str().context("id")?.parse()?;
            ensure!(self.ledger.lock().reservations.insert(id), "{id} was placed under two keys");
            if turn % 2 == 0 {
                self.wait_for_decision(id).await?;
                self.cancel(id).await?;
            }
        }
        Ok(())
    }

    /// Places reservations whose deadline passes at once, so that the saga and the sweeper race.
    async fn miss_deadlines(&self) -> anyhow::Result<()> {
        let mut database = PgConnection::connect(&self.config.reservation_url).await?;
        let mut pace = Pace::new(DEADLINE_PERIOD, &self.stop);
        while pace.next_turn().await.is_some() {
            let id = Uuid::now_v7();
            let body = reservation(id, self.never_sold_out, 1);
            self.call_until_answered(202, || self.api.request(Method::POST, "/reservations").json(&body))
                .await?;
            sqlx::query("update reservation set deadline = placed_at where id = $1 and status = 'PENDING'")
                .bind(id)
                .execute(&mut database)
                .await?;
            let mut ledger = self.ledger.lock();
            ledger.reservations.insert(id);
            ledger.past_deadline.insert(id);
        }
        Ok(())
    }

    /// In turn: publishes a new movie, delivers tickets, edits a movie.
    async fn manage_movies(&self) -> anyhow::Result<()> {
        let mut database = PgConnection::connect(&self.config.movie_url).await?;
        let mut pace = Pace::new(VENDOR_PERIOD, &self.stop);
        while let Some(turn) = pace.next_turn().await {
            match turn % 3 {
                0 => {
                    let id = Uuid::now_v7();
                    self.publish(id, 3).await?;
                    // This call is not repeated any more, so its key may expire, and the purge has rows to delete.
                    sqlx::query("update idempotency set expires_at = now() where key = $1")
                        .bind(id.to_string())
                        .execute(&mut database)
                        .await?;
                }
                1 => self.deliver(self.soon_sold_out, 2).await?,
                _ => self.rename(self.never_sold_out).await?,
            }
        }
        Ok(())
    }

    /// Produces malformed records to both topics.
    async fn produce_malformed_records(&self) -> anyhow::Result<()> {
        let producer = records::producer(&self.config.bootstrap)?;
        let mut pace = Pace::new(MALFORMED_PERIOD, &self.stop);
        while let Some(turn) = pace.next_turn().await {
            let topic = if turn % 2 == 0 { "reservations" } else { "movies" };
            let mut value = MALFORMED.to_vec();
            if turn % 4 < 2 {
                value.resize(LARGE_BYTES, b'.');
            }
            let record = records::without_headers(&self.never_sold_out.to_string(), &value);
            records::produce(&producer, &format!("{}{topic}", self.config.prefix), &record).await?;
            self.ledger.lock().malformed_records += 1;
        }
        Ok(())
    }

    async fn publish(&self, id: Uuid, qty: i64) -> anyhow::Result<()> {
        let body = json!({"id": id, "movieName": "LALALand", "qty": qty});
        let request = || self.api.request(Method::POST, "/movies").json(&body);
        self.call_until_answered(201, || request().header("idempotency-key", id.to_string())).await?;
        let mut ledger = self.ledger.lock();
        ledger.stock.insert(id, qty);
        ledger.names.insert(id, "LALALand".to_owned());
        Ok(())
    }

    async fn deliver(&self, movie: Uuid, count: i64) -> anyhow::Result<()> {
        let body = json!({"id": Uuid::now_v7(), "count": count});
        let path = format!("/movies/{movie}/tickets");
        self.call_until_answered(201, || self.api.request(Method::POST, &path).json(&body)).await?;
        *self.ledger.lock().stock.entry(movie).or_default() += count;
        Ok(())
    }

    /// An unanswered edit may have had its effect, so each attempt first reads the name.
    async fn rename(&self, movie: Uuid) -> anyhow::Result<()> {
        let (path, name) = (format!("/movies/{movie}"), format!("LALALand {}", Uuid::now_v7()));
        eventually("the movie has its new name", CALL_TIMEOUT, async || {
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
        self.ledger.lock().names.insert(movie, name);
        Ok(())
    }

    async fn wait_for_decision(&self, id: Uuid) -> anyhow::Result<()> {
        eventually("the reservation is decided", CALL_TIMEOUT, async || {
            let reservation = self.api.reservation(id).await?;
            ensure!(reservation["reserveStatus"] != "PENDING", "{reservation}");
            Ok(())
        })
        .await
    }

    async fn cancel(&self, id: Uuid) -> anyhow::Result<()> {
        let path = format!("/reservations/{id}");
        eventually("the cancellation is accepted", CALL_TIMEOUT, async || {
            let answer = self.api.delete(&path).await?;
            ensure!(matches!(answer.status.as_u16(), 200 | 202), "{answer:?}");
            Ok(())
        })
        .await?;
        self.ledger.lock().cancelled.insert(id);
        Ok(())
    }

    /// Repeats a call until its response has this status. Until then only connection errors and 5xx are allowed, because
    /// a process is down.
    async fn call_until_answered(
        &self,
        status: u16,
        request: impl Fn() -> RequestBuilder,
    ) -> anyhow::Result<Answer> {
        let answer = eventually("the call is answered", CALL_TIMEOUT, async || {
            let answer = Api::send(request()).await?;
            ensure!(!answer.status.is_server_error(), "{answer:?}");
            Ok(answer)
        })
        .await?;
        ensure!(answer.status == status, "{answer:?}");
        Ok(answer)
    }
}

/// Turns at a fixed rate, until the load is stopped.
struct Pace<'a> {
    tick: tokio::time::Interval,
    stop: &'a CancellationToken,
    turns: i64,
}

impl<'a> Pace<'a> {
    fn new(period: Duration, stop: &'a CancellationToken) -> Self {
        let mut tick = interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { tick, stop, turns: 0 }
    }

    /// Waits for the next turn and returns its number, or `None` when the load is stopped.
    async fn next_turn(&mut self) -> Option<i64> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            _ = self.tick.tick() => {
                self.turns += 1;
                Some(self.turns)
            }
        }
    }
}
