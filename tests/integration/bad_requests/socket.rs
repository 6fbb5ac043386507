//! Sends raw bytes over TCP, which no HTTP client would send, and parses all responses.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server must send data or close within this time.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// One of the responses on a connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// Sends `bytes`, and reads responses until the server closes.
///
/// # Errors
/// If the server does not close, or a response is incomplete or not HTTP.
pub(crate) async fn send(port: u16, bytes: &[u8]) -> anyhow::Result<Vec<Answer>> {
    let (mut reading, mut writing) = TcpStream::connect(("127.0.0.1", port)).await?.into_split();
    let write = async {
        // An error is fine: the server may refuse and close before it has read everything.
        writing.write_all(bytes).await.ok();
        // Returned, so that this half stays open while the response is read.
        writing
    };
    let read = async {
        let mut received = Vec::new();
        let mut chunk = vec![0; 16 * 1024];
        loop {
            match tokio::time::timeout(READ_TIMEOUT, reading.read(&mut chunk)).await {
                Ok(Ok(0)) => return Ok(received),
                Ok(Ok(length)) => received.extend_from_slice(&chunk[..length]),
                // The response came before the reset.
                Ok(Err(_)) if !received.is_empty() => return Ok(received),
                Ok(Err(error)) => bail!("cut: {error}"),
                Err(_) => bail!("still open after {READ_TIMEOUT:?}: {}", String::from_utf8_lossy(&received)),
            }
        }
    };
    let (_writing, received) = tokio::join!(write, read);
    let received = String::from_utf8(received?)?;
    answers(&received).with_context(|| received.clone())
}

fn answers(mut text: &str) -> anyhow::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    while !text.is_empty() {
        let (head, rest) = text.split_once("\r\n\r\n").context("no end of the head")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).context("not HTTP/1.1")?;
        let status: u16 = status.get(..3).context("no status")?.parse()?;
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').context("no header")?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: String::new() };
        let length: usize = match answer.header("content-length") {
            Some(length) => length.parse()?,
            None if status == 100 => 0,
            None => bail!("no length"),
        };
        ensure!(rest.len() >= length, "{length} bytes are promised, {} came", rest.len());
        answer.body = rest.get(..length).context("a character cut in two")?.to_owned();
        text = &rest[length..];
        answers.push(answer);
    }
    Ok(answers)
}
