//! Faulty adapters: SQL, HTTP calls, e-mails and exports.

use super::{Edit, Mutant, integration, unit};

const RESERVATION: &str = "reservation/src/unit_of_work.rs";
const RESERVATION_STORE: &str = "reservation/src/store.rs";
const MOVIE_STORE: &str = "movie/src/store.rs";
const LIST_STORE: &str = "reservation-list/src/store.rs";
const EMAIL: &str = "notification/src/store/email.rs";
const EXPORT: &str = "reservation-list/src/store/export.rs";
const EXPORT_FOLDER: &str = "reservation-list/src/export/folder.rs";
const EXPORTER: &str = "reservation-list/src/exporter.rs";
const EXPORT_CSV: &str = "reservation-list/src/export/csv_format.rs";
const GATEWAY: &str = "gateway/src/proxy/upstream_request.rs";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "sweeper-without-a-lock",
        defect: "two sweepers cancel the same reservations",
        edits: &[Edit {
            file: RESERVATION_STORE,
            original: "         order by id\n         for update skip locked\"",
            mutated: "         order by id\"",
        }],
        killers: &[integration("locks::the_sweeper_skips_locked_rows")],
    },
    Mutant {
        name: "sweeper-waits",
        defect: "the sweeper waits for a reservation that is being decided, and the others with it",
        edits: &[Edit { file: RESERVATION_STORE, original: "for update skip locked", mutated: "for update" }],
        killers: &[integration("locks::the_sweeper_skips_locked_rows")],
    },
    Mutant {
        name: "unsorted-locks-in-reservation",
        defect: "a batch takes its rows in the order of the log",
        edits: &[Edit {
            file: RESERVATION_STORE,
            original: "where id = any ($1) order by id for update",
            mutated: "where id = any ($1) order by array_position($1, id) for update",
        }],
        killers: &[integration("locks::rows_are_locked_in_id_order")],
    },
    Mutant {
        name: "key-outside-the-transaction",
        defect: "a call's response is stored before the call has had its effect",
        edits: &[Edit {
            file: RESERVATION,
            original: "self.idempotency.save(&mut transaction, &stored_responses).await?;",
            mutated: "self.idempotency.save(&mut *self.pool.acquire().await?, &stored_responses).await?;",
        }],
        killers: &[integration("atomicity::a_call_commits_all_at_once")],
    },
    Mutant {
        name: "unsorted-locks-in-movie",
        defect: "a batch takes its movies in the order of the log",
        edits: &[
            Edit { file: MOVIE_STORE, original: "    movies.sort_unstable();\n", mutated: "" },
            Edit {
                file: MOVIE_STORE,
                original: "where id = any ($1) order by id for update",
                mutated: "where id = any ($1) order by array_position($1, id) for update",
            },
        ],
        killers: &[integration("locks::rows_are_locked_in_id_order")],
    },
    Mutant {
        name: "stock-without-a-lock",
        defect: "movies are read without being locked",
        edits: &[Edit {
            file: MOVIE_STORE,
            original: "where id = any ($1) order by id for update",
            mutated: "where id = any ($1) order by id",
        }],
        killers: &[integration("locks::rows_are_locked_in_id_order")],
    },
    Mutant {
        name: "unsorted-locks-in-reservation-list",
        defect: "a batch takes its rows in the order of the log",
        edits: &[
            Edit { file: LIST_STORE, original: "    ids.sort_unstable();\n", mutated: "" },
            Edit {
                file: LIST_STORE,
                original: "where id = any ($1) order by id for update",
                mutated: "where id = any ($1) order by array_position($1, id) for update",
            },
        ],
        killers: &[integration("locks::rows_are_locked_in_id_order")],
    },
    Mutant {
        name: "e-mail-without-a-lease",
        defect: "an e-mail that is being sent is still due",
        edits: &[Edit {
            file: EMAIL,
            original: "due_at = clock_timestamp() + make_interval(secs => $2)",
            mutated: "due_at = email.due_at + make_interval(secs => 0 * $2)",
        }],
        killers: &[integration("email::two_replicas_send_each_once")],
    },
    Mutant {
        name: "export-under-its-last-name",
        defect: "an export's file has its final name before it is complete",
        edits: &[Edit {
            file: EXPORT_FOLDER,
            original: "let path = self.path(name, PARTIAL);",
            mutated: "let path = self.path(name, COMPLETE);",
        }],
        killers: &[
            unit("reservation-list"),
            integration("exports::the_export_of_a_killed_replica_is_restarted"),
        ],
    },
    Mutant {
        name: "export-without-a-lease",
        defect: "an export that is being made is still due",
        edits: &[Edit {
            file: EXPORT,
            original: "where state in ('PENDING', 'RUNNING') and due_at <= now() and expires_at > now()",
            mutated: "where state in ('PENDING', 'RUNNING') and expires_at > now()",
        }],
        killers: &[integration("exports::the_export_of_a_killed_replica_is_restarted")],
    },
    Mutant {
        name: "export-of-pending-ones-only",
        defect: "an interrupted export is never restarted",
        edits: &[Edit {
            file: EXPORT,
            original: "where state in ('PENDING', 'RUNNING') and due_at <= now() and expires_at > now()",
            mutated: "where state = 'PENDING' and due_at <= now() and expires_at > now()",
        }],
        killers: &[integration("exports::the_export_of_a_killed_replica_is_restarted")],
    },
    Mutant {
        name: "export-of-what-is-confirmed",
        defect: "cancelled reservations are not exported",
        edits: &[Edit {
            file: EXPORT,
            original: "where movie_id = $1 order by seq",
            mutated: "where movie_id = $1 and status = 'CONFIRMED' order by seq",
        }],
        killers: &[integration("exports::a_movies_reservations_are_exported")],
    },
    Mutant {
        name: "formulas-as-they-were-typed",
        defect: "a spreadsheet runs a customer's text as a formula",
        edits: &[Edit {
            file: EXPORT_CSV,
            original: "if value.starts_with(ESCAPED_FIRST_CHARS) {",
            mutated: "if value.starts_with(ESCAPED_FIRST_CHARS) && value.is_empty() {",
        }],
        killers: &[unit("reservation-list"), integration("exports::a_movies_reservations_are_exported")],
    },
    Mutant {
        name: "files-for-ever",
        defect: "the rows of expired exports are deleted, and their files stay",
        edits: &[Edit {
            file: EXPORTER,
            original: "let deleted = self.folder.delete_expired(now).await;",
            mutated: "let deleted = self.folder.delete_expired(now - chrono::TimeDelta::days(36_500)).await;",
        }],
        killers: &[integration("exports::expired_exports_are_deleted")],
    },
    Mutant {
        name: "a-broken-folder-ends-the-service",
        defect: "an export that can't be written is a fatal fault",
        edits: &[Edit {
            file: EXPORTER,
            original: "Err(Failure::LeaseLost) => return Ok(None),",
            mutated: "Err(Failure::LeaseLost) => return Ok(None),\n        Err(Failure::File(error)) => return Err(Fault::Fatal(error.to_string())),",
        }],
        killers: &[integration("exports::an_unwritable_folder_fails_the_export")],
    },
    Mutant {
        name: "gateway-repeats-a-post",
        defect: "the gateway sends a POST without key or id again when its connection was cut",
        edits: &[Edit {
            file: GATEWAY,
            original: "Method::GET | Method::HEAD | Method::OPTIONS => true,\n        Method::POST => {",
            mutated: "Method::GET | Method::HEAD | Method::OPTIONS | Method::POST => true,\n        Method::POST => {",
        }],
        killers: &[unit("gateway")],
    },
];
