//! Calls under an `Idempotency-Key`: one effect, and the same answer for whoever repeats the call; another body is told
//! that the key is taken.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use reservation::placement::{PlaceOutcome, PlaceRequest};
use reservation::reservation as seat;
use service_kit::messaging::IdempotencyKey;
use shared_events::{Count, MovieId, Origin, ReservationId};

use crate::simulation::calls::request;
use crate::simulation::checks::{Violation, hold};
use crate::simulation::choices::Choices;
use crate::simulation::tables::Tables;
use crate::simulation::tally::Tally;

/// Keys that one schedule uses at most: they are to meet.
const KEYS: usize = 4;

pub type Key = usize;

/// What is asked for.
pub type Body = (MovieId, Count);

#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Under which ids the services tried to place what came under a key.
    tried: BTreeMap<Key, Vec<ReservationId>>,
    /// Whose key it is, and where the reservation is.
    accepted: BTreeMap<Key, (Body, String)>,
    /// Who was told that it is another's.
    refused: Vec<(Key, Body)>,
}

impl Keys {
    pub fn choose(&self, choices: &mut Choices) -> Key {
        choices.below(KEYS)
    }

    pub fn placing(&mut self, key: Key, body: Body, id: ReservationId) -> PlaceRequest {
        self.tried.entry(key).or_default().push(id);
        let request = request(body.0, body.1);
        let key =
            IdempotencyKey::new("/reservations 7".to_owned(), &format!("k{key}"), &(None::<()>, &request));
        let command = seat::Command::Place(request);
        PlaceRequest { input: seat::Input { id, command, origin: Origin::default() }, key: Some(key) }
    }

    /// # Errors
    /// What nobody may be answered under the key.
    pub fn answered(
        &mut self,
        key: Key,
        body: Body,
        answer: &PlaceOutcome,
        tally: &mut Tally,
    ) -> Result<(), Violation> {
        match answer {
            Ok(accepted) => {
                let place = accepted.response.header(&LOCATION).unwrap_or_default().to_owned();
                let repeated = accepted.reservation.is_none();
                tally.count(if repeated { "a key: answered again" } else { "a key: accepted" });
                let now = (body, place);
                let before = self.accepted.entry(key).or_insert_with(|| now.clone());
                hold!(*before == now, "k{key} was answered {}, and now {}", before.1, now.1);
            }
            Err(problem) => {
                let status = problem.status();
                hold!(status == StatusCode::UNPROCESSABLE_ENTITY, "k{key} is answered {status}");
                tally.count("a key: taken by another body");
                self.refused.push((key, body));
            }
        }
        Ok(())
    }

    /// # Errors
    /// A key with more than one effect, or none, or whose owner was refused.
    pub fn at_rest(&self, tables: &Tables) -> Result<(), Violation> {
        for (key, tried) in &self.tried {
            let placed: Vec<_> = tried.iter().filter(|id| tables.reservations.contains_key(id)).collect();
            hold!(placed.len() == 1, "k{key} has placed {} reservations", placed.len());
            let place = self.accepted.get(key).map(|(_, place)| place.as_str()).unwrap_or_default();
            hold!(place.ends_with(&placed[0].to_string()), "k{key} was answered {place}");
        }
        for (key, body) in &self.refused {
            let owner = self.accepted.get(key).map(|(body, _)| body);
            hold!(owner != Some(body), "k{key} was refused to whom it belongs");
        }
        Ok(())
    }
}
