//! Services that behave and misbehave.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use service_kit::{
    http::health::Health,
    http::{Server, bind},
    telemetry::metrics::Metrics,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running service. Dropping it stops it.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    hits: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Upstream {
    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// A service that answers with the request that it received.
pub(crate) fn echo(name: &'static str) -> Upstream {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Server::new(listener, Metrics::new(), Health::new());
    server.workers = 1;
    let stop = CancellationToken::new();
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = hits.clone();
    tokio::spawn(server.run(stop.clone(), move |config| {
        let hits = counted.clone();
        let answer = move |req: HttpRequest, body: web::Bytes| {
            hits.fetch_add(1, Ordering::SeqCst);
            let headers: Vec<_> = req
                .headers()
                .iter()
                .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap_or("?")]))
                .collect();
            let received = json!({
                "service": name,
                "method": req.method().as_str(),
                "target": req.uri().to_string(),
                "headers": headers,
                "body": String::from_utf8_lossy(&body),
            });
            std::future::ready(
                HttpResponse::Ok()
                    .insert_header(("location", "/movies/7"))
                    .insert_header(("link", "</movies?cursor=x>; rel=\"next\""))
                    .json(received),
            )
        };
        config.service(web::resource("/{all}*").route(web::to(answer)));
    }));
    Upstream { address, hits, _stop: stop.drop_guard() }
}

/// A service that reads a request's head, writes `answer`, and closes the connection, unless it is to `hold` it.
pub(crate) async fn scripted(answer: &'static [u8], hold: bool) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hits = Arc::new(AtomicUsize::new(0));
    let stop = CancellationToken::new();
    let counted = hits.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        let mut held = Vec::new();
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            read_head(&mut connection).await;
            counted.fetch_add(1, Ordering::SeqCst);
            connection.write_all(answer).await.unwrap();
            if hold {
                held.push(connection);
            }
        }
    }));
    Upstream { address, hits, _stop: stop.drop_guard() }
}

pub(crate) async fn read_head(connection: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        assert_ne!(connection.read_buf(&mut head).await.unwrap(), 0, "the gateway sends a head");
    }
}

/// An address on which no process listens.
pub(crate) async fn unreachable_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
