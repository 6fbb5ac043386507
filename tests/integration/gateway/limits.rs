//! The limits of the gateway for one client: request rate, sizes of request heads, slow requests.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use reqwest::Method;
use theater_tests::{Environment, Setup, Theater, api::Answer, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{SOON, send};
use crate::bad_requests::socket;
use crate::calls::problem;
use crate::prometheus;

const PER_SECOND: u32 = 5;

pub(crate) async fn requests_are_limited_per_client_address(environment: &Environment) -> anyhow::Result<()> {
    let settings = vec![
        ("gateway", format!("--rate-limit={PER_SECOND}")),
        ("gateway", "--trusted-proxies=127.0.0.0/8".to_owned()),
    ];
    let theater = Theater::start(environment, Setup { settings, ..Setup::default() }).await?;
    let get =
        async |client: &str| send(&theater.api, Method::GET, "/movies", &[("x-forwarded-for", client)]).await;
    let began = Instant::now();
    let answers = try_join_all((0..40).map(|_| get("192.0.2.1"))).await?;
    let took = began.elapsed();
    let (passed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    let most = f64::from(PER_SECOND) * (1.0 + took.as_secs_f64());
    ensure!(
        passed.len() >= PER_SECOND as usize && passed.len() as f64 <= most,
        "{} in {took:?}",
        passed.len()
    );
    for answer in &answers {
        let policy = answer.header("ratelimit-policy");
        ensure!(policy == Some("\"default\";q=5;w=1"), "{policy:?}");
    }
    let mut left: Vec<_> = passed.iter().filter_map(|answer| answer.header("ratelimit")).collect();
    left.sort_unstable();
    ensure!(left.last() == Some(&"\"default\";r=4;t=1"), "{left:?}");
    ensure!(refused.len() == 40 - passed.len(), "{}", refused.len());
    for answer in refused {
        is_refused(answer)?;
    }
    // A client can't change its address by sending X-Forwarded-For itself. Other clients are not limited.
    let mut n = 0;
    is_refused(
        &first_refusal(async || {
            n += 1;
            get(&format!("198.51.100.{n}, 192.0.2.1")).await
        })
        .await?,
    )?;
    ensure!(get("192.0.2.2").await?.status == 200, "another client was refused");
    // An IPv6 /64 network is one client.
    let mut n = 0;
    is_refused(
        &first_refusal(async || {
            n += 1;
            get(&format!("2001:db8::{n:x}")).await
        })
        .await?,
    )?;
    ensure!(get("2001:db8:0:1::1").await?.status == 200, "another network was refused");
    // After waiting as Retry-After says, the client is served again.
    eventually("the client may call again", SOON, async || {
        ensure!(get("192.0.2.1").await?.status == 200);
        Ok(())
    })
    .await?;
    for _ in 0..4 * PER_SECOND {
        ensure!(theater.api.get("/livez").await?.status == 200, "a probe was refused");
    }
    let metrics = prometheus::parse(&theater.api.get("/metrics").await?.text)?;
    let count: f64 = metrics.samples("gateway_rate_limited_total").map(|sample| sample.value).sum();
    ensure!(count >= 30.0, "{count} are counted");
    theater.stop().await
}

/// Repeats a call until it is refused, and returns that response.
async fn first_refusal(mut call: impl AsyncFnMut() -> anyhow::Result<Answer>) -> anyhow::Result<Answer> {
    for _ in 0..200 {
        let answer = call().await?;
        if answer.status != 200 {
            return Ok(answer);
        }
    }
    anyhow::bail!("200 calls passed")
}

fn is_refused(answer: &Answer) -> anyhow::Result<()> {
    ensure!(answer.status == 429 && answer.header("retry-after") == Some("1"), "{answer:?}");
    ensure!(answer.header("ratelimit") == Some("\"default\";r=0;t=1"), "{answer:?}");
    let detail = problem(429, &answer.text)?.detail;
    ensure!(detail == "one client address may make 5 requests a second", "{detail}");
    Ok(())
}

pub(crate) async fn request_heads_are_bounded(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let port = theater.api.url.rsplit(':').next().context("no port")?.parse()?;
    // Two fields of 4 + 7 and 10 + 5 bytes.
    const OWN_FIELDS: &str = "Host: theater\r\nConnection: close\r\n";
    let status = async |target: &str, fields: &str| {
        let request = format!("GET {target} HTTP/1.1\r\n{OWN_FIELDS}{fields}\r\n");
        let answers = socket::send(port, request.as_bytes()).await?;
        let [answer] = &answers[..] else { anyhow::bail!("{answers:?}") };
        if answer.status != 200 {
            let detail = problem(answer.status, &answer.body)?.detail;
            anyhow::ensure!(answer.status == 404 || detail.contains("at most"), "{answer:?}");
        }
        Ok(answer.status)
    };
    let target = |length: usize| format!("/{}", "x".repeat(length - 1));
    let fields = |count: usize| (0..count - 2).map(|n| format!("X-{n}: x\r\n")).collect::<String>();
    let bytes = |length: usize| format!("X: {}\r\n", "x".repeat(length - 26 - 1));
    for (name, target, fields, expected) in [
        ("the longest URL", target(8192), String::new(), 404),
        ("a URL over it", target(8193), String::new(), 414),
        ("a URL far over it", target(100_000), String::new(), 414),
        ("the most fields", "/movies".to_owned(), fields(64), 200),
        ("a field more", "/movies".to_owned(), fields(65), 431),
        ("many fields more", "/movies".to_owned(), fields(200), 431),
        ("the largest fields", "/movies".to_owned(), bytes(32 * 1024), 200),
        ("a byte more", "/movies".to_owned(), bytes(32 * 1024 + 1), 431),
        ("many bytes more", "/movies".to_owned(), bytes(200 * 1024), 431),
    ] {
        let found = status(&target, &fields).await.context(name)?;
        ensure!(found == expected, "{name}: {found}, not {expected}");
    }
    theater.stop().await
}

const SLOW_CLIENTS: usize = 300;
/// Between two bytes of a slow client, whose request head would so take a minute.
const BYTE_PERIOD: Duration = Duration::from_millis(250);
/// A slow client is refused within this time. The gateway's time-out for a head is 5 s.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);
/// The longest response time of other clients, on a busy machine.
const SERVED_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn slow_clients_do_not_delay_others(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let address = theater.api.url.trim_start_matches("http://").to_owned();
    let slow = (0..SLOW_CLIENTS).map(async |_| {
        let answer =
            tokio::time::timeout(REFUSED_WITHIN, send_slowly(&address)).await.context("still open")??;
        ensure!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        Ok(())
    });
    let others = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let began = Instant::now();
            let answer = theater.api.get("/movies").await?;
            slowest = slowest.max(began.elapsed());
            ensure!(answer.status == 200, "{answer:?}");
        }
        ensure!(slowest < SERVED_WITHIN, "one call took {slowest:?}");
        anyhow::Ok(())
    };
    tokio::try_join!(try_join_all(slow), others)?;
    theater.stop().await
}

/// Sends a request head byte by byte, as a slow client does, until it is answered.
async fn send_slowly(address: &str) -> anyhow::Result<String> {
    let (mut reading, mut writing) = TcpStream::connect(address).await?.into_split();
    let mut answer = String::new();
    let head = format!("GET /movies HTTP/1.1\r\nHost: theater\r\nX-A: {}", "x".repeat(240));
    let write = async {
        let mut pace = tokio::time::interval(BYTE_PERIOD);
        for byte in head.bytes() {
            pace.tick().await;
            if writing.write_all(&[byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        read = reading.read_to_string(&mut answer) => read.context(answer.clone())?,
        () = write => 0,
    };
    Ok(answer)
}
