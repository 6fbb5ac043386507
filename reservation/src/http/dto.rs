//! Request and response types of the calls: their bodies and query parameters, parsed into values that are valid, and the view of a
//! reservation. The count of a reservation is checked here ([`NewReservation::parse`]).

use actix_web::HttpRequest;
use chrono::{DateTime, NaiveDate};
use serde::{Deserialize, Serialize};
use service_kit::http::openapi::schemas;
use service_kit::http::pagination::PageQuery;
use service_kit::http::parameters;
use service_kit::http::problem::Problem;
use service_kit::http::validation::{self, IntegerOrString, StringOrNumber, Validator};
use shared_events::{CancelReason, Count, MovieId, ReservationId};
use utoipa::openapi::Schema;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::reservation::{Request, Reservation};

/// The most tickets of one reservation.
const COUNT_MAX: i64 = 100;
const NAME_MAX: usize = 200;
/// A date-time with nanoseconds and an offset has 35 characters.
const DATE_MAX: usize = 40;
/// The longest address that SMTP can name (RFC 5321).
const EMAIL_MAX: usize = 254;

/// The collection's name in its cursors.
const COLLECTION: &str = "reservation";

fn user_id_schema() -> Schema {
    schemas::string_or_number(NAME_MAX)
}

fn name_schema() -> Schema {
    schemas::text(1, NAME_MAX).into()
}

fn email_schema() -> Schema {
    schemas::described("Where the outcome is sent to", schemas::optional(schemas::email(EMAIL_MAX)))
}

fn count_schema() -> Schema {
    schemas::described("How many tickets", schemas::integer_or_string(1, COUNT_MAX))
}

fn date_schema() -> Schema {
    schemas::described("For when; now, unless given", schemas::optional(schemas::date()))
}

fn status_schema() -> Schema {
    let status = schemas::words(["PENDING", "CONFIRMED", "CANCELLED"]);
    schemas::described("It only moves forward; CANCELLED is final", status)
}

fn reason_schema() -> Schema {
    schemas::described("With CANCELLED only", schemas::words(CancelReason::ALL.map(CancelReason::as_str)))
}

fn shown_date_schema() -> Schema {
    schemas::described("As it was given, or when it was placed", schemas::date())
}

fn user_schema() -> Schema {
    schemas::described("Only this user's", schemas::text(1, NAME_MAX))
}

/// A reservation to be placed. Unknown fields are ignored.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({
    "id": "0192f0c1-7c1a-7000-8000-0000000000a1", "userId": "7", "userName": "Jane",
    "movieId": "0192f0c1-7c1a-7000-8000-000000000001", "count": 45, "date": "2026-12-24"
})))]
pub(super) struct NewReservation {
    /// The client's own id makes the call safe to repeat; without one the server makes one.
    #[schema(value_type = Option<Uuid>)]
    id: Option<String>,
    #[schema(schema_with = user_id_schema)]
    user_id: StringOrNumber,
    #[schema(schema_with = name_schema)]
    user_name: String,
    #[schema(schema_with = email_schema, required = false)]
    email: Option<String>,
    /// Whether there is such a movie is decided later.
    #[schema(value_type = Uuid)]
    movie_id: String,
    #[schema(schema_with = count_schema)]
    count: IntegerOrString,
    #[schema(schema_with = date_schema, required = false)]
    date: Option<String>,
}

/// What chooses the reservations of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what `parse_list_query` parses")]
pub(super) struct UserParameter {
    #[param(schema_with = user_schema, required = false)]
    user_id: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reservation, description = "A reservation as it stands", examples(json!({
    "id": "0192f0c1-7c1a-7000-8000-0000000000a1", "userId": "7", "userName": "Jane",
    "movieId": "0192f0c1-7c1a-7000-8000-000000000001", "count": 45, "reserveStatus": "CONFIRMED",
    "date": "2026-12-24"
})))]
pub(super) struct ReservationView<'a> {
    #[schema(value_type = Uuid)]
    id: ReservationId,
    user_id: &'a str,
    user_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    email: Option<&'a str>,
    #[schema(value_type = Uuid)]
    movie_id: MovieId,
    #[schema(minimum = 1)]
    count: i64,
    #[schema(schema_with = status_schema)]
    reserve_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = reason_schema, required = false)]
    cancel_reason: Option<CancelReason>,
    #[schema(schema_with = shown_date_schema)]
    date: String,
}

impl<'a> From<&'a Reservation> for ReservationView<'a> {
    fn from(reservation: &'a Reservation) -> Self {
        Self {
            id: reservation.id,
            user_id: &reservation.request.user_id,
            user_name: &reservation.request.user_name,
            email: reservation.request.email.as_deref(),
            movie_id: reservation.request.movie_id,
            count: reservation.request.count.get(),
            reserve_status: reservation.status.as_str(),
            cancel_reason: reservation.status.reason(),
            date: reservation.date(),
        }
    }
}

impl NewReservation {
    /// The client's own id, if it sent one, and the request.
    pub(super) fn parse(self) -> Result<(Option<Uuid>, Request), Problem> {
        let mut validator = Validator::new();
        let id = self.id.map(|id| validation::parse_id("/id", &id)).transpose()?;
        let movie_id = validation::parse_id("/movieId", &self.movie_id)?;
        if let Some(date) = &self.date {
            check_date(date)?;
        }
        let user_id = validator.text("/userId", self.user_id.0, 1, NAME_MAX);
        let user_name = validator.text("/userName", self.user_name, 1, NAME_MAX);
        let email = self.email.inspect(|email| {
            if !is_address(email) {
                validator.add_error(
                    "/email",
                    format!("must be an address of at most {EMAIL_MAX} characters: name@domain"),
                );
            }
        });
        let count = validator.number("/count", self.count, 1, COUNT_MAX);
        validator.finish()?;
        let count = Count::new(count).ok_or_else(Problem::internal)?;
        let movie_id = MovieId(movie_id);
        Ok((id, Request { user_id, user_name, email, movie_id, count, date: self.date }))
    }
}

/// Which reservations are listed: those of one user or all, and which page of them.
pub(super) fn parse_list_query(request: &HttpRequest) -> Result<(Option<String>, PageQuery), Problem> {
    let parameters = parameters::query(request, &["userId", "cursor", "limit"])?;
    let user_id = parameters::text(&parameters, "userId", NAME_MAX)?;
    let query = PageQuery::parse(&parameters, COLLECTION, &[user_id])?;
    Ok((user_id.map(str::to_owned), query))
}

fn check_date(date: &str) -> Result<(), Problem> {
    // The library also accepts signs, blanks and any number of digits.
    let is_date_shaped = date.len() == 10
        && date.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    let is_date = is_date_shaped && NaiveDate::parse_from_str(date, "%Y-%m-%d").is_ok();
    if is_date || (date.len() <= DATE_MAX && DateTime::parse_from_rfc3339(date).is_ok()) {
        return Ok(());
    }
    Err(Problem::bad_field(
        "/date",
        "must be an RFC 3339 date or date-time, like 2026-12-24 or 2026-12-24T20:00:00Z",
    ))
}

/// Whether an e-mail can be sent to it. Without control characters and white space it can't inject a header.
fn is_address(email: &str) -> bool {
    let is_plain = email.chars().all(|c| !c.is_control() && !c.is_whitespace());
    let parts = email.rsplit_once('@');
    is_plain
        && email.len() <= EMAIL_MAX
        && parts.is_some_and(|(name, domain)| !name.is_empty() && !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_rfc_3339() {
        for date in ["2026-12-24", "2026-12-24T20:00:00Z", "2026-12-24T20:00:00.5+01:00"] {
            assert!(check_date(date).is_ok(), "{date}");
        }
        let endless = format!("2026-12-24T20:00:00.{}Z", "0".repeat(60));
        for date in [
            "",
            "24.12.2026",
            "2026-2-3",
            "2026-13-01",
            "2026-12-24T20:00:00",
            "tomorrow",
            "+2026-12-2",
            " 2026-12-2",
            "2026- 1- 2",
            "-001-01-01",
            &endless,
        ] {
            assert_eq!(check_date(date).unwrap_err().errors()[0].pointer, "/date", "{date}");
        }
    }

    #[test]
    fn addresses_can_not_inject_headers() {
        assert!(is_address("jane@example.org"));
        for email in ["", "jane", "@example.org", "jane@", "a@b\r\nBcc: c@d", "a b@c"] {
            assert!(!is_address(email), "{email:?}");
        }
    }
}
