//! Decides a batch of placements, some of them under an `Idempotency-Key`. Pure. A request whose key was accepted before,
//! also earlier in the same batch, receives the stored response and changes nothing.

use service_kit::http::problem::Problem;
use service_kit::messaging::idempotency::StoredResponses;
use service_kit::messaging::{IdempotencyKey, StoredResponse};
use shared_events::Timestamp;

use crate::reservation::{Answer, Fold, Input, Reservation, State, Writes};

/// One call that places a reservation.
#[derive(Clone, Debug)]
pub struct PlaceRequest {
    pub input: Input,
    pub key: Option<IdempotencyKey>,
}

/// The result of a call that was accepted, now or before.
#[derive(Clone, Debug)]
pub struct PlaceAccepted {
    pub response: StoredResponse,
    /// The reservation after the call; `None` if the response is a stored one.
    pub reservation: Option<Box<Reservation>>,
}

pub type PlaceOutcome = Result<PlaceAccepted, Problem>;

/// Makes the response of an accepted call from the reservation as it is after the call.
pub type RenderAccepted = fn(&Reservation) -> StoredResponse;

/// Decides all requests in order, with one outcome for each. Adds the responses of accepted keys to `stored_responses`.
pub fn decide(
    state: State,
    stored_responses: &mut StoredResponses,
    requests: &[PlaceRequest],
    render: RenderAccepted,
    now: Timestamp,
) -> (Writes, Vec<PlaceOutcome>) {
    let mut fold = Fold::new(state, now);
    let outcomes =
        requests.iter().map(|PlaceRequest { input, key }| match stored_responses.find(key.as_ref()) {
            Some(stored) => stored.map(|response| PlaceAccepted { response, reservation: None }),
            None => {
                let reservation = accepted(fold.decide(input))?;
                let response = render(&reservation);
                stored_responses.store(key.as_ref(), &response);
                Ok(PlaceAccepted { response, reservation: Some(reservation) })
            }
        });
    let outcomes = outcomes.collect();
    (fold.finish(), outcomes)
}

fn accepted(answer: Answer) -> Result<Box<Reservation>, Problem> {
    match answer {
        Answer::Done { reservation, .. } => Ok(reservation),
        Answer::Conflict => Err(Problem::conflict("the id is taken by a call with another body")),
        // Can't occur: a placement creates the reservation.
        Answer::NotFound => Err(Problem::internal()),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::http::header::LOCATION;
    use actix_web::test::TestRequest;
    use shared_events::{Count, MovieId, Origin, ReservationId};
    use uuid::Uuid;

    use super::*;
    use crate::reservation::{Command, Request};

    fn place(id: u128, count: i64, key: Option<&'static str>) -> PlaceRequest {
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
        let key =
            IdempotencyKey::from_request(&http.to_http_request(), "/reservations".into(), &count).unwrap();
        let input = Input {
            id: ReservationId(Uuid::from_u128(id)),
            command: Command::Place(request),
            origin: Origin::default(),
        };
        PlaceRequest { input, key }
    }

    fn render(reservation: &Reservation) -> StoredResponse {
        StoredResponse::json(StatusCode::ACCEPTED, &()).with_header(LOCATION, reservation.id.to_string())
    }

    /// The ids of the new reservations, and for each request the id in its response's location, or the problem's status.
    fn decided(requests: &[PlaceRequest]) -> (Vec<u128>, Vec<String>) {
        let now = Timestamp::now();
        let (writes, outcomes) = decide(State::new(), &mut StoredResponses::default(), requests, render, now);
        let new = writes.new.iter().map(|reservation| reservation.id.0.as_u128()).collect();
        assert_eq!(writes.new.len(), writes.events.len());
        let shown = outcomes.into_iter().map(|outcome| match outcome {
            Ok(PlaceAccepted { response, .. }) => {
                let response = response.into_response();
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
        let requests =
            [place(1, 1, Some("k")), place(2, 1, Some("k")), place(3, 2, Some("k")), place(4, 1, None)];
        let outcomes = ["1", "1 again", "422", "4"].map(String::from).to_vec();
        assert_eq!(decided(&requests), (vec![1, 4], outcomes));
    }

    #[test]
    fn other_keys_have_effects_of_their_own() {
        let requests = [place(1, 1, Some("k")), place(2, 1, Some("K")), place(3, 1, Some("k k"))];
        let outcomes = ["1", "2", "3"].map(String::from).to_vec();
        assert_eq!(decided(&requests), (vec![1, 2, 3], outcomes));
    }

    #[test]
    fn a_refused_request_leaves_its_key_unused() {
        // The second request's id is taken by another body, so it is refused, and so is its repeat. Then another body may
        // use the key.
        let requests =
            [place(1, 1, None), place(1, 2, Some("k")), place(1, 2, Some("k")), place(3, 3, Some("k"))];
        let outcomes = ["1", "409", "409", "3"].map(String::from).to_vec();
        assert_eq!(decided(&requests), (vec![1, 3], outcomes));
    }

    #[test]
    fn a_client_may_send_both_an_id_and_a_key() {
        let requests = [place(1, 1, Some("k")), place(1, 1, Some("l")), place(1, 1, None)];
        let outcomes = ["1", "1", "1"].map(String::from).to_vec();
        assert_eq!(decided(&requests), (vec![1], outcomes));
    }
}
