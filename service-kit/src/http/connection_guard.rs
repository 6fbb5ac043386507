//! Wraps each connection's socket, for the cases that actix handles without calling a route.
//!
//! A request that can't be parsed as HTTP (a broken request line, ambiguous framing, a head that is too large or too
//! slow) never reaches a route: actix-http answers with a bare status line and closes the connection, and it offers no
//! hook to send more. The API promises a problem for every error, so [`ConnectionGuard`] sits between actix and the
//! socket, recognizes such a bare response by its shape, and writes a problem instead.
//!
//! It also adds a time limit that actix lacks: for a client that starts a second request on a connection and never
//! finishes its head.

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
    http::header_limits::{HeaderLimits, TARGET_MAX},
    http::problem::{PROBLEM_JSON, Problem},
    http::security_headers::SECURITY_HEADERS,
};

/// How long a request may wait for the first byte of its response. Longer than any handler may take.
const RESPONSE_LIMIT: Duration = Duration::from_secs(20);

/// How long a connection may be idle after a byte of a response. Longer than the server's keep-alive, and longer than
/// the interval between two heartbeats of an event stream.
const IDLE_LIMIT: Duration = Duration::from_secs(90);

/// How long, and for how many bytes, to keep reading after an error response. Closing a socket that holds unread bytes
/// resets the connection, and the client would lose the response.
const LINGER_LIMIT: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// If the first line of a rejected request is longer than this, its length was the reason: a valid line with the longest
/// target is shorter.
const REQUEST_LINE_MAX: usize = 2 * TARGET_MAX;

/// The end of every head.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// A socket, as actix reads and writes it.
pub(crate) struct ConnectionGuard<T> {
    io: T,
    /// When reading fails with a timeout. Unset until the first bytes: actix itself limits that wait.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes of a request have arrived, and no byte of a response has been written since.
    awaiting_response: bool,
    request_line: RequestLine,
    limits: HeaderLimits,
    error_response: Option<ErrorResponse>,
}

/// How much of a request's first line has arrived.
#[derive(Clone, Copy, Default)]
struct RequestLine {
    bytes: usize,
    is_complete: bool,
}

/// A problem that replaces actix's bare response while it is being written.
struct ErrorResponse {
    bytes: Vec<u8>,
    written: usize,
    /// How many of actix's bytes it replaces.
    replaced_bytes: usize,
    linger: Option<Pin<Box<Sleep>>>,
    lingered_bytes: usize,
}

impl<T> ConnectionGuard<T> {
    pub(crate) fn new(io: T, limits: HeaderLimits) -> Self {
        Self {
            io,
            deadline: None,
            awaiting_response: false,
            request_line: RequestLine::default(),
            limits,
            error_response: None,
        }
    }

    /// Records the arrival of a request's bytes.
    fn on_received(&mut self, bytes: &[u8]) {
        // Only the first bytes set the deadline: sending the rest slowly doesn't extend it.
        if !std::mem::replace(&mut self.awaiting_response, true) {
            self.request_line = RequestLine::default();
            self.set_deadline(RESPONSE_LIMIT);
        }
        let line = &mut self.request_line;
        if !line.is_complete {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            line.bytes += end.unwrap_or(bytes.len());
            line.is_complete = end.is_some();
        }
    }

    /// Corrects the parser's status: it reports a target that is too long as an invalid target or as headers that are
    /// too large.
    fn corrected_status(&self, status: StatusCode) -> StatusCode {
        match status {
            StatusCode::BAD_REQUEST | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
                if self.request_line.bytes > REQUEST_LINE_MAX =>
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
        let filled_before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if buf.filled().len() > filled_before {
                    this.on_received(&buf.filled()[filled_before..]);
                }
                Poll::Ready(result)
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
        this.awaiting_response = false;
        this.set_deadline(IDLE_LIMIT);
        if let Some(response) = &mut this.error_response {
            return response.poll(&mut this.io, cx);
        }
        match find_bare_error(buf) {
            None => Pin::new(&mut this.io).poll_write(cx, buf),
            // The responses to earlier requests go first, unchanged.
            Some((start, _)) if start > 0 => Pin::new(&mut this.io).poll_write(cx, &buf[..start]),
            Some((_, status)) => {
                let response = ErrorResponse::new(this.corrected_status(status), &this.limits, buf.len());
                this.error_response.insert(response).poll(&mut this.io, cx)
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

impl ErrorResponse {
    fn new(status: StatusCode, limits: &HeaderLimits, replaced_bytes: usize) -> Self {
        let problem = Problem::for_status(status, detail(status, limits));
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
        Self { bytes, written: 0, replaced_bytes, linger: None, lingered_bytes: 0 }
    }

    /// Writes the problem, keeps reading for a while, and then reports actix's bytes as written.
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
        // The client sees the end of the response even if it is still sending.
        ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER_LIMIT)));
        let mut buffer = [0; 8192];
        while self.lingered_bytes < LINGER_BYTES_MAX && linger.as_mut().poll(cx).is_pending() {
            let mut discarded = ReadBuf::new(&mut buffer);
            match ready!(Pin::new(&mut *io).poll_read(cx, &mut discarded)) {
                Ok(()) if !discarded.filled().is_empty() => self.lingered_bytes += discarded.filled().len(),
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(self.replaced_bytes))
    }
}

/// The problem's detail for a request that never reached a route.
fn detail(status: StatusCode, limits: &HeaderLimits) -> String {
    match status {
        StatusCode::BAD_REQUEST => "the bytes received are not a valid HTTP/1.1 request".to_owned(),
        StatusCode::REQUEST_TIMEOUT => "the request's head did not arrive in time".to_owned(),
        StatusCode::URI_TOO_LONG => format!("a URL has at most {TARGET_MAX} bytes after its host"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => limits.detail(),
        _ => String::new(),
    }
}

/// Finds actix's own bare error in `buf`: where it starts, and its status.
///
/// It is always the last response in the buffer: the head of an error with neither a body nor a `Content-Type`. This
/// server's own errors have both, and a JSON body can't contain a raw line break, so no body is mistaken for a head.
fn find_bare_error(buf: &[u8]) -> Option<(usize, StatusCode)> {
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
    let contains = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    let is_bare =
        is_error && ends_here && contains(b"\r\ncontent-length: 0\r\n") && !contains(b"\r\ncontent-type:");
    is_bare.then(|| StatusCode::from_bytes(code).ok().map(|status| (start, status))).flatten()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const BARE_ERROR: &[u8] =
        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: now\r\n\r\n";
    const OK_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

    #[test]
    fn a_bare_error_is_recognized_by_its_shape() {
        assert_eq!(find_bare_error(BARE_ERROR), Some((0, StatusCode::BAD_REQUEST)));
        assert_eq!(
            find_bare_error(&[OK_RESPONSE, BARE_ERROR].concat()),
            Some((OK_RESPONSE.len(), StatusCode::BAD_REQUEST))
        );
        for other in [
            OK_RESPONSE,
            b"",
            b"\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nContent-Type: application/problem+json\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 20\r\n\r\n",
            b"HTTP/1.1 40",
            &BARE_ERROR[..BARE_ERROR.len() - 1],
        ] {
            assert_eq!(find_bare_error(other), None, "{}", String::from_utf8_lossy(other));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_problem_follows_earlier_responses() {
        // Small, so that many partial writes are needed.
        let (server, mut client) = duplex(16);
        let mut connection = ConnectionGuard::new(server, HeaderLimits::default());
        let write = async {
            connection.write_all(&[OK_RESPONSE, BARE_ERROR].concat()).await.unwrap();
        };
        let mut text = String::new();
        let both = async { tokio::join!(write, client.read_to_string(&mut text)).1 };
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
    async fn an_unfinished_request_times_out() {
        let (server, mut client) = duplex(1024);
        let mut connection = ConnectionGuard::new(server, HeaderLimits::default());
        let mut buffer = [0; 64];
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_ne!(connection.read(&mut buffer).await.unwrap(), 0);
        connection.write_all(OK_RESPONSE).await.unwrap();
        // Between requests the limit is longer.
        tokio::time::timeout(RESPONSE_LIMIT * 2, connection.read(&mut buffer)).await.unwrap_err();
        let start = Instant::now();
        client.write_all(b"GET / HT").await.unwrap();
        assert_ne!(connection.read(&mut buffer).await.unwrap(), 0);
        tokio::time::timeout(RESPONSE_LIMIT / 2, connection.read(&mut buffer)).await.unwrap_err();
        client.write_all(b"T").await.unwrap();
        assert_ne!(connection.read(&mut buffer).await.unwrap(), 0);
        let error = connection.read(&mut buffer).await.unwrap_err();
        assert_eq!(
            (error.kind(), start.elapsed().as_secs()),
            (io::ErrorKind::TimedOut, RESPONSE_LIMIT.as_secs())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_started_before_the_previous_response_times_out_too() {
        let (server, mut client) = duplex(1024);
        let mut connection = ConnectionGuard::new(server, HeaderLimits::default());
        client.write_all(b"GET / HTTP/1.1\r\n\r\nGET / HT").await.unwrap();
        assert_ne!(connection.read(&mut [0; 64]).await.unwrap(), 0);
        connection.write_all(OK_RESPONSE).await.unwrap();
        let error = connection.read(&mut [0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
