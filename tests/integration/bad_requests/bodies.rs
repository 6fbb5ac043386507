//! Bodies that can't be parsed, have fields of wrong types or out of bounds, are too large, or are not JSON.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::calls::Call;

const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// A valid body of `POST /movies`.
fn movie() -> Value {
    json!({"movieName": "x", "qty": 1, "description": "x", "id": Uuid::now_v7()})
}

/// A valid body of `POST /reservations`.
fn reservation(movie: Uuid) -> Value {
    json!({"userId": "7", "userName": "Jane", "movieId": movie, "count": 1, "id": Uuid::now_v7(),
        "email": "jane@example.org", "date": "2026-12-24"})
}

fn with(body: &Value, field: &str, value: impl Into<Value>) -> Value {
    let mut body = body.clone();
    body[field] = value.into();
    body
}

fn without(body: &Value, field: &str) -> Value {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove(field);
    }
    body
}

/// Bodies that are not a JSON object.
pub(super) fn unparsable() -> Vec<Call> {
    let nested = |depth: usize| "[".repeat(depth);
    let bodies: [(Vec<u8>, &str); 20] = [
        (b"".to_vec(), "not JSON"),
        (b" ".to_vec(), "not JSON"),
        (b"{".to_vec(), "not JSON"),
        (b"{\"movieName\": \"x\", \"qty\": 1".to_vec(), "not JSON"),
        (b"{\"movieName\": \"x\", \"qty\": 1,}".to_vec(), "not JSON"),
        (b"{'movieName': 'x', 'qty': 1}".to_vec(), "not JSON"),
        (b"{movieName: \"x\", qty: 1}".to_vec(), "not JSON"),
        (b"{\"movieName\": \"x\", \"qty\": NaN}".to_vec(), "not JSON"),
        (b"{\"movieName\": \"x\", \"qty\": 01}".to_vec(), "not JSON"),
        (b"/**/{\"movieName\": \"x\", \"qty\": 1}".to_vec(), "not JSON"),
        (b"movieName=x&qty=1".to_vec(), "not JSON"),
        (b"\xef\xbb\xbf{\"movieName\": \"x\", \"qty\": 1}".to_vec(), "not JSON"),
        (b"[]".to_vec(), "must be a JSON object"),
        (b"[\"x\", 1]".to_vec(), "must be a JSON object"),
        (b"null".to_vec(), "must be a JSON object"),
        (b"\"x\"".to_vec(), "must be a JSON object"),
        (b"{\"movieName\": \"a\0b\", \"qty\": 1}".to_vec(), "not JSON"),
        (b"{\"movieName\": \"\xc3\x28\", \"qty\": 1}".to_vec(), "not UTF-8 at byte 15"),
        (nested(60_000).into_bytes(), "not JSON"),
        (format!("{{\"ignored\": {}", nested(60_000)).into_bytes(), "not JSON"),
    ];
    let patched = format!("/movies/{}", Uuid::now_v7());
    let delivered = format!("/movies/{}/tickets", Uuid::now_v7());
    let targets = [
        (Method::POST, "/movies"),
        (Method::POST, "/reservations"),
        (Method::POST, "/reservationLists/exports"),
        (Method::PATCH, patched.as_str()),
        (Method::POST, delivered.as_str()),
    ];
    // Only a parser that reads these fields, or the whole object, finds these errors.
    let more = [
        "{\"movieName\": \"x\", \"qty\": 1} x",
        "{\"movieName\": \"x\", \"qty\": 1}{}",
        "{\"movieName\": \"x\", \"qty\": 1e999}",
        "{\"movieName\": \"\\ud800\", \"qty\": 1}",
    ];
    let more = more.map(|body| Call::post("/movies", &json!({}), 400).bytes(body).expect_detail("not JSON"));
    targets
        .iter()
        .flat_map(|(method, path)| {
            bodies.iter().map(move |(body, detail)| {
                Call::new(method.clone(), *path, 400)
                    .send_header("content-type", "application/json")
                    .send_header("if-match", "*")
                    .bytes(body.clone())
                    .expect_detail(*detail)
            })
        })
        .chain(more)
        .collect()
}

/// JSON values that no text field accepts.
fn not_texts() -> [Value; 4] {
    [json!(true), json!([]), json!({}), json!(["x"])]
}

/// JSON values that are not a whole number.
fn not_numbers() -> [Value; 9] {
    [
        json!("many"),
        json!(""),
        json!(" 1"),
        json!("1.0"),
        json!(1.5),
        json!(true),
        json!([]),
        json!({}),
        json!("0x10"),
    ]
}

/// JSON strings that are not an id.
fn not_ids() -> [Value; 5] {
    [
        json!(""),
        json!("7"),
        json!("0192f0c123457abc8def0123456789ab"),
        json!("{0192f0c1-2345-7abc-8def-0123456789ab}"),
        json!("0192f0c1-2345-7abc-8def-0123456789a\u{0}"),
    ]
}

/// Numbers just outside of the bounds, and far outside.
fn numbers_out_of_bounds(min: i64, max: i64) -> [Value; 8] {
    [
        json!(min - 1),
        json!((min - 1).to_string()),
        json!(max + 1),
        json!((max + 1).to_string()),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!("-99999999999999999999999999"),
    ]
}

/// Builds calls to one path, from a valid body with one field changed.
struct Target<'a> {
    method: Method,
    path: &'a str,
    valid: &'a Value,
    calls: Vec<Call>,
}

impl<'a> Target<'a> {
    fn new(method: Method, path: &'a str, valid: &'a Value) -> Self {
        Self { method, path, valid, calls: Vec::new() }
    }

    fn call(&self, body: &Value, status: u16) -> Call {
        Call::new(self.method.clone(), self.path, status).json(body).send_header("if-match", "*")
    }

    fn refuse(&mut self, field: &str, status: u16, values: impl IntoIterator<Item = Value>, detail: &str) {
        for value in values {
            let call = self.call(&with(self.valid, field, value), status);
            self.calls.push(call.expect_error(format!("/{field}"), detail));
        }
    }

    fn accept(&mut self, field: &str, status: u16, values: impl IntoIterator<Item = Value>) {
        for value in values {
            // An id that no earlier call has used.
            let body = with(&with(self.valid, "id", json!(Uuid::now_v7().to_string())), field, value);
            self.calls.push(self.call(&body, status));
        }
    }

    fn required(&mut self, fields: &[&str]) {
        for field in fields {
            let call = self.call(&without(self.valid, field), 400);
            self.calls.push(call.expect_error(format!("/{field}"), "is missing"));
            let twice = format!("{{\"{field}\": {0}, {1}", self.valid[*field], &self.valid.to_string()[1..]);
            let call = self.call(&json!({}), 400).bytes(twice);
            self.calls.push(call.expect_error(format!("/{field}"), "stands twice"));
        }
    }

    fn number(&mut self, field: &str, min: i64, max: i64) {
        self.refuse(field, 400, not_numbers(), "expected a whole number");
        self.refuse(field, 422, numbers_out_of_bounds(min, max), &format!("must be between {min} and {max}"));
    }

    fn text(&mut self, field: &str, min: usize, max: usize) {
        let bound = match min {
            0 => format!("must have at most {max} characters"),
            _ => format!("must have between {min} and {max} characters"),
        };
        let mut over =
            vec![json!("x".repeat(max + 1)), json!("😀".repeat(max + 1)), json!("x".repeat(60_000))];
        over.extend((min > 0).then(|| json!("")));
        self.refuse(field, 422, over, &bound);
        self.refuse(field, 422, [json!("a\0b"), json!("\0")], "must not contain NUL");
    }

    /// Texts of the minimal and the maximal length are accepted.
    fn accept_text(&mut self, field: &str, status: u16, min: usize, max: usize) {
        self.accept(field, status, [json!("x".repeat(min)), json!("x".repeat(max)), json!("😀".repeat(max))]);
    }
}

/// The bodies of the vendor's calls.
pub(super) fn of_movies(id: Uuid) -> Vec<Call> {
    let good = movie();
    let mut publish = Target::new(Method::POST, "/movies", &good);
    publish.required(&["movieName", "qty"]);
    publish.number("qty", 0, 1_000_000);
    publish.refuse("qty", 400, [Value::Null], "expected a whole number");
    publish.accept("qty", 201, [json!(0), json!(1_000_000), json!("0"), json!("1000000"), json!(1e6)]);
    publish.refuse(
        "movieName",
        400,
        not_texts().into_iter().chain([json!(7), Value::Null]),
        "expected a string",
    );
    publish.text("movieName", 1, 200);
    publish.accept_text("movieName", 201, 1, 200);
    publish.refuse("description", 400, not_texts(), "expected a string");
    publish.text("description", 0, 4_000);
    publish.accept_text("description", 201, 0, 4_000);
    publish.refuse("id", 400, not_ids(), "must be a UUID");
    publish.refuse("id", 400, not_texts().into_iter().chain([json!(7)]), "expected a string");
    // All invalid fields are named, not only the first.
    publish.calls.push(
        Call::post("/movies", &json!({"movieName": "", "qty": -1, "description": "\0"}), 422)
            .expect_error("/movieName", "must have between 1 and 200 characters")
            .expect_error("/description", "must not contain NUL")
            .expect_error("/qty", "must be between 0 and 1000000"),
    );
    let (path, empty) = (format!("/movies/{id}"), json!({}));
    let mut edit = Target::new(Method::PATCH, &path, &empty);
    edit.refuse("movieName", 400, not_texts().into_iter().chain([json!(7)]), "expected a string");
    edit.text("movieName", 1, 200);
    edit.refuse("description", 400, not_texts(), "expected a string");
    edit.text("description", 0, 4_000);
    edit.calls.push(
        Call::patch(&path, &empty, 400)
            .send_header("if-match", b"\"\xff\"".to_vec())
            .expect_detail("If-Match must be text"),
    );
    let (path, delivery) = (format!("/movies/{id}/tickets"), json!({"count": 1, "id": Uuid::now_v7()}));
    let mut deliver = Target::new(Method::POST, &path, &delivery);
    deliver.required(&["count"]);
    deliver.number("count", 1, 1_000_000);
    deliver.refuse("id", 400, not_ids(), "must be a UUID");
    [publish.calls, edit.calls, deliver.calls].concat()
}

/// The bodies of the customer's call.
pub(super) fn of_reservations(movie: Uuid) -> Vec<Call> {
    let good = reservation(movie);
    let mut place = Target::new(Method::POST, "/reservations", &good);
    place.required(&["userId", "userName", "movieId", "count"]);
    place.number("count", 1, 100);
    place.accept("count", 202, [json!(1), json!("100"), json!(1.0)]);
    for field in ["userId", "userName"] {
        place.text(field, 1, 200);
        place.accept_text(field, 202, 1, 200);
        place.refuse(
            field,
            400,
            not_texts().into_iter().chain([Value::Null]),
            if field == "userId" { "expected a string or a whole number" } else { "expected a string" },
        );
    }
    place.accept("userId", 202, [json!(7), json!(-7), json!(7.0), json!(9_007_199_254_740_991_i64)]);
    place.refuse("userId", 400, [json!(1.5)], "expected a string or a whole number");
    let numbers = [json!(9_007_199_254_740_992_i64), json!(u64::MAX), json!(-1e300)];
    place.refuse("userId", 400, numbers, "between -9007199254740991 and 9007199254740991");
    for field in ["id", "movieId"] {
        place.refuse(field, 400, not_ids(), "must be a UUID");
        place.refuse(field, 400, not_texts().into_iter().chain([json!(7)]), "expected a string");
    }
    let long = |length: usize| format!("{}@example.org", "x".repeat(length - "@example.org".len()));
    place.accept("email", 202, [json!("a@b"), json!(long(254)), json!("jürgen@bücher.example"), Value::Null]);
    place.refuse("email", 400, not_texts(), "expected a string");
    let addresses = ["", "jane", "@example.org", "jane@", "a b@c", "a@b\r\nBcc: c@d", "a\0@b", &long(255)];
    place.refuse("email", 422, addresses.map(|text| json!(text)), "at most 254 characters: name@domain");
    place.accept("date", 202, ["2026-12-24", "2026-12-24T20:00:00.5+01:00"].map(|text| json!(text)));
    place.refuse("date", 400, not_texts().into_iter().chain([json!(7)]), "expected a string");
    let dates =
        ["", "tomorrow", "24.12.2026", "2026-02-30", "2026-13-01", "2026-12-24T20:00:00", "2026-12-24\0"];
    place.refuse("date", 400, dates.map(|text| json!(text)), "like 2026-12-24 or 2026-12-24T20:00:00Z");
    place.refuse("date", 400, [json!("2".repeat(60_000))], "like 2026-12-24 or 2026-12-24T20:00:00Z");
    place.calls.push(
        Call::post(
            "/reservations",
            &json!({"userId": "", "userName": "\0", "email": "x", "movieId": movie, "count": 101}),
            422,
        )
        .expect_error("/userId", "must have between 1 and 200 characters")
        .expect_error("/userName", "must not contain NUL")
        .expect_error("/email", "must be an address of at most 254 characters: name@domain")
        .expect_error("/count", "must be between 1 and 100"),
    );
    place.calls
}

/// Bodies over the size limit, and at it.
pub(super) fn too_large() -> Vec<Call> {
    let sized = |body: &Value, length: usize| {
        let body = body.to_string();
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    let bounds = [("/movies", movie(), 201), ("/reservations", reservation(Uuid::now_v7()), 202)];
    let mut calls = Vec::new();
    for (path, body, status) in bounds {
        for (length, status) in [(BODY_LIMIT_BYTES, status), (BODY_LIMIT_BYTES + 1, 413), (10 << 20, 413)] {
            let call = Call::post(path, &json!({}), status).bytes(sized(&body, length));
            calls.push(if status == 413 { call.expect_detail("at most 65536 bytes") } else { call });
        }
        let long = with(&body, "userName", "x".repeat(10 << 20));
        calls.push(Call::post(path, &long, 413).expect_detail("at most 65536 bytes"));
    }
    // Too large bodies of calls for a movie that does not exist.
    let movie = Uuid::now_v7();
    for (method, path) in
        [(Method::PATCH, format!("/movies/{movie}")), (Method::POST, format!("/movies/{movie}/tickets"))]
    {
        let call = Call::new(method, path, 413).send_header("content-type", "application/json");
        calls.push(
            call.send_header("if-match", "*")
                .bytes("x".repeat(BODY_LIMIT_BYTES + 1))
                .expect_detail("at most 65536 bytes"),
        );
    }
    calls
}

/// Bodies whose `Content-Type` is not JSON.
pub(super) fn of_other_types(id: Uuid) -> Vec<Call> {
    let types: [&[u8]; 9] = [
        b"",
        b"text/plain",
        b"text/json",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"application/jsonx",
        b"application",
        b"+json",
        b"\xff",
    ];
    let (edited, delivered) = (format!("/movies/{id}"), format!("/movies/{id}/tickets"));
    let targets = [
        (Method::POST, "/movies", movie()),
        (Method::POST, "/reservations", reservation(id)),
        (Method::PATCH, edited.as_str(), json!({})),
        (Method::POST, delivered.as_str(), json!({"count": 1})),
    ];
    let mut calls = Vec::new();
    for (method, path, body) in targets {
        let call =
            || Call::new(method.clone(), path, 415).bytes(body.to_string()).send_header("if-match", "*");
        calls.push(call().expect_detail("Content-Type must be application/json"));
        calls.extend(types.iter().map(|kind| call().send_header("content-type", kind.to_vec())));
    }
    calls
}
