//! The golden run as data.

use serde_json::{Value, json};
use shared_events::Topic;
use uuid::Uuid;

/// A call to the gateway.
pub(super) struct Call {
    pub(super) method: reqwest::Method,
    pub(super) path: String,
    pub(super) body: Option<Value>,
    /// The status it must answer, and fields of that answer.
    pub(super) status: u16,
    pub(super) answer: Value,
}

/// Something that must become true after a call: what a GET answers.
pub(super) struct Outcome {
    pub(super) what: &'static str,
    pub(super) path: String,
    pub(super) expected: Expected,
}

/// What an answer must hold.
pub(super) enum Expected {
    /// One object with these fields.
    Fields(Value),
    /// A collection of exactly these, newest first, each with these fields.
    Items(Vec<Value>),
}

/// An event that a step must cause; on its topic in this order.
pub(super) struct Fact {
    pub(super) topic: Topic,
    /// Fields of its value, `eventType` among them.
    pub(super) fields: Value,
    /// What its headers must say beside the ids.
    pub(super) ce_type: &'static str,
    pub(super) subject: Uuid,
    pub(super) correlation: Uuid,
}

pub(super) struct Step {
    pub(super) title: String,
    pub(super) call: Call,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) facts: Vec<Fact>,
}

/// A run of its own: fresh ids, so that it can be played on any theater, again and again.
pub(super) struct Script {
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

impl Script {
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
            publish(movie),
            ada.confirmed(55, 2),
            grace.rejected(55, 2),
            edsger.confirmed(0, 3),
            ada.given_back(45, 4),
        ];
        Self { movie, steps }
    }
}

fn publish(movie: Uuid) -> Step {
    Step {
        title: "A vendor publishes LALALand with 100 tickets".to_owned(),
        call: Call {
            method: reqwest::Method::POST,
            path: "/movies".to_owned(),
            body: Some(json!({"id": movie, "movieName": "LALALand", "qty": 100, "description": "A musical"})),
            status: 201,
            answer: json!({"id": movie, "movieName": "LALALand", "qty": 100}),
        },
        outcomes: vec![left(movie, 100)],
        facts: vec![Fact {
            topic: Topic::Movies,
            fields: json!({"eventType": "MoviePublished", "movieId": movie, "movieName": "LALALand", "qty": 100, "version": 1}),
            ce_type: "theater.movie-published.v1",
            subject: movie,
            correlation: movie,
        }],
    }
}

fn left(movie: Uuid, qty: i64) -> Outcome {
    Outcome {
        what: "tickets left",
        path: format!("/movies/{movie}"),
        expected: Expected::Fields(json!({"qty": qty})),
    }
}

impl Reservation {
    fn place(&self, title: String, outcomes: Vec<Outcome>, facts: Vec<Fact>) -> Step {
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
                answer: json!({"id": id, "reserveStatus": "PENDING", "movieId": movie, "count": count}),
            },
            outcomes,
            facts,
        }
    }

    fn confirmed(&self, left_after: i64, version: i64) -> Step {
        let outcomes = vec![
            self.status(json!({"reserveStatus": "CONFIRMED"})),
            left(self.movie, left_after),
            self.listed(vec![
                json!({"reserveId": self.id, "reserveStatus": "CONFIRMED", "count": self.count}),
            ]),
            self.notified(&["CONFIRMED"]),
        ];
        let allocated = json!({"eventType": "TicketsAllocated", "qty": left_after, "version": version});
        let facts = vec![
            self.own("theater.reservation-placed.v1", json!({"eventType": "ReservationPlaced"})),
            self.movies("theater.tickets-allocated.v1", allocated),
            self.own(
                "theater.reservation-confirmed.v1",
                json!({"eventType": "ReservationConfirmed", "movieName": "LALALand"}),
            ),
        ];
        self.place(format!("{} reserves {}: there are enough", self.name, self.count), outcomes, facts)
    }

    fn rejected(&self, left_after: i64, version: i64) -> Step {
        let outcomes = vec![
            self.status(json!({"reserveStatus": "CANCELLED", "cancelReason": "OUT_OF_STOCK"})),
            left(self.movie, left_after),
            self.listed(Vec::new()),
            self.notified(&["CANCELLED"]),
        ];
        let rejected = json!({
            "eventType": "AllocationRejected", "qty": left_after, "version": version, "reason": "OUT_OF_STOCK"
        });
        let facts = vec![
            self.own("theater.reservation-placed.v1", json!({"eventType": "ReservationPlaced"})),
            self.movies("theater.allocation-rejected.v1", rejected),
            self.cancelled("OUT_OF_STOCK"),
        ];
        self.place(
            format!("{} reserves {}: there are only {left_after}", self.name, self.count),
            outcomes,
            facts,
        )
    }

    fn given_back(&self, left_after: i64, version: i64) -> Step {
        let released = json!({"eventType": "TicketsReleased", "qty": left_after, "version": version});
        Step {
            title: format!("{} cancels, and the {} tickets are free again", self.name, self.count),
            call: Call {
                method: reqwest::Method::DELETE,
                path: format!("/reservations/{}", self.id),
                body: None,
                status: 202,
                answer: json!({"id": self.id, "reserveStatus": "CANCELLED", "cancelReason": "CUSTOMER"}),
            },
            outcomes: vec![
                self.status(json!({"reserveStatus": "CANCELLED", "cancelReason": "CUSTOMER"})),
                left(self.movie, left_after),
                self.listed(Vec::new()),
                self.notified(&["CANCELLED", "CONFIRMED"]),
            ],
            facts: vec![self.cancelled("CUSTOMER"), self.movies("theater.tickets-released.v1", released)],
        }
    }

    fn status(&self, fields: Value) -> Outcome {
        let path = format!("/reservations/{}", self.id);
        Outcome { what: "the reservation", path, expected: Expected::Fields(fields) }
    }

    fn listed(&self, rows: Vec<Value>) -> Outcome {
        let path = format!("/reservationLists?userId={}", self.user);
        Outcome { what: "the customer's list", path, expected: Expected::Items(rows) }
    }

    fn notified(&self, statuses: &[&str]) -> Outcome {
        let item =
            |status: &&str| json!({"reserveId": self.id, "reserveStatus": status, "userName": self.name});
        Outcome {
            what: "the customer's notifications",
            path: format!("/notifications?reserveId={}", self.id),
            expected: Expected::Items(statuses.iter().map(item).collect()),
        }
    }

    fn cancelled(&self, reason: &str) -> Fact {
        let fields = json!({"eventType": "ReservationCancelled", "reason": reason});
        self.own("theater.reservation-cancelled.v1", fields)
    }

    fn own(&self, ce_type: &'static str, mut fields: Value) -> Fact {
        fields["userId"] = json!(self.user);
        self.fact(Topic::Reservations, ce_type, fields)
    }

    fn movies(&self, ce_type: &'static str, fields: Value) -> Fact {
        self.fact(Topic::Movies, ce_type, fields)
    }

    fn fact(&self, topic: Topic, ce_type: &'static str, mut fields: Value) -> Fact {
        fields["reservationId"] = json!(self.id);
        fields["movieId"] = json!(self.movie);
        fields["count"] = json!(self.count);
        // A movie's own events are about the movie; their saga is the reservation's all the same.
        let subject = if topic == Topic::Movies { self.movie } else { self.id };
        Fact { topic, fields, ce_type, subject, correlation: self.id }
    }
}
