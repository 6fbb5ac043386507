//! Reads a request's JSON body; the problem for an invalid one says what is wrong.

use std::{future::Future, pin::Pin, time::Duration};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header,
    web::{Bytes, BytesMut},
};
use futures_util::StreamExt as _;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use crate::http::problem::Problem;

/// The largest body accepted, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;

/// How long a client may take to send its body. Less than the request's own limit, so that a slow client gets 408 (the
/// client is too slow) and not 503 (the server is).
pub const BODY_TIMEOUT: Duration = Duration::from_secs(4);

/// Extracts a JSON body.
///
/// 413 over [`BODY_LIMIT`]; 415 unless `Content-Type` is `application/json` or `…+json`, and for any
/// `Content-Encoding`; 400 for a body that is not UTF-8, not JSON, or not a `T`, the last with a pointer to the field;
/// 408 after [`BODY_TIMEOUT`].
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Json<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let header_check = check_content_type(req).and_then(|()| check_content_encoding(req));
        let content_length = content_length(req);
        let payload = payload.take();
        Box::pin(async move {
            header_check?;
            parse(&read(payload, content_length).await?).map(Json)
        })
    }
}

/// Reads the whole body, within [`BODY_LIMIT`] and [`BODY_TIMEOUT`]. A body whose `content_length` is too large is
/// rejected unread.
pub async fn read(payload: Payload, content_length: Option<u64>) -> Result<Bytes, Problem> {
    if content_length.is_some_and(|length| length > BODY_LIMIT as u64) {
        return Err(too_large());
    }
    tokio::time::timeout(BODY_TIMEOUT, collect(payload)).await.unwrap_or_else(|_| {
        Err(Problem::request_timeout(format!("the body must arrive within {} s", BODY_TIMEOUT.as_secs())))
    })
}

/// The value of `Content-Length`.
#[must_use]
pub fn content_length(req: &HttpRequest) -> Option<u64> {
    req.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(mut payload: Payload) -> Result<Bytes, Problem> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| match error {
            PayloadError::Overflow => too_large(),
            error => Problem::bad_request(format!("the body cannot be read: {error}")),
        })?;
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn too_large() -> Problem {
    Problem::payload_too_large(format!("a body has at most {BODY_LIMIT} bytes"))
}

fn check_content_type(req: &HttpRequest) -> Result<(), Problem> {
    let value = req.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let media_type =
        value.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let before_suffix = media_type.strip_suffix("+json").and_then(|rest| rest.split_once('/'));
    if media_type == "application/json"
        || before_suffix.is_some_and(|(kind, subtype)| !kind.is_empty() && !subtype.is_empty())
    {
        return Ok(());
    }
    Err(Problem::unsupported_media_type("Content-Type must be application/json"))
}

/// Compressed bodies are rejected: bodies are small, and a compressed one could expand to any size.
fn check_content_encoding(req: &HttpRequest) -> Result<(), Problem> {
    let codings = req.headers().get_all(header::CONTENT_ENCODING);
    if codings.into_iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    Err(Problem::unsupported_media_type("a body is taken as it is: without Content-Encoding")
        .with_header(header::ACCEPT_ENCODING, "identity"))
}

/// Parses `bytes` as a `T`; the problem points to the invalid field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Problem::bad_request(format!("the body is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    if !text.trim_ascii_start().starts_with('{') {
        // serde would also accept an array for a struct, by position.
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| not_json(&error))?;
        return Err(Problem::bad_request("the body must be a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| invalid(&error))?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn invalid(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let cause = error.inner();
    if cause.classify() != Category::Data {
        return not_json(cause);
    }
    let mut pointer = pointer(error.path());
    let message = cause.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    // serde reports these for the object, not for the field.
    for (prefix, detail) in [
        ("missing field `", "is missing"),
        ("duplicate field `", "stands twice"),
        ("unknown field `", "is unknown"),
    ] {
        if let Some((name, _)) = message.strip_prefix(prefix).and_then(|rest| rest.split_once('`')) {
            if pointer.rsplit('/').next() != Some(&*escape_pointer(name)) {
                pointer = format!("{pointer}/{}", escape_pointer(name));
            }
            return Problem::bad_field(pointer, detail);
        }
    }
    Problem::bad_field(pointer, message)
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::bad_request(format!("the body is not JSON: {error}"))
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", escape_pointer(key)),
            Segment::Enum { variant } => format!("/{}", escape_pointer(variant)),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// Escapes a name for a JSON pointer (RFC 6901).
fn escape_pointer(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use actix_web::{App, HttpResponse, http::StatusCode, test, web};
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use crate::{
        http::problem::PROBLEM_JSON,
        http::validation::{IntegerOrString, StringOrNumber},
    };

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Order {
        movie_name: String,
        count: IntegerOrString,
        user_id: Option<StringOrNumber>,
    }

    async fn handler(Json(order): Json<Order>) -> HttpResponse {
        let user = order.user_id.map(|user| user.0);
        HttpResponse::Ok().json((order.movie_name, order.count.0, user))
    }

    async fn post(content_type: &str, body: impl Into<Bytes>) -> (StatusCode, Value) {
        let app = test::init_service(App::new().route("/", web::post().to(handler))).await;
        let request = test::TestRequest::post().insert_header(("content-type", content_type));
        let response = test::call_service(&app, request.set_payload(body).to_request()).await;
        let status = response.status();
        if status != StatusCode::OK {
            assert_eq!(response.headers().get("content-type").unwrap(), PROBLEM_JSON);
        }
        (status, test::read_body_json(response).await)
    }

    #[actix_web::test]
    async fn numbers_may_come_as_text_and_text_as_numbers() {
        for content_type in
            ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"]
        {
            let (status, answer) =
                post(content_type, r#"{"movieName":"LALALand","count":"45","userId":1}"#).await;
            assert_eq!((status.as_u16(), answer), (200, serde_json::json!(["LALALand", 45, "1"])));
        }
    }

    #[actix_web::test]
    async fn problems_point_to_the_invalid_field() {
        for (body, pointer, detail) in [
            (r#"{"movieName":"x"}"#, "/count", "is missing"),
            (r#"{"movieName":"x","count":1,"count":2}"#, "/count", "stands twice"),
            (r#"{"movieName":7,"count":1}"#, "/movieName", "invalid type: integer `7`, expected a string"),
            (r#"{"movieName":null,"count":1}"#, "/movieName", "invalid type: null, expected a string"),
            (r#"{"movieName":"x","count":1.5}"#, "/count", "expected a whole number"),
            (r#"{"movieName":"x","count":"many"}"#, "/count", "expected a whole number"),
            (r#"{"movieName":"x","count":[]}"#, "/count", "expected a whole number"),
            (r#"{"movieName":"x","count":1,"userId":{}}"#, "/userId", "expected a string"),
        ] {
            let (status, answer) = post("application/json", body).await;
            assert_eq!(status, 400, "{body}");
            assert_eq!(answer["errors"][0]["pointer"], pointer, "{body}: {answer}");
            assert!(answer["errors"][0]["detail"].as_str().unwrap().contains(detail), "{body}: {answer}");
        }
    }

    #[actix_web::test]
    async fn bodies_that_are_not_json_are_rejected() {
        let deep = "[".repeat(10_000);
        let deeper = format!(r#"{{"ignored":{deep}"#);
        for (body, detail) in [
            (&b""[..], "not JSON"),
            (b"{", "not JSON"),
            (b"{\"movieName\":\"x\",}", "not JSON"),
            (b"{\"movieName\":\"x\",\"count\":1} x", "not JSON"),
            (b"\xff\xfe", "not UTF-8 at byte 0"),
            (b"{\"movieName\":\"\xc3\x28\",\"count\":1}", "not UTF-8 at byte 14"),
            (b"{\"movieName\":\"\\ud800\",\"count\":1}", "not JSON"),
            (b"{\"movieName\":\"a\0b\",\"count\":1}", "not JSON"),
            (b"[]", "must be a JSON object"),
            (b"[\"LALALand\", 45]", "must be a JSON object"),
            (b" 7", "must be a JSON object"),
            (deep.as_bytes(), "not JSON"),
            (deeper.as_bytes(), "not JSON"),
        ] {
            let (status, answer) = post("application/json", body.to_vec()).await;
            assert_eq!(status, 400, "{answer}");
            assert!(answer["detail"].as_str().unwrap().contains(detail), "{answer}");
        }
    }

    #[actix_web::test]
    async fn other_media_types_are_rejected() {
        for content_type in
            ["text/plain", "", "application/x-www-form-urlencoded", "json", "+json", "a/+json"]
        {
            let (status, answer) = post(content_type, "{}").await;
            assert_eq!(status, 415, "{content_type}");
            assert_eq!(answer["detail"], "Content-Type must be application/json");
        }
    }

    #[actix_web::test]
    async fn compressed_bodies_are_rejected() {
        let app = test::init_service(App::new().route("/", web::post().to(handler))).await;
        for (coding, status) in [("gzip", 415), ("br, gzip", 415), ("", 415), ("identity", 400)] {
            let request = test::TestRequest::post()
                .insert_header(("content-type", "application/json"))
                .insert_header(("content-encoding", coding));
            let response = test::call_service(&app, request.set_payload("{").to_request()).await;
            assert_eq!(response.status(), status, "{coding}");
            assert_eq!(response.headers().contains_key("accept-encoding"), status == 415);
        }
    }

    #[actix_web::test]
    async fn the_limit_is_exact() {
        let body = |length: usize| {
            let frame = r#"{"movieName":"","count":1}"#.len();
            format!(r#"{{"movieName":"{}","count":1}}"#, "x".repeat(length - frame))
        };
        assert_eq!(post("application/json", body(BODY_LIMIT)).await.0, 200);
        let (status, answer) = post("application/json", body(BODY_LIMIT + 1)).await;
        assert_eq!((status.as_u16(), &answer["detail"]), (413, &"a body has at most 65536 bytes".into()));
    }

    #[actix_web::test]
    async fn a_content_length_over_the_limit_is_rejected_unread() {
        let problem = read(Payload::None, Some(BODY_LIMIT as u64 + 1)).await.unwrap_err();
        assert_eq!(problem.status(), 413);
    }

    #[actix_web::test]
    async fn the_limit_applies_to_all_chunks_together() {
        let payload = |lengths: [usize; 2]| {
            let chunks = lengths.map(|length| Ok(Bytes::from(vec![b'x'; length])));
            Payload::from(Box::pin(futures_util::stream::iter(chunks)) as Pin<Box<_>>)
        };
        assert_eq!(read(payload([BODY_LIMIT - 1, 1]), None).await.unwrap().len(), BODY_LIMIT);
        assert_eq!(read(payload([BODY_LIMIT, 1]), None).await.unwrap_err().status(), 413);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_arrives_is_a_timeout() {
        let stream = futures_util::stream::pending::<Result<Bytes, PayloadError>>();
        let problem = read(Payload::from(Box::pin(stream) as Pin<Box<_>>), None).await.unwrap_err();
        assert_eq!(problem.status(), 408);
    }
}
