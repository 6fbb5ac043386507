//! `Consistency-Token`: what a caller has seen of a reservation, so that the list can show it at least that.
//!
//! It travels through the client, from the answer that showed the reservation to the request for the list. A
//! reservation's status only moves forward, and its outcome is one row of the list, so comparing that row is exact:
//! no offset and no clock is in it.

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

/// A reservation, and how far it had come. Opaque to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsistencyToken {
    pub id: ReservationId,
    /// As [`Progress::rank`] has it.
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
        // One text per token, and no rank that no status has.
        (token.rank <= 2 && token.encode() == text).then_some(token)
    }

    /// What a request's headers give.
    ///
    /// # Errors
    /// 400 for what no answer has given out, and for several.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let refused = |detail| Problem::bad_field("/Consistency-Token", detail);
        let mut given = headers.get_all(CONSISTENCY_TOKEN);
        let Some(value) = given.next() else { return Ok(None) };
        if given.next().is_some() {
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

    fn of(values: &[&str]) -> Result<Option<ConsistencyToken>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONSISTENCY_TOKEN, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        ConsistencyToken::of(&headers)
    }

    #[test]
    fn tokens_come_back_as_they_went() {
        for rank in 0..=2 {
            let token = ConsistencyToken { id: ReservationId(Uuid::now_v7()), rank };
            let text = token.encode();
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{text}");
            assert_eq!(of(&[&text]).unwrap(), Some(token));
        }
        assert_eq!(of(&[]).unwrap(), None);
    }

    #[test]
    fn what_nobody_gave_out_is_refused() {
        let id = Uuid::now_v7();
        let made = |text: String| URL_SAFE_NO_PAD.encode(text);
        for text in [
            String::new(),
            "x".into(),
            "\u{ff}".into(),
            made(format!("movie:{id}:1")),
            made(format!("reservation:{id}")),
            made(format!("reservation:{id}:3")),
            made(format!("reservation:{id}:+1")),
            made(format!("reservation:{id}:01")),
            made(format!("reservation:{}:1", id.simple())),
            made(format!("reservation:{id}:1 ")),
            made("reservationList:7".into()),
            "A".repeat(60_000),
        ] {
            let problem = of(&[&text]).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), &*problem.errors()[0].pointer),
                (400, "/Consistency-Token")
            );
        }
        let token = ConsistencyToken { id: ReservationId(id), rank: 1 }.encode();
        assert!(of(&[&token, &token]).unwrap_err().detail().contains("only once"));
    }
}
