//! How connections to upstreams are made.
//!
//! awc takes the end of a connection for the end of a chunked answer, so that one that was cut short would
//! pass for a whole one. On these connections the end is an error: every answer of a service says where it
//! ends, and a connection that ends before has broken.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_service::ServiceExt as _;
use actix_web::rt::net::{ActixStream, Ready, TcpStream};
use awc::{Client, Connector};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Connections to upstreams that one worker has open at once; more requests wait, within their limit.
const CONNECTIONS_MAX: usize = 2000;

/// How long an idle connection is kept: less than a service that stops waits (`DRAIN_DELAY_SECS`), so that it is either used
/// meanwhile, and told to be the last time, or given up here, and never closed under a request.
const IDLE_LIMIT: Duration = Duration::from_secs(3);

/// A worker's client: it follows no redirects, those are the client's to follow, and leaves time to the caller.
pub(crate) fn client(connect_limit: Duration) -> Client {
    let tcp = actix_tls::connect::Connector::default().service().map(
        |connection: actix_tls::connect::Connection<_, TcpStream>| {
            let (io, rest) = connection.replace_io(());
            // A request is written at once: waiting for more only delays it. Without it it is merely slower.
            if let Err(error) = io.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY is not set");
            }
            rest.replace_io(Whole(io)).1
        },
    );
    let connector = Connector::new()
        .connector(tcp)
        .timeout(connect_limit)
        .limit(CONNECTIONS_MAX)
        .conn_keep_alive(IDLE_LIMIT);
    Client::builder().connector(connector).disable_redirects().disable_timeout().finish()
}

/// A connection whose end is an error.
#[derive(Debug)]
struct Whole<T>(T);

impl<T: AsyncRead + Unpin> AsyncRead for Whole<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.get_mut().0).poll_read(cx, buf))?;
        let ended = buf.filled().len() == before && buf.remaining() > 0;
        Poll::Ready(if ended { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Whole<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl<T: ActixStream> ActixStream for Whole<T> {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.0.poll_read_ready(cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.0.poll_write_ready(cx)
    }
}
