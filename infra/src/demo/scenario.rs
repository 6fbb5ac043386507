//! The golden run as data.

use serde_json::{Value, json};
use shared_events::Topic;
use uuid::Uuid;

/// A call to the gateway.
pub(super) struct Call {
    pub(super) method: reqwest::Method,
    pub(super) path: String,
    pub(super) body: Option<Value>,
    /// The expected status, and expected fields of the response.
    pub(super) status: u16,
    pub(super) response: Value,
}

/// A GET whose response must become as expected after a call.
pub(super) struct Outcome {
    pub(super) title: &'static str,
    pub(super) path: String,
    pub(super) expected: Expected,
}

/// The expected response.
pub(super) enum Expected {
    /// An object with these fields.
    Fields(Value),
    /// A collection of exactly these items, newest first, each with these fields.
    Items(Vec<Value>),
}

/// An event that a step must cause. The events of one topic are expected in their order.
pub(super) struct ExpectedEvent {
    pub(super) topic: Topic,
    /// Fields of its value, including `eventType`.
    pub(super) fields: Value,
    /// Expected values of its headers.
    pub(super) ce_type: &'static str,
    pub(super) subject: Uuid,
    pub(super) correlation: Uuid,
}

pub(super) struct Step {
    pub(super) title: String,
    pub(super) call: Call,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) events: Vec<ExpectedEvent>,
}

/// The golden run with new ids, so that it can be played on any theater, any number of times.
pub(super) struct Scenario {
    pub(super) movie: Uuid,
    pub(super) steps: Vec<Step>,
}

/// One reservation of the run.
struct Reservation {
    id: Uuid,
    movie: Uuid,
    user: String,
    name: &'static str,
    count: i64,
}

impl Scenario {
    pub(super) fn new() -> Self {
        let movie = Uuid::now_v7();
        let run = Uuid::new_v4().simple().to_string();
        let reservation = |name: &'static str, count| Reservation {
            id: Uuid::now_v7(),
            movie,
            user: format!("{}-{}", name.to_lowercase(), &run[..8]),
            name,
            count,
        };
        let (ada, grace, edsger) =
            (reservation("Ada", 45), reservation("Grace", 57), reservation("Edsger", 55));
        let steps = vec![
            publish_movie(movie),
            ada.place_confirmed(55, 2),
            grace.place_rejected(55, 2),
            edsger.place_confirmed(0, 3),
            ada.cancel(45, 4),
        ];
        Self { movie, steps }
    }
}

fn publish_movie(movie: Uuid) -> Step {
    Step {
        title: "A vendor publishes LALALand with 100 tickets".to_owned(),
        call: Call {
            method: reqwest::Method::POST,
            path: "/movies".to_owned(),
            body: Some(json!({"id": movie, "movieName": "LALALand", "qty": 100, "description": "A musical"})),
            status: 201,
            response: json!({"id": movie, "movieName": "LALALand", "qty": 100}),
        },
        outcomes: vec![tickets_left(movie, 100)],
        events: vec![ExpectedEvent {
            topic: Topic::Movies,
            fields: json!({"eventType": "MoviePublished", "movieId": movie, "movieName": "LALALand", "qty": 100, "version": 1}),
            ce_type: "theater.movie-published.v1",
            subject: movie,
            correlation: movie,
        }],
    }
}

fn tickets_left(movie: Uuid, qty: i64) -> Outcome {
    Outcome {
        title: "tickets left",
        path: format!("/movies/{movie}"),
        expected: Expected::Fields(json!({"qty": qty})),
    }
}

impl Reservation {
    fn place(&self, title: String, outcomes: Vec<Outcome>, events: Vec<ExpectedEvent>) -> Step {
        let (id, movie, count) = (self.id, self.movie, self.count);
        Step {
            title,
            call: Call {
                method: reqwest::Method::POST,
                path: "/reservations".to_owned(),
                body: Some(
                    json!({"id": id, "userId": self.user, "userName": self.name, "movieId": movie, "count": count}),
                ),
                status: 202,
                response: json!({"id": id, "reserveStatus": "PENDING", "movieId": movie, "count": count}),
            },
            outcomes,
            events,
        }
    }

    fn place_confirmed(&self, left_after: i64, version: i64) -> Step {
        let outcomes = vec![
            self.status_is(json!({"reserveStatus": "CONFIRMED"})),
            tickets_left(self.movie, left_after),
            self.list_is(vec![
                json!({"reserveId": self.id, "reserveStatus": "CONFIRMED", "count": self.count}),
            ]),
            self.notifications_are(&["CONFIRMED"]),
        ];
        let allocated = json!({"eventType": "TicketsAllocated", "qty": left_after, "version": version});
        let events = vec![
            self.reservation_event(
                "theater.reservation-placed.v1",
                json!({"eventType": "ReservationPlaced"}),
            ),
            self.movie_event("theater.tickets-allocated.v1", allocated),
            self.reservation_event(
                "theater.reservation-confirmed.v1",
                json!({"eventType": "ReservationConfirmed", "movieName": "LALALand"}),
            ),
        ];
        self.place(format!("{} reserves {}: there are enough", self.name, self.count), outcomes, events)
    }

    fn place_rejected(&self, left_after: i64, version: i64) -> Step {
        let outcomes = vec![
            self.status_is(json!({"reserveStatus": "CANCELLED", "cancelReason": "OUT_OF_STOCK"})),
            tickets_left(self.movie, left_after),
            self.list_is(Vec::new()),
            self.notifications_are(&["CANCELLED"]),
        ];
        let rejected = json!({
            "eventType": "AllocationRejected", "qty": left_after, "version": version, "reason": "OUT_OF_STOCK"
        });
        let events = vec![
            self.reservation_event(
                "theater.reservation-placed.v1",
                json!({"eventType": "ReservationPlaced"}),
            ),
            self.movie_event("theater.allocation-rejected.v1", rejected),
            self.cancelled_event("OUT_OF_STOCK"),
        ];
        self.place(
            format!("{} reserves {}: there are only {left_after}", self.name, self.count),
            outcomes,
            events,
        )
    }

    fn cancel(&self, left_after: i64, version: i64) -> Step {
        let released = json!({"eventType": "TicketsReleased", "qty": left_after, "version": version});
        Step {
            title: format!("{} cancels, and the {} tickets are free again", self.name, self.count),
            call: Call {
                method: reqwest::Method::DELETE,
                path: format!("/reservations/{}", self.id),
                body: None,
                status: 202,
                response: json!({"id": self.id, "reserveStatus": "CANCELLED", "cancelReason": "CUSTOMER"}),
            },
            outcomes: vec![
                self.status_is(json!({"reserveStatus": "CANCELLED", "cancelReason": "CUSTOMER"})),
                tickets_left(self.movie, left_after),
                self.list_is(Vec::new()),
                self.notifications_are(&["CANCELLED", "CONFIRMED"]),
            ],
            events: vec![
                self.cancelled_event("CUSTOMER"),
                self.movie_event("theater.tickets-released.v1", released),
            ],
        }
    }

    fn status_is(&self, fields: Value) -> Outcome {
        let path = format!("/reservations/{}", self.id);
        Outcome { title: "the reservation", path, expected: Expected::Fields(fields) }
    }

    fn list_is(&self, rows: Vec<Value>) -> Outcome {
        let path = format!("/reservationLists?userId={}", self.user);
        Outcome { title: "the customer's list", path, expected: Expected::Items(rows) }
    }

    fn notifications_are(&self, statuses: &[&str]) -> Outcome {
        let item =
            |status: &&str| json!({"reserveId": self.id, "reserveStatus": status, "userName": self.name});
        Outcome {
            title: "the customer's notifications",
            path: format!("/notifications?reserveId={}", self.id),
            expected: Expected::Items(statuses.iter().map(item).collect()),
        }
    }

    fn cancelled_event(&self, reason: &str) -> ExpectedEvent {
        let fields = json!({"eventType": "ReservationCancelled", "reason": reason});
        self.reservation_event("theater.reservation-cancelled.v1", fields)
    }

    fn reservation_event(&self, ce_type: &'static str, mut fields: Value) -> ExpectedEvent {
        fields["userId"] = json!(self.user);
        self.event(Topic::Reservations, ce_type, fields)
    }

    fn movie_event(&self, ce_type: &'static str, fields: Value) -> ExpectedEvent {
        self.event(Topic::Movies, ce_type, fields)
    }

    fn event(&self, topic: Topic, ce_type: &'static str, mut fields: Value) -> ExpectedEvent {
        fields["reservationId"] = json!(self.id);
        fields["movieId"] = json!(self.movie);
        fields["count"] = json!(self.count);
        // An event of the movie service has the movie as its subject, and the reservation as its correlation id.
        let subject = if topic == Topic::Movies { self.movie } else { self.id };
        ExpectedEvent { topic, fields, ce_type, subject, correlation: self.id }
    }
}
