//! Invalid HTTP messages, and messages that two servers might parse differently (request smuggling).

use std::sync::LazyLock;

use anyhow::{Context, bail, ensure};
use futures_util::future::join_all;
use theater_tests::Api;
use uuid::Uuid;

use super::socket;
use crate::calls::{Call, PROBLEM, problem};

/// The movie that is published if a server executes the hidden request.
static SMUGGLED: LazyLock<Uuid> = LazyLock::new(Uuid::now_v7);

/// A request that is hidden in the body of another one.
fn hidden() -> String {
    let body = format!("{{\"id\":\"{}\",\"movieName\":\"smuggled\",\"qty\":1}}", *SMUGGLED);
    request("POST /movies", &["Content-Type: application/json", &length(&body)], &body)
}

fn length(body: &str) -> String {
    format!("Content-Length: {}", body.len())
}

fn request(line: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{line} HTTP/1.1\r\nHost: theater\r\n{headers}\r\n{body}")
}

/// A message: its name, its bytes, and the statuses with which it may be refused.
type Message = (&'static str, Vec<u8>, &'static [u16]);

/// The path to which messages are sent.
#[derive(Clone, Copy)]
struct Target {
    path: &'static str,
    /// Whether it accepts POST. Otherwise no body is read.
    accepts_post: bool,
}

impl Target {
    fn for_service(service: &str) -> Self {
        match service {
            "reservation" => Self { path: "/reservations", accepts_post: true },
            "notification" => Self { path: "/notifications", accepts_post: false },
            "reservation-list" => Self { path: "/reservationLists", accepts_post: false },
            _ => Self { path: "/movies", accepts_post: true },
        }
    }

    /// The statuses with which a body is refused: `if_read`, or 405 where none is read.
    fn refusal(self, if_read: &'static [u16]) -> &'static [u16] {
        if self.accepts_post { if_read } else { &[405] }
    }
}

/// Sends all messages to one server at the same time, each on a connection of its own. All must be refused.
pub(super) async fn all_are_refused(service: &str, port: u16) -> anyhow::Result<()> {
    let target = Target::for_service(service);
    let messages = [framing(target), chunks(target), heads(target), lines(), sizes(target)].concat();
    let refusals = messages.iter().map(async |(name, bytes, statuses)| {
        let outcome = expect_refusal(port, bytes, statuses).await;
        outcome.err().map(|error| format!("{name}: {error:#}"))
    });
    let failures: Vec<_> = join_all(refusals).await.into_iter().flatten().collect();
    ensure!(failures.is_empty(), "{service}:\n{}", failures.join("\n"));
    if target.accepts_post { line_feeds_end_lines(target, port).await } else { Ok(()) }
}

/// RFC 9112, 2.2 lets a server accept a bare line feed as the end of a line. All servers do, so that they agree on where
/// the body is: each finds that it is a list.
async fn line_feeds_end_lines(Target { path, .. }: Target, port: u16) -> anyhow::Result<()> {
    let headers = ["Content-Type: application/json", "X-A: b\nContent-Length: 2\nConnection: close"];
    let answers = socket::send(port, request(&format!("POST {path}"), &headers, "[]").as_bytes()).await?;
    let [answer] = &answers[..] else { bail!("{answers:?}") };
    let problem = problem(400, &answer.body).with_context(|| format!("{answer:?}"))?;
    ensure!(answer.status == 400 && problem.detail.contains("must be a JSON object"), "{answer:?}");
    Ok(())
}

async fn expect_refusal(port: u16, bytes: &[u8], statuses: &[u16]) -> anyhow::Result<()> {
    let answers = socket::send(port, bytes).await?;
    // An interim response (100) is allowed. A hidden request would be answered with another status.
    for answer in answers.iter().filter(|answer| answer.status != 100) {
        ensure!(statuses.contains(&answer.status), "{answers:?}");
        ensure!(answer.header("content-type") == Some(PROBLEM), "{answer:?}");
        problem(answer.status, &answer.body).with_context(|| format!("{answer:?}"))?;
    }
    ensure!(answers.iter().any(|answer| answer.status != 100), "{answers:?}");
    Ok(())
}

/// # Errors
/// If a server has executed the hidden request.
pub(super) async fn nothing_was_smuggled(api: &Api) -> anyhow::Result<()> {
    Call::get(format!("/movies/{}", *SMUGGLED), 404).play(api).await?;
    Ok(())
}

/// Messages that state the end of their body twice, or not at all.
fn framing(target: Target) -> Vec<Message> {
    let post = format!("POST {}", target.path);
    let hidden = hidden();
    let json = "Content-Type: application/json";
    let chunked = format!("0\r\n\r\n{hidden}");
    let message = |name: &'static str, headers: &[&str], body: &str| {
        let headers = [&[json], headers].concat();
        (name, request(&post, &headers, body).into_bytes(), &[400][..])
    };
    let both = [length(&chunked), "Transfer-Encoding: chunked".to_owned()];
    let mut messages = vec![
        message("length and chunks", &[&both[0], &both[1]], &chunked),
        message("chunks and length", &[&both[1], &both[0]], &chunked),
        message("two lengths", &["Content-Length: 2", &length(&hidden)], &hidden),
        message("the same length twice", &["Content-Length: 2", "Content-Length: 2"], "{}"),
    ];
    for (name, value) in [
        ("a list of lengths", "2, 2"),
        ("a list of other lengths", "2, 40"),
        ("a signed length", "+2"),
        ("a negative length", "-1"),
        ("a hexadecimal length", "0x2"),
        ("a length with a space", "2 2"),
        ("no length", ""),
        ("a length that is a word", "two"),
        ("a length over 64 bits", "18446744073709551617"),
    ] {
        messages.push(message(name, &[&format!("Content-Length: {value}")], &hidden));
    }
    for (name, headers) in [
        ("chunked twice", &["Transfer-Encoding: chunked, chunked"][..]),
        ("two encodings", &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]),
        ("chunked not last", &["Transfer-Encoding: chunked, identity"]),
        ("an unknown encoding", &["Transfer-Encoding: xchunked"]),
        ("an unknown encoding and a length", &["Transfer-Encoding: xchunked", "Content-Length: 5"]),
        ("identity and a length", &["Transfer-Encoding: identity", "Content-Length: 5"]),
        ("an encoding before chunked", &["Transfer-Encoding: gzip, chunked"]),
        ("a quoted encoding", &["Transfer-Encoding: \"chunked\""]),
        ("no encoding", &["Transfer-Encoding: "]),
        ("a control character in the encoding", &["Transfer-Encoding: \x0bchunked"]),
        ("a space before the colon", &["Content-Length : 5"]),
        ("a tab before the colon", &["Transfer-Encoding\t: chunked"]),
        ("a folded header", &["Transfer-Encoding:", " chunked"]),
        ("a header folded later", &["X-A: b", "\tContent-Length: 5"]),
        ("a bare carriage return", &["X-A: b\rContent-Length: 5"]),
    ] {
        messages.push(message(name, headers, &chunked));
    }
    let old = format!("{post} HTTP/1.0\r\n{json}\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}");
    messages.push(("chunks of HTTP/1.0", old.into_bytes(), &[400]));
    messages
}

/// Invalid chunks. A resource without POST does not read the body, and may answer with its own status.
fn chunks(target: Target) -> Vec<Message> {
    let headers = ["Content-Type: application/json", "Transfer-Encoding: chunked"];
    let statuses: &[u16] = if target.accepts_post { &[400] } else { &[400, 405] };
    let hidden = hidden();
    [
        ("a chunk's size that is a word", "zz\r\n{}\r\n0\r\n\r\n"),
        ("a negative chunk", "-1\r\n{}\r\n0\r\n\r\n"),
        ("a signed chunk", "+2\r\n{}\r\n0\r\n\r\n"),
        ("a chunk's size with a prefix", "0x2\r\n{}\r\n0\r\n\r\n"),
        ("a chunk over 64 bits", "ffffffffffffffff2\r\n{}\r\n0\r\n\r\n"),
        ("a chunk without a size", "\r\n{}\r\n0\r\n\r\n"),
        ("a chunk longer than its size", "1\r\n{}\r\n0\r\n\r\n"),
        ("a chunk that a bare line feed ends", "2\n{}\n0\n\n"),
        ("a chunk's size with a bare carriage return", "2\r{}\r\n0\r\n\r\n"),
        ("an extension with a bare line feed", "2;x\n{}\r\n0\r\n\r\n"),
    ]
    .into_iter()
    .map(|(name, body)| {
        let bytes = request(&format!("POST {}", target.path), &headers, &format!("{body}{hidden}"));
        (name, bytes.into_bytes(), statuses)
    })
    .collect()
}

/// Invalid header fields.
fn heads(Target { path, .. }: Target) -> Vec<Message> {
    let get = |headers: &[u8]| {
        let end = format!("\r\nConnection: close\r\n\r\n{}", hidden()).into_bytes();
        [format!("GET {path} HTTP/1.1\r\nHost: theater\r\n").as_bytes(), headers, &end].concat()
    };
    let hosts = |lines: &str| format!("GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n").into_bytes();
    let bad: &[u16] = &[400];
    vec![
        ("NUL in a header", get(b"X-A: a\0b"), bad),
        ("NUL in a header's name", get(b"X\0A: b"), bad),
        ("a control character in a header", get(b"X-A: a\x01b"), bad),
        ("a name of bytes", get(b"X-\xff: b"), bad),
        ("a header without a name", get(b": b"), bad),
        ("a header without a colon", get(b"X-A"), bad),
        ("a name with a space", get(b"X A: b"), bad),
        ("a name in brackets", get(b"X[A]: b"), bad),
        ("two hosts", hosts("Host: theater\r\nHost: elsewhere\r\n"), bad),
        ("no host", hosts(""), bad),
        ("a host with a path", hosts("Host: theater/movies\r\n"), bad),
        ("a host with a user", hosts("Host: theater@elsewhere\r\n"), bad),
        ("a host with a space", hosts("Host: theater elsewhere\r\n"), bad),
    ]
}

/// Invalid request lines.
fn lines() -> Vec<Message> {
    let bad: &[u16] = &[400];
    let line = |line: &[u8]| [line, b"\r\nHost: theater\r\nConnection: close\r\n\r\n"].concat();
    vec![
        ("garbage", b"\x00\x01\x02\x03\xff\xfe\r\n\r\n".to_vec(), bad),
        ("the greeting of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), bad),
        ("the greeting of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), bad),
        ("a word", line(b"GET"), bad),
        ("two words", line(b"GET /movies"), bad),
        ("two spaces", line(b"GET  /movies HTTP/1.1"), bad),
        ("four words", line(b"GET /movies /movies HTTP/1.1"), bad),
        ("no path", line(b"GET movies HTTP/1.1"), bad),
        ("a path of bytes", line(b"GET /movies\x01 HTTP/1.1"), bad),
        ("NUL in the path", line(b"GET /mov\0ies HTTP/1.1"), bad),
        ("NUL in the method", line(b"G\0T /movies HTTP/1.1"), bad),
        ("a method in brackets", line(b"G(T /movies HTTP/1.1"), bad),
        ("HTTP of the future", line(b"GET /movies HTTP/9.9"), bad),
        ("another protocol", line(b"GET /movies SMTP/1.1"), bad),
        ("lower case", line(b"GET /movies http/1.1"), bad),
        ("a broken authority", line(b"GET http://[:: HTTP/1.1"), bad),
        ("a tunnel", line(b"CONNECT elsewhere:443 HTTP/1.1"), bad),
        ("all of the server", line(b"GET * HTTP/1.1"), bad),
        ("another server", line(b"GET http://elsewhere/nothing HTTP/1.1"), &[404]),
        ("an authority alone", line(b"GET elsewhere:443 HTTP/1.1"), bad),
        (
            "bare line feeds throughout",
            b"GET /nothing HTTP/1.1\nHost: theater\nConnection: close\n\n".to_vec(),
            &[400, 404],
        ),
    ]
}

/// Messages that exceed a size limit.
fn sizes(target: Target) -> Vec<Message> {
    let path = target.path;
    let head = |extra: &str| request(&format!("GET {path}"), &[extra], "").into_bytes();
    let many: Vec<String> = (0..200).map(|index| format!("X-{index}: x")).collect();
    let long =
        |length: usize| format!("GET /{} HTTP/1.1\r\nHost: theater\r\n\r\n", "x".repeat(length)).into_bytes();
    let post = |headers: &[&str], body: &str| {
        let headers = [&["Content-Type: application/json", "Connection: close"], headers].concat();
        request(&format!("POST {path}"), &headers, body).into_bytes()
    };
    let too_large = target.refusal(&[413]);
    let text = format!("{{\"userName\":\"{}\"}}", "x".repeat(10 << 20));
    let chunk = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    let chunks = format!("{}0\r\n\r\n", format!("4000\r\n{}\r\n", " ".repeat(0x4000)).repeat(5));
    vec![
        ("a header of 200 KiB", head(&format!("X-A: {}", "x".repeat(200 << 10))), &[431]),
        ("a header of 2 MiB", head(&format!("X-A: {}", "x".repeat(2 << 20))), &[431]),
        ("200 headers", head(&many.join("\r\n")), &[431]),
        ("a URL of 70 KB", long(70_000), &[414]),
        ("a URL of 1 MB", long(1_000_000), &[414]),
        ("a line that never ends", "x".repeat(1_000_000).into_bytes(), &[400, 414]),
        ("a body of 10 MB", post(&[&length(&text)], &text), too_large),
        ("a body of 10 MB in one chunk", post(&["Transfer-Encoding: chunked"], &chunk), too_large),
        ("a body of 80 KiB in chunks", post(&["Transfer-Encoding: chunked"], &chunks), too_large),
        ("a body of an exabyte", post(&["Content-Length: 1152921504606846976"], "{"), too_large),
        (
            "a body of an exabyte, asked for first",
            post(&["Content-Length: 1152921504606846976", "Expect: 100-continue"], ""),
            too_large,
        ),
    ]
}
