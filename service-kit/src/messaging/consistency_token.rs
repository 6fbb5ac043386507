//! `Consistency-Token`: the status in which a client has seen a reservation. The list then shows at least that
//! status.
//!
//! The client takes it from the answer that showed the reservation, and sends it with the request for the list. A
//! reservation's status only moves forward, and its outcome is one row of the list. So comparing that row is exact,
//! and the token contains neither an offset nor a clock.

use actix_web::http::header::{HeaderMap, HeaderName};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use shared_events::ReservationId;
use utoipa::IntoParams;
use utoipa::openapi::{ObjectBuilder, Schema, Type};
use uuid::Uuid;

use super::waiters::Progress;
use crate::http::openapi::schemas;
use crate::http::problem::Problem;

pub const CONSISTENCY_TOKEN: HeaderName = HeaderName::from_static("consistency-token");

fn token_schema() -> Schema {
    let description = "Of an answer that showed a reservation: the list waits until it shows that as far, and is 503 if \
                       it doesn't in time. Of one that was undecided, it is the outcome";
    let token = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z0-9_-]+$"));
    schemas::described(description, token.build())
}

/// Of a call that shows what its caller has seen.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what ConsistencyToken parses")]
pub struct TokenParameter {
    #[param(rename = "Consistency-Token", schema_with = token_schema, required = false)]
    token: Option<String>,
}

/// A reservation, and the rank of its status. Opaque to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsistencyToken {
    pub id: ReservationId,
    /// See [`Progress::rank`].
    pub rank: u8,
}

impl ConsistencyToken {
    pub fn new(id: ReservationId, status: impl Progress) -> Self {
        Self { id, rank: status.rank() }
    }

    /// URL-safe text.
    #[must_use]
    pub fn encode(self) -> String {
        URL_SAFE_NO_PAD.encode(format!("reservation:{}:{}", self.id, self.rank))
    }

    fn decode(text: &str) -> Option<Self> {
        let decoded = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (id, rank) = decoded.strip_prefix("reservation:")?.split_once(':')?;
        let token = Self { id: ReservationId(Uuid::try_parse(id).ok()?), rank: rank.parse().ok()? };
        // A token has exactly one encoding, and a rank that a status has.
        (token.rank <= 2 && token.encode() == text).then_some(token)
    }

    /// The token of a request, if it has one.
    ///
    /// # Errors
    /// 400 if it is not a token that an answer contained, or if there are several.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let refused = |detail| Problem::bad_field("/Consistency-Token", detail);
        let mut values = headers.get_all(CONSISTENCY_TOKEN);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(refused("must stand only once"));
        }
        let token = value.to_str().ok().and_then(Self::decode);
        token.map(Some).ok_or_else(|| refused("must be a token that an answer about a reservation gave out"))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn parse(values: &[&str]) -> Result<Option<ConsistencyToken>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONSISTENCY_TOKEN, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        ConsistencyToken::from_headers(&headers)
    }

    #[test]
    fn tokens_survive_a_round_trip() {
        for rank in 0..=2 {
            let token = ConsistencyToken { id: ReservationId(Uuid::now_v7()), rank };
            let text = token.encode();
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{text}");
            assert_eq!(parse(&[&text]).unwrap(), Some(token));
        }
        assert_eq!(parse(&[]).unwrap(), None);
    }

    #[test]
    fn forged_tokens_are_refused() {
        let id = Uuid::now_v7();
        let encoded = |text: String| URL_SAFE_NO_PAD.encode(text);
        for text in [
            String::new(),
            "x".into(),
            "\u{ff}".into(),
            encoded(format!("movie:{id}:1")),
            encoded(format!("reservation:{id}")),
            encoded(format!("reservation:{id}:3")),
            encoded(format!("reservation:{id}:+1")),
            encoded(format!("reservation:{id}:01")),
            encoded(format!("reservation:{}:1", id.simple())),
            encoded(format!("reservation:{id}:1 ")),
            encoded("reservationList:7".into()),
            "A".repeat(60_000),
        ] {
            let problem = parse(&[&text]).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), &*problem.errors()[0].pointer),
                (400, "/Consistency-Token")
            );
        }
        let token = ConsistencyToken { id: ReservationId(id), rank: 1 }.encode();
        assert!(parse(&[&token, &token]).unwrap_err().detail().contains("only once"));
    }
}
