//! Faulty decisions in the domain logic of the services.

use super::{Edit, Mutant, SIMULATION, unit};

const MOVIE: &str = "movie/src/movie.rs";
const RESERVATION: &str = "reservation/src/reservation.rs";
const NOTIFICATION: &str = "notification/src/notification.rs";
const RESERVATION_LIST: &str = "reservation-list/src/projection.rs";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "stock-more-than",
        defect: "the last ticket is never sold: `>` for `≥` in the stock",
        edits: &[Edit {
            file: MOVIE,
            original: "Some(movie) if movie.qty >= count.get()",
            mutated: "Some(movie) if movie.qty > count.get()",
        }],
        killers: &[unit("movie"), SIMULATION],
    },
    Mutant {
        name: "stock-one-too-many",
        defect: "one ticket more is sold than there is",
        edits: &[Edit {
            file: MOVIE,
            original: "Some(movie) if movie.qty >= count.get()",
            mutated: "Some(movie) if movie.qty + 1 >= count.get()",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "rejection-not-recorded",
        defect: "movie does not record a rejection",
        edits: &[Edit {
            file: MOVIE,
            original: "        self.record_decision(reservation_id, Decision { movie_id: id, outcome, count });",
            mutated: "        if outcome != Outcome::Rejected {
            self.record_decision(reservation_id, Decision { movie_id: id, outcome, count });
        }",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "no-void-decision",
        defect: "a cancellation before its placement records no void decision",
        edits: &[Edit {
            file: MOVIE,
            original: "self.record_decision(reservation_id, Decision { movie_id: id, outcome: Outcome::Void, count });",
            mutated: "",
        }],
        killers: &[unit("movie")],
    },
    Mutant {
        name: "release-twice",
        defect: "a repeated cancellation releases the tickets again",
        edits: &[Edit {
            file: MOVIE,
            original: "Outcome::Rejected | Outcome::Released | Outcome::Void => return,",
            mutated: "Outcome::Rejected | Outcome::Void => return,
            Outcome::Released => {}",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "release-as-told",
        defect: "the event's count is released, not the allocated count",
        edits: &[Edit { file: MOVIE, original: "        let count = decision.count;\n", mutated: "" }],
        killers: &[unit("movie")],
    },
    Mutant {
        name: "no-guard-in-movie",
        defect: "rejected and void decisions are released too",
        edits: &[Edit {
            file: MOVIE,
            original: "Outcome::Rejected | Outcome::Released | Outcome::Void => return,",
            mutated: "Outcome::Rejected | Outcome::Released | Outcome::Void => {}",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "placement-allocated-again",
        defect: "a repeated placement is allocated again",
        edits: &[Edit {
            file: MOVIE,
            original: "Outcome::Void => {}\n            }\n            return;",
            mutated: "Outcome::Void => return,\n            }",
        }],
        killers: &[unit("movie"), SIMULATION],
    },
    Mutant {
        name: "version-not-raised",
        defect: "an allocation leaves the movie's version as it is",
        edits: &[Edit {
            file: MOVIE,
            original: "movie.version += 1;\n                let allocated",
            mutated: "let allocated",
        }],
        killers: &[unit("movie"), SIMULATION],
    },
    Mutant {
        name: "no-guard-in-reservation",
        defect: "a late reply confirms a cancelled reservation",
        edits: &[Edit {
            file: RESERVATION,
            original: "(Command::Confirm { movie_name }, Status::Pending) => {",
            mutated: "(Command::Confirm { movie_name }, Status::Pending | Status::Cancelled(_)) => {",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "deadline-without-compensation",
        defect: "a cancellation by deadline publishes no event",
        edits: &[Edit {
            file: RESERVATION,
            original: "        self.writes.events.push((outcome_event(&reservation, self.now), origin));",
            mutated: "        if status.reason() != Some(CancelReason::Deadline) {
            self.writes.events.push((outcome_event(&reservation, self.now), origin));
        }",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "id-means-any-call",
        defect: "another call with a reservation's id counts as a repeat",
        edits: &[Edit {
            file: RESERVATION,
            original: "return if *request == reservation.request {",
            mutated: "return if request.user_id == reservation.request.user_id {",
        }],
        killers: &[unit("reservation")],
    },
    Mutant {
        name: "no-guard-in-notification",
        defect: "a repeated outcome is notified again",
        edits: &[Edit {
            file: NOTIFICATION,
            original: "let is_repeat = !state.insert(input.key());",
            mutated: "let is_repeat = !state.insert(input.key()) && false;",
        }],
        killers: &[unit("notification")],
    },
    Mutant {
        name: "notification-without-the-outcome",
        defect: "a customer notified of the confirmation is not notified of the cancellation",
        edits: &[Edit {
            file: NOTIFICATION,
            original: "(self.reservation_id, self.outcome.status())",
            mutated: "(self.reservation_id, Status::Confirmed)",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "no-guard-in-reservation-list",
        defect: "an older confirmation lists a cancelled reservation",
        edits: &[Edit {
            file: RESERVATION_LIST,
            original: "(Some(Status::Cancelled), Status::Confirmed) => {}",
            mutated: "(Some(Status::Cancelled), Status::Confirmed) => {
                writes.cancelled.remove(&input.id);
                statuses.insert(input.id, input.status);
                writes.new.push(input);
            }",
        }],
        killers: &[unit("reservation-list"), SIMULATION],
    },
];
