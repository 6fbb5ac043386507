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
        defect: "movie forgets whom it rejected",
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
        defect: "a cancellation that comes before its placement leaves nothing for it to find",
        edits: &[Edit {
            file: MOVIE,
            original: "self.record_decision(reservation_id, Decision { movie_id: id, outcome: Outcome::Void, count });",
            mutated: "",
        }],
        killers: &[unit("movie")],
    },
    Mutant {
        name: "release-twice",
        defect: "a cancellation that comes again gives the tickets back again",
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
        defect: "what the cancellation says is given back, not what was allocated",
        edits: &[Edit { file: MOVIE, original: "        let count = decision.count;\n", mutated: "" }],
        killers: &[unit("movie")],
    },
    Mutant {
        name: "no-guard-in-movie",
        defect: "what was rejected or never allocated is given back too",
        edits: &[Edit {
            file: MOVIE,
            original: "Outcome::Rejected | Outcome::Released | Outcome::Void => return,",
            mutated: "Outcome::Rejected | Outcome::Released | Outcome::Void => {}",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "placement-allocated-again",
        defect: "a placement that comes again is allocated again",
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
        defect: "a cancelled reservation is confirmed by an answer that comes late",
        edits: &[Edit {
            file: RESERVATION,
            original: "(Command::Confirm { movie_name }, Status::Pending) => {",
            mutated: "(Command::Confirm { movie_name }, Status::Pending | Status::Cancelled(_)) => {",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "deadline-without-compensation",
        defect: "what the deadline cancels is told to nobody",
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
        defect: "another call under a reservation's id is taken for a repeat",
        edits: &[Edit {
            file: RESERVATION,
            original: "return if *request == reservation.request {",
            mutated: "return if request.user_id == reservation.request.user_id {",
        }],
        killers: &[unit("reservation")],
    },
    Mutant {
        name: "no-guard-in-notification",
        defect: "an outcome that comes again is told again",
        edits: &[Edit {
            file: NOTIFICATION,
            original: "let is_repeat = !state.insert(input.key());",
            mutated: "let is_repeat = !state.insert(input.key()) && false;",
        }],
        killers: &[unit("notification")],
    },
    Mutant {
        name: "notification-without-the-outcome",
        defect: "who was told of the confirmation is not told of the cancellation",
        edits: &[Edit {
            file: NOTIFICATION,
            original: "(self.reservation_id, self.outcome.status())",
            mutated: "(self.reservation_id, Status::Confirmed)",
        }],
        killers: &[SIMULATION],
    },
    Mutant {
        name: "no-guard-in-reservation-list",
        defect: "an older confirmation lists what is cancelled",
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
