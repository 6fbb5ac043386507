//! Calls with an `Idempotency-Key`: a key has one effect, a repeated call gets the same answer, and a call with another
//! body is refused.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use reservation::placement::{PlaceOutcome, PlaceRequest};
use reservation::reservation as reservation_domain;
use service_kit::messaging::IdempotencyKey;
use shared_events::{Count, MovieId, Origin, ReservationId};

use crate::simulation::choices::Choices;
use crate::simulation::coverage::Coverage;
use crate::simulation::tables::Tables;
use crate::simulation::violation::{Violation, check};
use crate::simulation::workload::request;

/// The maximum of keys in a schedule: few, so that calls share them.
const KEYS: usize = 4;

pub type KeyNumber = usize;

/// The content of a call.
pub type Body = (MovieId, Count);

#[derive(Clone, Debug, Default)]
pub struct IdempotencyKeys {
    /// The reservation ids that the service generated for the calls with a key.
    attempted: BTreeMap<KeyNumber, Vec<ReservationId>>,
    /// The body of the accepted call with a key, and the location of its reservation.
    accepted: BTreeMap<KeyNumber, (Body, String)>,
    /// The calls that were refused because their key has another body.
    refused: Vec<(KeyNumber, Body)>,
}

impl IdempotencyKeys {
    pub fn choose(&self, choices: &mut Choices) -> KeyNumber {
        choices.below(KEYS)
    }

    pub fn place_request(&mut self, key: KeyNumber, body: Body, id: ReservationId) -> PlaceRequest {
        self.attempted.entry(key).or_default().push(id);
        let request = request(body.0, body.1);
        let key =
            IdempotencyKey::new("/reservations 7".to_owned(), &format!("k{key}"), &(None::<()>, &request));
        let command = reservation_domain::Command::Place(request);
        PlaceRequest {
            input: reservation_domain::Input { id, command, origin: Origin::default() },
            key: Some(key),
        }
    }

    /// # Errors
    /// If the answer contradicts an earlier one with the same key.
    pub fn record_answer(
        &mut self,
        key: KeyNumber,
        body: Body,
        outcome: &PlaceOutcome,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        match outcome {
            Ok(accepted) => {
                let location = accepted.response.header(&LOCATION).unwrap_or_default().to_owned();
                let repeated = accepted.reservation.is_none();
                coverage.count(if repeated { "a key: answered again" } else { "a key: accepted" });
                let now = (body, location);
                let before = self.accepted.entry(key).or_insert_with(|| now.clone());
                check!(*before == now, "k{key} was answered {}, and now {}", before.1, now.1);
            }
            Err(problem) => {
                let status = problem.status();
                check!(status == StatusCode::UNPROCESSABLE_ENTITY, "k{key} is answered {status}");
                coverage.count("a key: taken by another body");
                self.refused.push((key, body));
            }
        }
        Ok(())
    }

    /// # Errors
    /// If a key has not exactly one effect, or a call was refused although its body is the accepted one.
    pub fn check_at_rest(&self, tables: &Tables) -> Result<(), Violation> {
        for (key, attempted) in &self.attempted {
            let placed: Vec<_> = attempted.iter().filter(|id| tables.reservations.contains_key(id)).collect();
            check!(placed.len() == 1, "k{key} has placed {} reservations", placed.len());
            let location = self.accepted.get(key).map(|(_, location)| location.as_str()).unwrap_or_default();
            check!(location.ends_with(&placed[0].to_string()), "k{key} was answered {location}");
        }
        for (key, body) in &self.refused {
            let accepted_body = self.accepted.get(key).map(|(body, _)| body);
            check!(accepted_body != Some(body), "k{key} was refused with the body of its accepted call");
        }
        Ok(())
    }
}
