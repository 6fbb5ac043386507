//! Services whose tables, calls or e-mails are handled wrongly.

use super::{Edit, Mutant, integration, unit};

const RESERVATION: &str = "reservation/src/lib.rs";
const RESERVATION_STORE: &str = "reservation/src/store.rs";
const MOVIE_STORE: &str = "movie/src/store.rs";
const LIST_STORE: &str = "reservation-list/src/store.rs";
const EMAIL: &str = "notification/src/store/email.rs";
const GATEWAY: &str = "gateway/src/proxy.rs";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "sweeper-without-a-lock",
        wrong: "two sweepers cancel the same reservations",
        edits: &[Edit {
            file: RESERVATION_STORE,
            right: "         order by id\n         for update skip locked\"",
            wrong: "         order by id\"",
        }],
        killers: &[integration("locks::the_sweeper_waits_for_nobody")],
    },
    Mutant {
        name: "sweeper-waits",
        wrong: "the sweeper waits for a reservation that is being decided, and the others with it",
        edits: &[Edit { file: RESERVATION_STORE, right: "for update skip locked", wrong: "for update" }],
        killers: &[integration("locks::the_sweeper_waits_for_nobody")],
    },
    Mutant {
        name: "unsorted-locks-in-reservation",
        wrong: "a batch takes its rows in the order of the log",
        edits: &[Edit {
            file: RESERVATION_STORE,
            right: "where id = any ($1) order by id for update",
            wrong: "where id = any ($1) order by array_position($1, id) for update",
        }],
        killers: &[integration("locks::are_taken_in_the_order_of_the_ids")],
    },
    Mutant {
        name: "key-outside-the-transaction",
        wrong: "a call's Idempotency-Key is kept before the call has had its effect",
        edits: &[Edit {
            file: RESERVATION,
            right: "self.idempotency.save(&mut transaction, &kept).await?;",
            wrong: "self.idempotency.save(&mut *self.pool.acquire().await?, &kept).await?;",
        }],
        killers: &[integration("together::what_a_call_writes")],
    },
    Mutant {
        name: "unsorted-locks-in-movie",
        wrong: "a batch takes its movies in the order of the log",
        edits: &[
            Edit { file: MOVIE_STORE, right: "    movies.sort_unstable();\n", wrong: "" },
            Edit {
                file: MOVIE_STORE,
                right: "where id = any ($1) order by id for update",
                wrong: "where id = any ($1) order by array_position($1, id) for update",
            },
        ],
        killers: &[integration("locks::are_taken_in_the_order_of_the_ids")],
    },
    Mutant {
        name: "stock-without-a-lock",
        wrong: "movies are read without being locked",
        edits: &[Edit {
            file: MOVIE_STORE,
            right: "where id = any ($1) order by id for update",
            wrong: "where id = any ($1) order by id",
        }],
        killers: &[integration("locks::are_taken_in_the_order_of_the_ids")],
    },
    Mutant {
        name: "unsorted-locks-in-reservation-list",
        wrong: "a batch takes its rows in the order of the log",
        edits: &[
            Edit { file: LIST_STORE, right: "    ids.sort_unstable();\n", wrong: "" },
            Edit {
                file: LIST_STORE,
                right: "where id = any ($1) order by id for update",
                wrong: "where id = any ($1) order by array_position($1, id) for update",
            },
        ],
        killers: &[integration("locks::are_taken_in_the_order_of_the_ids")],
    },
    Mutant {
        name: "e-mail-without-a-lease",
        wrong: "an e-mail that is being sent is still due",
        edits: &[Edit {
            file: EMAIL,
            right: "due_at = clock_timestamp() + make_interval(secs => $2)",
            wrong: "due_at = email.due_at + make_interval(secs => 0 * $2)",
        }],
        killers: &[integration("email::two_replicas_send_each_once")],
    },
    Mutant {
        name: "gateway-repeats-a-post",
        wrong: "the gateway sends a POST without key or id again when its connection was cut",
        edits: &[Edit {
            file: GATEWAY,
            right: "Method::GET | Method::HEAD | Method::OPTIONS => true,\n        Method::POST => {",
            wrong: "Method::GET | Method::HEAD | Method::OPTIONS | Method::POST => true,\n        Method::POST => {",
        }],
        killers: &[unit("gateway")],
    },
];
