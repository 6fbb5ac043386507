//! A gateway, and a client that writes and reads the bytes of its connections.

use std::{net::SocketAddr, time::Duration};

use clap::Parser as _;
use gateway::{Application, Config, Timeouts};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::upstream::unreachable_address;

/// Longer than anything here takes; a test that reaches it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
}

pub(crate) const SHORT: Timeouts = Timeouts {
    connect: Duration::from_secs(1),
    response: Duration::from_millis(100),
    chunk: Duration::from_millis(100),
};

/// A gateway with these replicas of the movie service. The other services can't be reached.
pub(crate) async fn gateway(movies: &[SocketAddr], timeouts: Timeouts) -> Gateway {
    let unreachable = unreachable_address().await;
    start([movies, &[unreachable], &[unreachable], &[unreachable]], timeouts)
}

pub(crate) fn start(services: [&[SocketAddr]; 4], timeouts: Timeouts) -> Gateway {
    let flags = ["--movie-url", "--reservation-url", "--notification-url", "--reservation-list-url"];
    let mut args = vec!["gateway".to_owned(), "--bind-address".to_owned(), "127.0.0.1:0".to_owned()];
    for (flag, addresses) in flags.into_iter().zip(services) {
        let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
        args.extend([flag.to_owned(), urls.join(",")]);
    }
    let application = Application::build_with(Config::try_parse_from(args).unwrap(), timeouts).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], application.port()));
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(application.run(shutdown.clone()));
    Gateway { address, shutdown, server }
}

impl Gateway {
    /// Sends `bytes`, and reads to the end of the connection.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let mut answer = Vec::new();
        let both = async { tokio::join!(writing.write_all(bytes), reading.read_to_end(&mut answer)) };
        let (_, read) = tokio::time::timeout(DEADLINE, both).await.expect("the connection is closed");
        read.unwrap();
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", "").await
    }

    pub(crate) async fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: theater.example\r\nconnection: close\r\n");
        Answer::parse(&self.raw(format!("{head}{headers}{length}\r\n{body}").as_bytes()).await)
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.server).await.expect("the gateway drains").unwrap().unwrap();
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: bytes[end + 4..].to_vec() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// A header field that the echoing service received.
    pub(crate) fn received(&self, name: &str) -> Option<String> {
        let received = self.json();
        let headers = received["headers"].as_array().unwrap();
        headers.iter().find(|header| header[0] == name).map(|header| header[1].as_str().unwrap().to_owned())
    }

    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, detail: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], json!(status));
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
    }
}
