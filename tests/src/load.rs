//! A load generator: a vendor and customers that call a running theater for as long as one likes. No call may fail. At the
//! end it compares the theater with its ledger: the published tickets are those that are left and those of confirmed
//! reservations, and every reservation is decided.
//!
//! # Layout
//!
//! - [`ledger`]: the accepted calls, and the invariant checks; [`call_stats`]: failures and durations of the calls.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use theater_infra::shutdown_signal::ShutdownSignal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, interval, sleep};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{Api, eventually_at};
use call_stats::CallStats;
use ledger::{Ledger, Outcomes, STOCK, parse_id};

mod call_stats;
mod ledger;

/// Reservations until the next movie is published. Together they want more tickets than a movie has.
const RESERVATIONS_PER_MOVIE: usize = 100;

/// Calls that wait for their response at the same time.
const IN_FLIGHT_MAX: usize = 500;

/// How long the last reservations may stay undecided.
const REST_TIMEOUT: Duration = Duration::from_secs(120);

/// The time between two progress reports.
const REPORT_PERIOD: Duration = Duration::from_secs(5);

/// The time between two checks of the ledger. Each reads a page per 200 reservations.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// Failed calls that are shown in full.
const FAILURES_SHOWN: usize = 20;

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The theater's gateway
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8088")]
    gateway: String,
    /// Reservations a second; every fifth is cancelled
    #[arg(long, value_name = "RATE", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    reservations: u32,
    /// Reads a second: seven of ten of movies, the others of a reservation, the list and notifications
    #[arg(long = "looks", value_name = "RATE", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    reads: u32,
    /// For how long; else until SIGTERM or Ctrl-C
    #[arg(long)]
    seconds: Option<u64>,
}

/// Generates the load, and then checks the ledger.
///
/// # Errors
/// If a call failed, or the ledger doesn't balance.
pub fn main(options: &Options) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let interrupt = ShutdownSignal::listen()?;
    let workload = Workload::new(&options.gateway)?;
    let began = Instant::now();
    interrupt.run_until(workload.run(options)).await;
    workload.drain().await;
    println!("{} s: the last call is answered: {}", began.elapsed().as_secs(), workload.stats());
    let outcomes =
        eventually_at(CHECK_PERIOD, "the ledger balances", REST_TIMEOUT, async || workload.check().await);
    let outcomes = outcomes.await?;
    println!("{outcomes}");
    let stats = workload.stats();
    ensure!(stats.failed == 0, "{} of {} calls failed", stats.failed, stats.calls);
    ensure!(outcomes.confirmed > 0, "nothing was sold");
    println!("no call failed, and the ledger balances");
    Ok(())
}

/// Limits calls to a constant rate, independent of their responses unless too many are in flight.
struct RateLimiter {
    tick: Interval,
    in_flight: Arc<Semaphore>,
}

impl RateLimiter {
    fn new(rate: u32, in_flight: &Arc<Semaphore>) -> Self {
        Self { tick: interval(Duration::from_secs(1) / rate), in_flight: Arc::clone(in_flight) }
    }

    async fn next(&mut self) -> OwnedSemaphorePermit {
        self.tick.tick().await;
        Arc::clone(&self.in_flight).acquire_owned().await.expect("the semaphore is never closed")
    }
}

#[derive(Clone)]
struct Workload(Arc<Shared>);

struct Shared {
    api: Api,
    /// The customer of all reservations.
    user: String,
    ledger: Mutex<Ledger>,
    stats: Mutex<CallStats>,
    tasks: TaskTracker,
    in_flight: Arc<Semaphore>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workload {
    fn new(gateway: &str) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Shared {
            api: Api::new(gateway.trim_end_matches('/'))?,
            user: Uuid::now_v7().to_string(),
            ledger: Mutex::default(),
            stats: Mutex::default(),
            tasks: TaskTracker::new(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        })))
    }

    /// Makes calls until the time is over.
    async fn run(&self, options: &Options) {
        let timeout = async {
            match options.seconds {
                Some(seconds) => sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timeout => {}
            () = self.reserve_at(options.reservations) => {}
            () = self.read_at(options.reads) => {}
            () = self.report_progress() => {}
        }
    }

    /// Waits for the responses to all calls in flight.
    async fn drain(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn stats(&self) -> CallStats {
        lock(&self.0.stats).clone()
    }

    async fn report_progress(&self) {
        let began = Instant::now();
        let mut tick = interval(REPORT_PERIOD);
        loop {
            tick.tick().await;
            println!("{} s: {}", began.elapsed().as_secs(), self.stats());
        }
    }

    async fn reserve_at(&self, rate: u32) {
        let mut limiter = RateLimiter::new(rate, &self.0.in_flight);
        for number in 0_usize.. {
            let permit = limiter.next().await;
            if number.is_multiple_of(RESERVATIONS_PER_MOVIE) {
                self.publish().await;
            }
            let workload = self.clone();
            self.0.tasks.spawn(async move {
                workload.reserve(number).await;
                drop(permit);
            });
        }
    }

    async fn read_at(&self, rate: u32) {
        let mut limiter = RateLimiter::new(rate, &self.0.in_flight);
        for number in 0_usize.. {
            let (permit, workload) = (limiter.next().await, self.clone());
            self.0.tasks.spawn(async move {
                let path = workload.read_path(number);
                workload.call(Method::GET, &path, None, &[200]).await;
                drop(permit);
            });
        }
    }

    fn read_path(&self, number: usize) -> String {
        let (ledger, user) = (lock(&self.0.ledger), &self.0.user);
        match (number % 10, ledger.movies.last(), ledger.last_reservation) {
            (0, _, Some(reservation)) => format!("/reservations/{reservation}"),
            (1, ..) => format!("/reservationLists?userId={user}&limit=10"),
            (2, ..) => format!("/notifications?userId={user}&limit=10"),
            (3..6, ..) => "/movies?q=lala&limit=10".to_owned(),
            (_, Some(movie), _) => format!("/movies/{movie}"),
            (_, None, _) => "/movies".to_owned(),
        }
    }

    /// Without an id or a key, so that neither the gateway nor a client repeats it.
    async fn publish(&self) {
        let body = json!({"movieName": "LALALand", "qty": STOCK});
        if let Some(id) = self.call(Method::POST, "/movies", Some(&body), &[201]).await {
            lock(&self.0.ledger).movies.push(id);
        }
    }

    async fn reserve(&self, number: usize) {
        let Some(movie) = lock(&self.0.ledger).movies.last().copied() else { return };
        let (user, count) = (&self.0.user, 1 + number % 3);
        let mut body = json!({"userId": user, "userName": "Jane", "movieId": movie, "count": count});
        // With an id of the client's the gateway may repeat the call; without one it must not.
        if number.is_multiple_of(2) {
            body["id"] = json!(Uuid::now_v7());
        }
        let Some(id) = self.call(Method::POST, "/reservations", Some(&body), &[202]).await else { return };
        lock(&self.0.ledger).add_reservation(id);
        if number.is_multiple_of(5) {
            let path = format!("/reservations/{id}");
            if self.call(Method::DELETE, &path, None, &[200, 202]).await.is_some() {
                lock(&self.0.ledger).cancelled.insert(id);
            }
        }
    }

    /// Makes a call without retries. Returns the id in the body if the response is as expected.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>, expected: &[u16]) -> Option<Uuid> {
        let mut request = self.0.api.request(method.clone(), path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let began = Instant::now();
        let answer = Api::send(request).await;
        let duration = began.elapsed();
        let result = match answer {
            Ok(answer) if expected.contains(&answer.status.as_u16()) => id_in(&answer.text),
            Ok(answer) => Err(format!("{}: {}", answer.status, answer.text)),
            Err(error) => Err(format!("{error:#}")),
        };
        let mut stats = lock(&self.0.stats);
        stats.record(duration);
        if let Err(failure) = &result {
            stats.failed += 1;
            if stats.failed <= FAILURES_SHOWN {
                println!("failed after {} ms: {method} {path}: {failure}", duration.as_millis());
            }
        }
        result.ok()
    }

    /// Compares the theater with the ledger.
    async fn check(&self) -> anyhow::Result<Outcomes> {
        let filter = format!("userId={}", self.0.user);
        let rows = self.0.api.list_all(&format!("/reservations?{filter}")).await?;
        let mut listed = HashSet::new();
        for row in self.0.api.list_all(&format!("/reservationLists?{filter}")).await? {
            listed.insert(parse_id(&row["reserveId"])?);
        }
        let movies = lock(&self.0.ledger).movies.clone();
        let mut left = HashMap::new();
        for movie in movies {
            left.insert(movie, self.0.api.tickets_left(movie).await?);
        }
        lock(&self.0.ledger).check(&rows, &listed, &left)
    }
}

/// The id in a response; nil for a collection.
fn id_in(text: &str) -> Result<Uuid, String> {
    let body: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
    match body.get("id") {
        Some(id) => parse_id(id).map_err(|error| format!("{error}: {text}")),
        None => Ok(Uuid::nil()),
    }
}
