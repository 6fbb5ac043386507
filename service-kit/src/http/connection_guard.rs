//! The bytes of a connection, where actix answers by itself.
//!
//! What can't be parsed as HTTP (a broken request line, ambiguous framing, a head that is too large or too
//! slow) never reaches a route: actix-http answers it with a bare status line and closes, and offers no hook
//! to say more. The contract promises a problem for every error, so [`ConnectionGuard`] stands between actix and the
//! socket, knows such an answer by its shape, and writes the problem in its stead.
//!
//! It also bounds what actix leaves open: a client that starts a request on a connection already used and
//! never finishes its head.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use crate::{
    http::problem::{PROBLEM_JSON, Problem},
    http::{
        header_limits::{HeaderLimits, TARGET_MAX},
        security_headers::SECURITY_HEADERS,
    },
};

/// How long a request that was begun may go without a byte of an answer. Longer than any handler may take.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// How long nothing at all may happen after a byte of an answer. Longer than the server's keep-alive, and than a
/// stream of events may be without a sign of life.
const IDLE_LIMIT: Duration = Duration::from_secs(90);

/// How long, and for how many bytes, a refused client is listened to, so that it can read why: closing on
/// unread bytes resets the connection, and with it the answer.
const LINGER_LIMIT: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A first line that is longer than this was refused for its length: a good one of the longest target is shorter.
const LINE_MAX: usize = 2 * TARGET_MAX;

/// The last line of every head.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// A connection, between actix and its socket.
pub(crate) struct ConnectionGuard<T> {
    io: T,
    /// When to give up; there is none until the first bytes, which actix itself waits for.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes of a request have come, and none of an answer have gone since.
    asked: bool,
    /// The first line of what was asked: its bytes so far, and whether it has ended.
    line: (usize, bool),
    bounds: HeaderLimits,
    refusal: Option<Refusal>,
}

/// The problem that is being written in place of actix's bare answer.
struct Refusal {
    bytes: Vec<u8>,
    written: usize,
    /// How many of actix's bytes it stands for.
    replaces: usize,
    linger: Option<Pin<Box<Sleep>>>,
    lingered_bytes: usize,
}

impl<T> ConnectionGuard<T> {
    pub(crate) fn new(io: T, bounds: HeaderLimits) -> Self {
        Self { io, deadline: None, asked: false, line: (0, false), bounds, refusal: None }
    }

    /// Bytes of a request have come.
    fn received(&mut self, bytes: &[u8]) {
        // Only the first bytes start the clock: dripping more of them gains no time.
        if !std::mem::replace(&mut self.asked, true) {
            self.line = (0, false);
            self.set_deadline(SILENCE_LIMIT);
        }
        if let (length, false) = self.line {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            self.line = (length + end.unwrap_or(bytes.len()), end.is_some());
        }
    }

    /// The parser doesn't tell a target that is too long from one that is none, or from headers that are too large.
    fn reason(&self, status: StatusCode) -> StatusCode {
        match status {
            StatusCode::BAD_REQUEST | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
                if self.line.0 > LINE_MAX =>
            {
                StatusCode::URI_TOO_LONG
            }
            _ => status,
        }
    }

    fn set_deadline(&mut self, limit: Duration) {
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().reset(Instant::now() + limit),
            None => self.deadline = Some(Box::pin(sleep(limit))),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ConnectionGuard<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(outcome) => {
                if buf.filled().len() > before {
                    this.received(&buf.filled()[before..]);
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                if let Some(deadline) = &mut this.deadline {
                    ready!(deadline.as_mut().poll(cx));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ConnectionGuard<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.asked = false;
        this.set_deadline(IDLE_LIMIT);
        if let Some(refusal) = &mut this.refusal {
            return refusal.poll(&mut this.io, cx);
        }
        match bare_error(buf) {
            None => Pin::new(&mut this.io).poll_write(cx, buf),
            // Answers to earlier requests first, as they are.
            Some((start, _)) if start > 0 => Pin::new(&mut this.io).poll_write(cx, &buf[..start]),
            Some((_, status)) => {
                let refusal = Refusal::new(this.reason(status), &this.bounds, buf.len());
                this.refusal.insert(refusal).poll(&mut this.io, cx)
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl Refusal {
    fn new(status: StatusCode, bounds: &HeaderLimits, replaces: usize) -> Self {
        let problem = Problem::for_status(status, detail(status, bounds));
        let body = problem.body();
        let security: String =
            SECURITY_HEADERS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "HTTP/1.1 {} {}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\nconnection: close\r\n{security}\r\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
            body.len(),
        );
        let bytes = (head + &body).into_bytes();
        Self { bytes, written: 0, replaces, linger: None, lingered_bytes: 0 }
    }

    /// Writes the problem, then lingers, then says that actix's bytes are written.
    fn poll(
        &mut self,
        io: &mut (impl AsyncRead + AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        while self.written < self.bytes.len() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &self.bytes[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        // The client sees the end of the answer, whatever it still sends.
        ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER_LIMIT)));
        let mut space = [0; 8192];
        while self.lingered_bytes < LINGER_BYTES_MAX && linger.as_mut().poll(cx).is_pending() {
            let mut unread = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut *io).poll_read(cx, &mut unread)) {
                Ok(()) if !unread.filled().is_empty() => self.lingered_bytes += unread.filled().len(),
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(self.replaces))
    }
}

/// What is told to a client whose request never reached a route.
fn detail(status: StatusCode, bounds: &HeaderLimits) -> String {
    match status {
        StatusCode::BAD_REQUEST => "the bytes received are not a valid HTTP/1.1 request".to_owned(),
        StatusCode::REQUEST_TIMEOUT => "the request's head did not arrive in time".to_owned(),
        StatusCode::URI_TOO_LONG => format!("a URL has at most {TARGET_MAX} bytes after its host"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => bounds.detail(),
        _ => String::new(),
    }
}

/// Where in `buf` actix's own bare error starts, and its status.
///
/// It is always the last thing in the buffer: a head of an error without a body and without a
/// `Content-Type`. Errors of ours have both; a JSON body can't hold a bare line break, so none is mistaken
/// for a head.
fn bare_error(buf: &[u8]) -> Option<(usize, StatusCode)> {
    const START: &[u8] = b"HTTP/1.";
    if !buf.ends_with(HEAD_END) {
        return None;
    }
    let start = buf.windows(START.len()).rposition(|window| window == START)?;
    let head = &buf[start..];
    let code = head.get(9..12)?;
    let is_error = matches!(code.first(), Some(b'4' | b'5'));
    let ends_here =
        head.windows(HEAD_END.len()).position(|window| window == HEAD_END)? + HEAD_END.len() == head.len();
    let head = head.to_ascii_lowercase();
    let has = |field: &[u8]| head.windows(field.len()).any(|window| window == field);
    let bare = is_error && ends_here && has(b"\r\ncontent-length: 0\r\n") && !has(b"\r\ncontent-type:");
    bare.then(|| StatusCode::from_bytes(code).ok().map(|status| (start, status))).flatten()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const BARE: &[u8] =
        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: now\r\n\r\n";
    const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

    #[test]
    fn knows_a_bare_error_by_its_shape() {
        assert_eq!(bare_error(BARE), Some((0, StatusCode::BAD_REQUEST)));
        assert_eq!(bare_error(&[FINE, BARE].concat()), Some((FINE.len(), StatusCode::BAD_REQUEST)));
        for other in [
            FINE,
            b"",
            b"\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nContent-Type: application/problem+json\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 20\r\n\r\n",
            b"HTTP/1.1 40",
            &BARE[..BARE.len() - 1],
        ] {
            assert_eq!(bare_error(other), None, "{}", String::from_utf8_lossy(other));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn writes_the_problem_after_earlier_answers() {
        // Small, so that it takes many partial writes.
        let (near, mut far) = duplex(16);
        let mut wire = ConnectionGuard::new(near, HeaderLimits::default());
        let writing = async {
            wire.write_all(&[FINE, BARE].concat()).await.unwrap();
        };
        let mut text = String::new();
        let both = async { tokio::join!(writing, far.read_to_string(&mut text)).1 };
        tokio::time::timeout(IDLE_LIMIT, both).await.expect("the connection is closed").unwrap();
        let rest = text.strip_prefix("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        let (head, body) = rest.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n"),
            "{head}"
        );
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["type"], "/problems/bad-request");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_begun_must_be_ended() {
        let (near, mut far) = duplex(1024);
        let mut wire = ConnectionGuard::new(near, HeaderLimits::default());
        let mut space = [0; 64];
        far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_ne!(wire.read(&mut space).await.unwrap(), 0);
        wire.write_all(FINE).await.unwrap();
        // Between requests there is more time.
        tokio::time::timeout(SILENCE_LIMIT * 2, wire.read(&mut space)).await.unwrap_err();
        let start = Instant::now();
        far.write_all(b"GET / HT").await.unwrap();
        assert_ne!(wire.read(&mut space).await.unwrap(), 0);
        tokio::time::timeout(SILENCE_LIMIT / 2, wire.read(&mut space)).await.unwrap_err();
        far.write_all(b"T").await.unwrap();
        assert_ne!(wire.read(&mut space).await.unwrap(), 0);
        let error = wire.read(&mut space).await.unwrap_err();
        assert_eq!(
            (error.kind(), start.elapsed().as_secs()),
            (io::ErrorKind::TimedOut, SILENCE_LIMIT.as_secs())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_begun_before_the_last_answer_is_bounded_too() {
        let (near, mut far) = duplex(1024);
        let mut wire = ConnectionGuard::new(near, HeaderLimits::default());
        far.write_all(b"GET / HTTP/1.1\r\n\r\nGET / HT").await.unwrap();
        assert_ne!(wire.read(&mut [0; 64]).await.unwrap(), 0);
        wire.write_all(FINE).await.unwrap();
        let error = wire.read(&mut [0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
