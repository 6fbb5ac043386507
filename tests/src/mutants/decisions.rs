//! Services that decide wrongly.

use super::{Edit, Mutant, SIMULATION, unit};

const MOVIE: &str = "movie/src/movie.rs";
const RESERVATION: &str = "reservation/src/reservation.rs";
const NOTIFICATION: &str = "notification/src/notification.rs";
const RESERVATION_LIST: &str = "reservation-list/src/projection.rs";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "stock-more-than",
        wrong: "the last ticket is never sold: `>` for `≥` in the stock",
        edits: &[Edit {
            file: MOVIE,
            right: "Some(movie) if movie.qty >= count.get()",
            wrong: "Some(movie) if movie.qty > count.get()",
        }],
        killers: &[unit("movie"), SIMULATION],
    },
    Mutant {
        name: "stock-one-too-many",
        wrong: "one ticket more is sold than there is",
        edits: &[Edit {
            file: MOVIE,
            right: "Some(movie) if movie.qty >= count.get()",
            wrong: "Some(movie) if movie.qty + 1 >= count.get()",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "rejection-not-recorded",
        wrong: "movie forgets whom it rejected",
        edits: &[Edit {
            file: MOVIE,
            right: "        self.record(reservation_id, Decision { movie_id: id, outcome, count });",
            wrong: "        if outcome != Outcome::Rejected {
            self.record(reservation_id, Decision { movie_id: id, outcome, count });
        }",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "no-void-decision",
        wrong: "a cancellation that comes before its placement leaves nothing for it to find",
        edits: &[Edit {
            file: MOVIE,
            right: "self.record(reservation_id, Decision { movie_id: id, outcome: Outcome::Void, count });",
            wrong: "",
        }],
        killers: &[unit("movie")],
    },
    Mutant {
        name: "release-twice",
        wrong: "a cancellation that comes again gives the tickets back again",
        edits: &[Edit {
            file: MOVIE,
            right: "Outcome::Rejected | Outcome::Released | Outcome::Void => return,",
            wrong: "Outcome::Rejected | Outcome::Void => return,
            Outcome::Released => {}",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "release-as-told",
        wrong: "what the cancellation says is given back, not what was allocated",
        edits: &[Edit { file: MOVIE, right: "        let count = decision.count;\n", wrong: "" }],
        killers: &[unit("movie")],
    },
    Mutant {
        name: "no-guard-in-movie",
        wrong: "what was rejected or never allocated is given back too",
        edits: &[Edit {
            file: MOVIE,
            right: "Outcome::Rejected | Outcome::Released | Outcome::Void => return,",
            wrong: "Outcome::Rejected | Outcome::Released | Outcome::Void => {}",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "placement-allocated-again",
        wrong: "a placement that comes again is allocated again",
        edits: &[Edit {
            file: MOVIE,
            right: "Outcome::Void => {}\n            }\n            return;",
            wrong: "Outcome::Void => return,\n            }",
        }],
        killers: &[unit("movie"), SIMULATION],
    },
    Mutant {
        name: "version-not-raised",
        wrong: "an allocation leaves the movie's version as it is",
        edits: &[Edit {
            file: MOVIE,
            right: "movie.version += 1;\n                let allocated",
            wrong: "let allocated",
        }],
        killers: &[unit("movie"), SIMULATION],
    },
    Mutant {
        name: "no-guard-in-reservation",
        wrong: "a cancelled reservation is confirmed by an answer that comes late",
        edits: &[Edit {
            file: RESERVATION,
            right: "(Command::Confirm { movie_name }, Status::Pending) => {",
            wrong: "(Command::Confirm { movie_name }, Status::Pending | Status::Cancelled(_)) => {",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "deadline-without-compensation",
        wrong: "what the deadline cancels is told to nobody",
        edits: &[Edit {
            file: RESERVATION,
            right: "        self.writes.events.push((told(&reservation, self.now), origin));",
            wrong: "        if status.reason() != Some(CancelReason::Deadline) {
            self.writes.events.push((told(&reservation, self.now), origin));
        }",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "id-means-any-call",
        wrong: "another call under a reservation's id is taken for a repeat",
        edits: &[Edit {
            file: RESERVATION,
            right: "return if *request == reservation.request {",
            wrong: "return if request.user_id == reservation.request.user_id {",
        }],
        killers: &[unit("reservation")],
    },
    Mutant {
        name: "no-guard-in-notification",
        wrong: "an outcome that comes again is told again",
        edits: &[Edit {
            file: NOTIFICATION,
            right: "let is_repeat = !state.insert(input.key());",
            wrong: "let is_repeat = !state.insert(input.key()) && false;",
        }],
        killers: &[unit("notification")],
    },
    Mutant {
        name: "notification-without-the-outcome",
        wrong: "who was told of the confirmation is not told of the cancellation",
        edits: &[Edit {
            file: NOTIFICATION,
            right: "(self.reservation_id, self.outcome.status())",
            wrong: "(self.reservation_id, Status::Confirmed)",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "no-guard-in-reservation-list",
        wrong: "an older confirmation lists what is cancelled",
        edits: &[Edit {
            file: RESERVATION_LIST,
            right: "(Some(Status::Cancelled), Status::Confirmed) => {}",
            wrong: "(Some(Status::Cancelled), Status::Confirmed) => {
                writes.cancelled.remove(&input.id);
                statuses.insert(input.id, input.status);
                writes.new.push(input);
            }",
        }],
        killers: &[unit("reservation-list"), SIMULATION],
    },
];
