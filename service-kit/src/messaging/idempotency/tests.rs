use actix_web::test::TestRequest;
use serde_json::json;

use super::*;

fn key(scope: &str, key: &str, parsed_body: &str) -> IdempotencyKey {
    IdempotencyKey::new(scope.to_owned(), key, &parsed_body)
}

fn accepted(text: &str) -> StoredResponse {
    StoredResponse::json(StatusCode::ACCEPTED, &text)
}

#[test]
fn keys_are_printable_and_bounded() {
    let read = |keys: &[&[u8]]| {
        let mut request = TestRequest::post();
        for key in keys {
            let value = actix_web::http::header::HeaderValue::from_bytes(key).unwrap();
            request = request.append_header((IDEMPOTENCY_KEY, value));
        }
        IdempotencyKey::from_request(&request.to_http_request(), "/x".into(), &json!({}))
    };
    assert_eq!(read(&[]).unwrap(), None);
    let long = "k".repeat(KEY_MAX);
    for key in ["k", "a key with spaces", "\"quotes belong to it\"", "!~", &long] {
        assert_eq!(read(&[key.as_bytes()]).unwrap().unwrap().scoped_key, ("/x".to_owned(), key.to_owned()));
    }
    let longer = "k".repeat(KEY_MAX + 1);
    for key in [&b""[..], longer.as_bytes(), b"a\tb", "schlüssel".as_bytes(), b"\xff"] {
        let problem = read(&[key]).unwrap_err();
        assert_eq!(problem.status(), 400);
        assert_eq!(
            problem.detail(),
            "Idempotency-Key must have between 1 and 255 printable ASCII characters"
        );
    }
    let problem = read(&[b"k", b"k"]).unwrap_err();
    assert_eq!((problem.status().as_u16(), problem.detail()), (400, "Idempotency-Key must be sent once"));
}

#[test]
fn the_first_response_is_replayed_and_another_body_refused() {
    let mut stored_responses = StoredResponses::default();
    let first = key("/movies", "k", "this");
    assert!(stored_responses.find(Some(&first)).is_none());
    stored_responses.store(Some(&first), &accepted("1"));
    let again = stored_responses.find(Some(&first)).unwrap().unwrap();
    assert_eq!(again, StoredResponse { replayed: true, ..accepted("1") });
    let problem = stored_responses.find(Some(&key("/movies", "k", "that"))).unwrap().unwrap_err();
    assert_eq!(problem.status(), 422);
    for other in [key("/movies", "K", "this"), key("/movies/7/tickets", "k", "this")] {
        assert!(stored_responses.find(Some(&other)).is_none(), "{other:?}");
    }
}

#[test]
fn calls_without_a_key_store_nothing() {
    let mut stored_responses = StoredResponses::default();
    stored_responses.store(None, &accepted("1"));
    assert!(stored_responses.0.is_empty() && stored_responses.find(None).is_none());
}

#[test]
fn a_response_is_stored_with_its_headers() {
    let name = HeaderName::from_static("location");
    let stored = accepted("1").with_header(name.clone(), "/movies/7");
    assert_eq!(stored.header(&name), Some("/movies/7"));
    let response = stored.clone().into_response();
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers().get("location").unwrap(), "/movies/7");
    assert_eq!(response.headers().get("content-type").unwrap(), "application/json");
    assert!(!response.headers().contains_key(IDEMPOTENT_REPLAYED));
    let shown = stored.clone().with_json(StatusCode::CREATED, &"2").into_response();
    assert_eq!((shown.status().as_u16(), shown.headers().len()), (201, response.headers().len()));
    let response = StoredResponse { replayed: true, ..stored }.into_response();
    assert_eq!(response.headers().get(IDEMPOTENT_REPLAYED).unwrap(), "true");
}
