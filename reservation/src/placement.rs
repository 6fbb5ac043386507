//! Placing reservations, some of them under keys. Pure: one whose key has been accepted before, earlier in
//! the same batch included, is answered the same and changes nothing.

use service_kit::http::problem::Problem;
use service_kit::messaging::idempotency::StoredResponses;
use service_kit::messaging::{IdempotencyKey, StoredResponse};
use shared_events::Timestamp;

use crate::http::accepted;
use crate::reservation::{Fold, Input, Reservation, State, Writes};

/// One call.
#[derive(Clone, Debug)]
pub struct PlaceRequest {
    pub input: Input,
    pub key: Option<IdempotencyKey>,
}

/// What a call is answered that was accepted, now or before.
#[derive(Clone, Debug)]
pub struct PlaceAccepted {
    pub stored_response: StoredResponse,
    /// As it stands after the call; unknown if that is a repeat.
    pub reservation: Option<Box<Reservation>>,
}

/// What a call is answered.
pub type PlaceOutcome = Result<PlaceAccepted, Problem>;

/// Decides all placings, in order; one answer each.
pub fn decide(
    state: State,
    stored_responses: &mut StoredResponses,
    requests: &[PlaceRequest],
    now: Timestamp,
) -> (Writes, Vec<PlaceOutcome>) {
    let mut fold = Fold::new(state, now);
    let answers =
        requests.iter().map(|PlaceRequest { input, key }| match stored_responses.find(key.as_ref()) {
            Some(answer) => {
                answer.map(|stored_response| PlaceAccepted { stored_response, reservation: None })
            }
            None => {
                let accepted = accepted(fold.decide(input))?;
                stored_responses.store(key.as_ref(), &accepted.stored_response);
                Ok(accepted)
            }
        });
    let answers = answers.collect();
    (fold.finish(), answers)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use shared_events::{Count, MovieId, Origin, ReservationId};
    use uuid::Uuid;

    use super::*;
    use crate::reservation::{Command, Request};

    fn placing(id: u128, count: i64, key: Option<&'static str>) -> PlaceRequest {
        let request = Request {
            user_id: "7".into(),
            user_name: "Jane".into(),
            email: None,
            movie_id: MovieId(Uuid::from_u128(1)),
            count: Count::new(count).unwrap(),
            date: None,
        };
        let http = TestRequest::post();
        let http = match key {
            Some(key) => http.insert_header(("idempotency-key", key)),
            None => http,
        };
        let key = IdempotencyKey::of(&http.to_http_request(), "/reservations".into(), &count).unwrap();
        let input = Input {
            id: ReservationId(Uuid::from_u128(id)),
            command: Command::Place(request),
            origin: Origin::default(),
        };
        PlaceRequest { input, key }
    }

    /// The ids of what is placed, and what each is answered: whose location, or which status.
    fn decided(requests: &[PlaceRequest]) -> (Vec<u128>, Vec<String>) {
        let now = Timestamp::now();
        let (writes, answers) = decide(State::new(), &mut StoredResponses::default(), requests, now);
        let new = writes.new.iter().map(|reservation| reservation.id.0.as_u128()).collect();
        assert_eq!(writes.new.len(), writes.events.len());
        let shown = answers.into_iter().map(|answer| match answer {
            Ok(PlaceAccepted { stored_response, .. }) => {
                let response = stored_response.into_response();
                let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
                let location = header("location").unwrap().rsplit('-').next().unwrap();
                let id = u128::from_str_radix(location, 16).unwrap();
                match header("idempotent-replayed") {
                    Some(_) => format!("{id} again"),
                    None => id.to_string(),
                }
            }
            Err(problem) => problem.status().as_u16().to_string(),
        });
        (new, shown.collect())
    }

    #[test]
    fn one_key_in_one_batch_has_one_effect() {
        let requests = [
            placing(1, 1, Some("k")),
            placing(2, 1, Some("k")),
            placing(3, 2, Some("k")),
            placing(4, 1, None),
        ];
        let answers = ["1", "1 again", "422", "4"].map(String::from).to_vec();
        assert_eq!(decided(&requests), (vec![1, 4], answers));
    }

    #[test]
    fn other_keys_have_effects_of_their_own() {
        let requests = [placing(1, 1, Some("k")), placing(2, 1, Some("K")), placing(3, 1, Some("k k"))];
        let answers = ["1", "2", "3"].map(String::from).to_vec();
        assert_eq!(decided(&requests), (vec![1, 2, 3], answers));
    }

    #[test]
    fn what_was_refused_leaves_its_key_to_the_next_one() {
        // The id is taken by another body: refused, and so is its repetition; then another body may have the key.
        let requests = [
            placing(1, 1, None),
            placing(1, 2, Some("k")),
            placing(1, 2, Some("k")),
            placing(3, 3, Some("k")),
        ];
        let answers = ["1", "409", "409", "3"].map(String::from).to_vec();
        assert_eq!(decided(&requests), (vec![1, 3], answers));
    }

    #[test]
    fn an_id_of_the_clients_own_and_a_key_go_together() {
        let requests = [placing(1, 1, Some("k")), placing(1, 1, Some("l")), placing(1, 1, None)];
        let answers = ["1", "1", "1"].map(String::from).to_vec();
        assert_eq!(decided(&requests), (vec![1], answers));
    }
}
