//! Services whose tables, calls, e-mails or exports are handled wrongly.

use super::{Edit, Mutant, integration, unit};

const RESERVATION: &str = "reservation/src/unit_of_work.rs";
const RESERVATION_STORE: &str = "reservation/src/store.rs";
const MOVIE_STORE: &str = "movie/src/store.rs";
const LIST_STORE: &str = "reservation-list/src/store.rs";
const EMAIL: &str = "notification/src/store/email.rs";
const EXPORT: &str = "reservation-list/src/store/export.rs";
const EXPORT_FOLDER: &str = "reservation-list/src/export/folder.rs";
const EXPORTER: &str = "reservation-list/src/export/exporter.rs";
const EXPORT_CSV: &str = "reservation-list/src/export/csv_format.rs";
const GATEWAY: &str = "gateway/src/proxy/upstream_request.rs";

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
            right: "self.idempotency.save(&mut transaction, &stored_responses).await?;",
            wrong: "self.idempotency.save(&mut *self.pool.acquire().await?, &stored_responses).await?;",
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
        name: "export-under-its-last-name",
        wrong: "a file of an export has its name before it is whole",
        edits: &[Edit {
            file: EXPORT_FOLDER,
            right: "let path = self.path(name, PARTIAL);",
            wrong: "let path = self.path(name, COMPLETE);",
        }],
        killers: &[unit("reservation-list"), integration("exports::a_dead_replicas_export_is_begun_again")],
    },
    Mutant {
        name: "export-without-a-lease",
        wrong: "an export that is being made is still due",
        edits: &[Edit {
            file: EXPORT,
            right: "where state in ('PENDING', 'RUNNING') and due_at <= now() and expires_at > now()",
            wrong: "where state in ('PENDING', 'RUNNING') and expires_at > now()",
        }],
        killers: &[integration("exports::a_dead_replicas_export_is_begun_again")],
    },
    Mutant {
        name: "export-of-pending-ones-only",
        wrong: "an export that somebody began is never begun again",
        edits: &[Edit {
            file: EXPORT,
            right: "where state in ('PENDING', 'RUNNING') and due_at <= now() and expires_at > now()",
            wrong: "where state = 'PENDING' and due_at <= now() and expires_at > now()",
        }],
        killers: &[integration("exports::a_dead_replicas_export_is_begun_again")],
    },
    Mutant {
        name: "export-of-what-is-confirmed",
        wrong: "cancelled reservations are not exported",
        edits: &[Edit {
            file: EXPORT,
            right: "where movie_id = $1 order by seq",
            wrong: "where movie_id = $1 and status = 'CONFIRMED' order by seq",
        }],
        killers: &[integration("exports::a_movies_reservations_are_exported")],
    },
    Mutant {
        name: "formulas-as-they-were-typed",
        wrong: "a spreadsheet runs what a customer typed",
        edits: &[Edit {
            file: EXPORT_CSV,
            right: "if value.starts_with(ESCAPED_FIRST_CHARS) {",
            wrong: "if value.starts_with(ESCAPED_FIRST_CHARS) && value.is_empty() {",
        }],
        killers: &[unit("reservation-list"), integration("exports::a_movies_reservations_are_exported")],
    },
    Mutant {
        name: "files-for-ever",
        wrong: "the rows of expired exports are deleted, and their files stay",
        edits: &[Edit {
            file: EXPORTER,
            right: "let deleted = self.folder.delete_expired(now).await;",
            wrong: "let deleted = self.folder.delete_expired(now - chrono::TimeDelta::days(36_500)).await;",
        }],
        killers: &[integration("exports::expired_exports_are_cleared")],
    },
    Mutant {
        name: "a-broken-folder-ends-the-service",
        wrong: "an export that can't be written is a fatal fault",
        edits: &[Edit {
            file: EXPORTER,
            right: "Err(Failure::LeaseLost) => return Ok(None),",
            wrong: "Err(Failure::LeaseLost) => return Ok(None),\n        Err(Failure::File(error)) => return Err(Fault::Fatal(error.to_string())),",
        }],
        killers: &[integration("exports::a_folder_that_can_not_be_written_fails_the_export")],
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
