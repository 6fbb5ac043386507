//! The HTTP client for the replicas.
//!
//! awc takes the end of a connection for the end of a chunked response, so that a response that was cut short would
//! look complete. [`EofAsError`] makes the end of a connection an error: every response of a service says where it
//! ends, so a connection that ends before that is broken.

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

/// Connections to one service that a worker has open at once. Further requests wait, within their timeout.
const CONNECTIONS_MAX: usize = 2000;

/// How long an idle connection is kept: less than `DRAIN_DELAY_SECS`, for which a service that stops still accepts
/// requests. In that time a connection is either used, and answered with `Connection: close`, or closed here. So the
/// service never closes a connection while a request is sent on it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// A worker's client for one service. It follows no redirects, which are for the gateway's client to follow, and has
/// no timeout beyond connecting: the caller sets one.
pub(crate) fn client(connect_timeout: Duration) -> Client {
    let tcp = actix_tls::connect::Connector::default().service().map(
        |connection: actix_tls::connect::Connection<_, TcpStream>| {
            let (io, rest) = connection.replace_io(());
            // A request is written in one go, so Nagle's algorithm would only delay it. If this fails it is merely slower.
            if let Err(error) = io.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY is not set");
            }
            rest.replace_io(EofAsError(io)).1
        },
    );
    let connector = Connector::new()
        .connector(tcp)
        .timeout(connect_timeout)
        .limit(CONNECTIONS_MAX)
        .conn_keep_alive(IDLE_TIMEOUT);
    Client::builder().connector(connector).disable_redirects().disable_timeout().finish()
}

/// A connection whose end of file is an error.
#[derive(Debug)]
struct EofAsError<T>(T);

impl<T: AsyncRead + Unpin> AsyncRead for EofAsError<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.get_mut().0).poll_read(cx, buf))?;
        let ended = buf.filled().len() == before && buf.remaining() > 0;
        Poll::Ready(if ended { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for EofAsError<T> {
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

impl<T: ActixStream> ActixStream for EofAsError<T> {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.0.poll_read_ready(cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.0.poll_write_ready(cx)
    }
}
