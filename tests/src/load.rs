//! Customers and a vendor at a theater that runs somewhere, for as long as one likes. No call may fail, and in the end
//! the books are exact: what was published is what is left and what is confirmed, and everybody has an answer.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use theater_infra::shutdown_signal::ShutdownSignal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, interval, sleep};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{Api, eventually_at};

/// Tickets of a movie, and for how many reservations it is on sale: some of them want more than is left.
const STOCK: i64 = 150;
const SEASON: usize = 100;

/// Calls on their way at the same time.
const IN_FLIGHT_MAX: usize = 500;

/// How long the last answers may take.
const REST: Duration = Duration::from_secs(120);

/// How often it says how far it is.
const REPORT_PERIOD: Duration = Duration::from_secs(5);

/// Longer than the client waits.
const SLOWEST_MS: usize = 31_000;

/// How often the books are looked at: a page for each 200 reservations.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

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
    /// Looks a second: seven of ten at movies, the others at a reservation, the list and notifications
    #[arg(long, value_name = "RATE", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    looks: u32,
    /// For how long; else until SIGTERM or Ctrl-C
    #[arg(long)]
    seconds: Option<u64>,
}

/// Loads it, and holds it against the books.
///
/// # Errors
/// Calls that failed; books that aren't exact.
pub fn main(options: &Options) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let interrupt = ShutdownSignal::listen()?;
    let crowd = Crowd::new(&options.gateway)?;
    let began = Instant::now();
    interrupt.run_until(crowd.comes(options)).await;
    crowd.leaves().await;
    println!("{} s: the last call is answered: {}", began.elapsed().as_secs(), crowd.tally());
    let outcomes =
        eventually_at(LOOK_PERIOD, "the books are exact", REST, async || crowd.balance().await).await?;
    println!("{outcomes}");
    let tally = crowd.tally();
    ensure!(tally.failed == 0, "{} of {} calls failed", tally.failed, tally.calls);
    ensure!(outcomes.confirmed > 0, "nothing was sold");
    println!("no call failed, and the books are exact");
    Ok(())
}

/// What was accepted.
#[derive(Debug, Default)]
struct Books {
    movies: Vec<Uuid>,
    reservations: HashSet<Uuid>,
    cancelled: HashSet<Uuid>,
    /// The latest reservation.
    last: Option<Uuid>,
}

#[derive(Clone, Debug)]
struct Tally {
    calls: usize,
    failed: usize,
    /// Calls by the milliseconds that they took, the slowest at the end.
    durations: Vec<usize>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { calls: 0, failed: 0, durations: vec![0; SLOWEST_MS + 1] }
    }
}

impl Tally {
    fn took(&mut self, duration: Duration) {
        self.calls += 1;
        let ms = usize::try_from(duration.as_millis()).unwrap_or(SLOWEST_MS);
        self.durations[ms.min(SLOWEST_MS)] += 1;
    }

    /// Milliseconds that so many percent of the calls didn't take longer than.
    fn within(&self, percent: usize) -> usize {
        let mut left = (self.calls * percent).div_ceil(100);
        let slowest = self.durations.iter().position(|calls| {
            left = left.saturating_sub(*calls);
            left == 0
        });
        slowest.unwrap_or(SLOWEST_MS)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, longest] = [50, 99, 100].map(|percent| self.within(percent));
        write!(
            f,
            "{} calls, {} failed; p50 {half} ms, p99 {most} ms, longest {longest} ms",
            self.calls, self.failed
        )
    }
}

/// How the reservations ended.
#[derive(Clone, Copy, Debug, Default)]
struct Outcomes {
    confirmed: usize,
    refused: usize,
    cancelled: usize,
    late: usize,
    sold: i64,
    left: i64,
    movies: usize,
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { confirmed, refused, cancelled, late, sold, left, movies } = self;
        let published = sold + left;
        write!(
            f,
            "{published} tickets of {movies} movies: {left} left, {sold} sold; {confirmed} reservations confirmed, \
             {refused} refused, {cancelled} cancelled, {late} too late"
        )
    }
}

/// One after another at a rate, whether the last has been answered or not, as long as there is room.
struct Turns {
    tick: Interval,
    room: Arc<Semaphore>,
}

impl Turns {
    fn new(rate: u32, room: &Arc<Semaphore>) -> Self {
        Self { tick: interval(Duration::from_secs(1) / rate), room: Arc::clone(room) }
    }

    async fn next(&mut self) -> OwnedSemaphorePermit {
        self.tick.tick().await;
        Arc::clone(&self.room).acquire_owned().await.expect("nobody closes the room")
    }
}

#[derive(Clone)]
struct Crowd(Arc<Shared>);

struct Shared {
    api: Api,
    /// All reservations are this customer's.
    user: String,
    books: Mutex<Books>,
    tally: Mutex<Tally>,
    tasks: TaskTracker,
    room: Arc<Semaphore>,
}

fn open<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crowd {
    fn new(gateway: &str) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Shared {
            api: Api::new(gateway.trim_end_matches('/'))?,
            user: Uuid::now_v7().to_string(),
            books: Mutex::default(),
            tally: Mutex::default(),
            tasks: TaskTracker::new(),
            room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        })))
    }

    /// Until the time is over.
    async fn comes(&self, options: &Options) {
        let over = async {
            match options.seconds {
                Some(seconds) => sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {}
            () = self.reserves(options.reservations) => {}
            () = self.looks(options.looks) => {}
            () = self.reports() => {}
        }
    }

    /// Everybody has the last answer.
    async fn leaves(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn tally(&self) -> Tally {
        open(&self.0.tally).clone()
    }

    async fn reports(&self) {
        let began = Instant::now();
        let mut tick = interval(REPORT_PERIOD);
        loop {
            tick.tick().await;
            println!("{} s: {}", began.elapsed().as_secs(), self.tally());
        }
    }

    async fn reserves(&self, rate: u32) {
        let mut turns = Turns::new(rate, &self.0.room);
        for number in 0_usize.. {
            let place = turns.next().await;
            if number.is_multiple_of(SEASON) {
                self.publish().await;
            }
            let crowd = self.clone();
            self.0.tasks.spawn(async move {
                crowd.reserve(number).await;
                drop(place);
            });
        }
    }

    async fn looks(&self, rate: u32) {
        let mut turns = Turns::new(rate, &self.0.room);
        for number in 0_usize.. {
            let (place, crowd) = (turns.next().await, self.clone());
            self.0.tasks.spawn(async move {
                let path = crowd.what_is_looked_at(number);
                crowd.call(Method::GET, &path, None, &[200]).await;
                drop(place);
            });
        }
    }

    fn what_is_looked_at(&self, number: usize) -> String {
        let (books, user) = (open(&self.0.books), &self.0.user);
        match (number % 10, books.movies.last(), books.last) {
            (0, _, Some(reservation)) => format!("/reservations/{reservation}"),
            (1, ..) => format!("/reservationLists?userId={user}&limit=10"),
            (2, ..) => format!("/notifications?userId={user}&limit=10"),
            (3..6, ..) => "/movies?q=lala&limit=10".to_owned(),
            (_, Some(movie), _) => format!("/movies/{movie}"),
            (_, None, _) => "/movies".to_owned(),
        }
    }

    /// Without an id or a key, so that nobody on the way may repeat it.
    async fn publish(&self) {
        let body = json!({"movieName": "LALALand", "qty": STOCK});
        if let Some(id) = self.call(Method::POST, "/movies", Some(&body), &[201]).await {
            open(&self.0.books).movies.push(id);
        }
    }

    async fn reserve(&self, number: usize) {
        let Some(movie) = open(&self.0.books).movies.last().copied() else { return };
        let (user, count) = (&self.0.user, 1 + number % 3);
        let mut body = json!({"userId": user, "userName": "Jane", "movieId": movie, "count": count});
        // With an id of the client's the gateway may repeat it; without one it must not.
        if number.is_multiple_of(2) {
            body["id"] = json!(Uuid::now_v7());
        }
        let Some(id) = self.call(Method::POST, "/reservations", Some(&body), &[202]).await else { return };
        open(&self.0.books).took(id);
        if number.is_multiple_of(5) {
            let path = format!("/reservations/{id}");
            if self.call(Method::DELETE, &path, None, &[200, 202]).await.is_some() {
                open(&self.0.books).cancelled.insert(id);
            }
        }
    }

    /// Makes a call once, nothing is tried again. If it is answered as it should be: the id of what is shown.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>, expected: &[u16]) -> Option<Uuid> {
        let mut request = self.0.api.request(method.clone(), path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let began = Instant::now();
        let answer = Api::send(request).await;
        let took = began.elapsed();
        let answer = match answer {
            Ok(answer) if expected.contains(&answer.status.as_u16()) => shown(&answer.text),
            Ok(answer) => Err(format!("{}: {}", answer.status, answer.text)),
            Err(error) => Err(format!("{error:#}")),
        };
        let mut tally = open(&self.0.tally);
        tally.took(took);
        if let Err(fault) = &answer {
            tally.failed += 1;
            if tally.failed <= FAILURES_SHOWN {
                println!("failed after {} ms: {method} {path}: {fault}", took.as_millis());
            }
        }
        answer.ok()
    }

    /// Everybody has an answer, and all services agree on what was sold.
    async fn balance(&self) -> anyhow::Result<Outcomes> {
        let of_us = format!("userId={}", self.0.user);
        let rows = self.0.api.all(&format!("/reservations?{of_us}")).await?;
        let mut listed = HashSet::new();
        for row in self.0.api.all(&format!("/reservationLists?{of_us}")).await? {
            listed.insert(id(&row["reserveId"])?);
        }
        let movies = open(&self.0.books).movies.clone();
        let mut left = HashMap::new();
        for movie in movies {
            left.insert(movie, self.0.api.left(movie).await?);
        }
        open(&self.0.books).balance(&rows, &listed, &left)
    }
}

impl Books {
    fn took(&mut self, reservation: Uuid) {
        self.reservations.insert(reservation);
        self.last = Some(reservation);
    }

    fn balance(
        &self,
        rows: &[Value],
        listed: &HashSet<Uuid>,
        left: &HashMap<Uuid, i64>,
    ) -> anyhow::Result<Outcomes> {
        let mut outcomes = Outcomes { movies: left.len(), left: left.values().sum(), ..Outcomes::default() };
        let (mut sold, mut confirmed, mut known) = (HashMap::new(), HashSet::new(), HashSet::new());
        for row in rows {
            let (reservation, movie) = (id(&row["id"])?, id(&row["movieId"])?);
            known.insert(reservation);
            let cancelled = self.cancelled.contains(&reservation);
            match (row["reserveStatus"].as_str(), row["cancelReason"].as_str()) {
                (Some("CONFIRMED"), None) if !cancelled => {
                    confirmed.insert(reservation);
                    *sold.entry(movie).or_insert(0) += row["count"].as_i64().context("count")?;
                    outcomes.confirmed += 1;
                }
                (Some("CANCELLED"), Some("CUSTOMER")) => outcomes.cancelled += 1,
                (Some("CANCELLED"), Some("OUT_OF_STOCK")) => outcomes.refused += 1,
                (Some("CANCELLED"), Some("DEADLINE")) => outcomes.late += 1,
                _ => anyhow::bail!("cancelled by its customer: {cancelled}; {row}"),
            }
        }
        for reservation in &self.reservations {
            ensure!(known.contains(reservation), "{reservation} was accepted, and is gone");
        }
        for (movie, left) in left {
            let sold = sold.get(movie).copied().unwrap_or(0);
            ensure!(
                left + sold == STOCK,
                "{STOCK} tickets of {movie} were published: {left} left, {sold} sold"
            );
            outcomes.sold += sold;
        }
        ensure!(*listed == confirmed, "{} confirmed, {} listed", confirmed.len(), listed.len());
        Ok(outcomes)
    }
}

/// The id of what an answer shows; nil for a collection.
fn shown(text: &str) -> Result<Uuid, String> {
    let answer: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
    match answer.get("id") {
        Some(id) => self::id(id).map_err(|error| format!("{error}: {text}")),
        None => Ok(Uuid::nil()),
    }
}

fn id(value: &Value) -> anyhow::Result<Uuid> {
    Ok(value.as_str().context("no id")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One confirmed, one cancelled by its customer, one refused; 147 left of 150.
    fn case() -> (Books, Vec<Value>, HashSet<Uuid>, HashMap<Uuid, i64>) {
        let (movie, sold, cancelled, refused) =
            (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let books = Books {
            movies: vec![movie],
            reservations: [sold, cancelled, refused].into(),
            cancelled: [cancelled].into(),
            last: None,
        };
        let row = |id: Uuid, status: &str, reason: Option<&str>| json!({"id": id, "movieId": movie, "count": 3, "reserveStatus": status, "cancelReason": reason});
        let rows = vec![
            row(sold, "CONFIRMED", None),
            row(cancelled, "CANCELLED", Some("CUSTOMER")),
            row(refused, "CANCELLED", Some("OUT_OF_STOCK")),
        ];
        (books, rows, [sold].into(), [(movie, 147)].into())
    }

    #[test]
    fn exact_books_are_exact() {
        let (books, rows, listed, left) = case();
        let outcomes = books.balance(&rows, &listed, &left).unwrap();
        let Outcomes { confirmed, refused, cancelled, late, sold, left, movies } = outcomes;
        assert_eq!((confirmed, refused, cancelled, late, sold, left, movies), (1, 1, 1, 0, 3, 147, 1));
    }

    #[test]
    fn shares_of_the_calls_are_told() {
        let mut tally = Tally::default();
        assert_eq!(tally.within(99), 0);
        (1..=200).for_each(|ms| tally.took(Duration::from_millis(ms)));
        assert_eq!([50, 99, 100].map(|percent| tally.within(percent)), [100, 198, 200]);
    }

    #[test]
    fn whatever_is_missing_is_noticed() {
        let noticed = |spoil: fn(&mut Vec<Value>, &mut HashSet<Uuid>, &mut HashMap<Uuid, i64>)| {
            let (books, mut rows, mut listed, mut left) = case();
            spoil(&mut rows, &mut listed, &mut left);
            books.balance(&rows, &listed, &left).unwrap_err().to_string()
        };
        assert!(noticed(|rows, _, _| rows.truncate(2)).contains("is gone"));
        assert!(noticed(|rows, _, _| rows[2]["reserveStatus"] = json!("PENDING")).contains("PENDING"));
        assert!(noticed(|rows, _, _| rows[1] = json!({"id": rows[1]["id"], "movieId": rows[1]["movieId"], "count": 3, "reserveStatus": "CONFIRMED"})).contains("true"));
        assert!(noticed(|_, listed, _| listed.clear()).contains("1 confirmed, 0 listed"));
        assert!(
            noticed(|_, _, left| left.values_mut().for_each(|left| *left += 1)).contains("148 left, 3 sold")
        );
    }
}
