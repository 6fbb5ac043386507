//! The response for the client: streamed as it arrives, neither buffered nor decompressed.

use std::time::Duration;

use actix_web::{HttpResponse, body::SizedStream, error::PayloadError, http::header, web::Bytes};
use awc::ClientResponse;
use futures_util::{Stream, StreamExt as _, stream};
use service_kit::http::Stopping;

use crate::headers;

/// The media type of responses that end when the gateway stops.
const EVENT_STREAM: &str = "text/event-stream";

/// The replica's `response` for the client. Each chunk must arrive within `chunk_timeout`.
pub(super) fn stream(
    response: ClientResponse,
    chunk_timeout: Duration,
    service: &'static str,
    Stopping(stopping): Stopping,
) -> HttpResponse {
    let mut builder = HttpResponse::build(response.status());
    for header in headers::for_client(response.headers()) {
        builder.append_header(header);
    }
    let length = response
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_events = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == EVENT_STREAM);
    let chunks = chunks(response, chunk_timeout, service);
    match length {
        // The client connects again, to a gateway that still runs.
        None if is_events => builder.streaming(chunks.take_until(stopping.cancelled_owned())),
        // The response to a HEAD has a length too, and no chunks.
        Some(length) => builder.body(SizedStream::new(length, chunks)),
        None => builder.streaming(chunks),
    }
}

/// The chunks of the body. If one is late, the stream ends with an error, which closes the client's connection.
fn chunks(
    response: ClientResponse,
    timeout: Duration,
    service: &'static str,
) -> impl Stream<Item = Result<Bytes, PayloadError>> + 'static {
    stream::unfold(Some(response), move |response| async move {
        let mut response = response?;
        let chunk = match tokio::time::timeout(timeout, response.next()).await {
            Ok(chunk) => chunk?,
            Err(_) => Err(PayloadError::Io(std::io::ErrorKind::TimedOut.into())),
        };
        if let Err(error) = &chunk {
            tracing::warn!(service, %error, "an answer was cut short");
            return Some((chunk, None));
        }
        Some((chunk, Some(response)))
    })
}
