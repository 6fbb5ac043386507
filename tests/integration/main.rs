//! Every HTTP call and every event, on a real Kafka and a real PostgreSQL.
//!
//! The services run inside this process, each test's on topics and databases of its own. Tests of panics, traces and
//! crashes start them as processes instead.
//!
//! Needs Kafka and PostgreSQL, which it starts itself (see `tests/README.md`). `cargo test -p theater-tests --test
//! integration fencing::` runs the tests with that in their name, and `-- --list` lists them all.
//!
//! # Layout
//!
//! One file a subject, with the name of its tests: `fencing.rs` has `fencing::two_owners_of_every_partition`. The tests
//! share:
//!
//! - [`calls`]: HTTP calls in tables, each with the response that must come back.
//! - [`malformed_records`]: records that no consumer can use, and the dead letters that they become.
//! - [`prometheus`]: a strict parser of `/metrics`.
//! - [`row_lock`]: a transaction that blocks a service between two of its statements.
//! - [`snapshot`]: all rows and responses of a theater, to be compared later.
//! - [`wire_protocol`]: a record written in Kafka's wire protocol, as no client writes it.

use std::process::ExitCode;

use theater_tests::runner::{self, Test};
use theater_tests::tests;

mod atomicity;
mod bad_requests;
mod calls;
mod capacity;
mod catalogue;
mod consistency;
mod deadlines;
mod email;
mod event_streams;
mod exports;
mod fencing;
mod gateway;
mod http_surface;
mod idempotency;
mod locks;
mod malformed_records;
mod max_message_bytes;
mod observability;
mod openapi;
mod outages;
mod paging;
mod poison;
mod prefer_wait;
mod prometheus;
mod recreated_topic;
mod redelivery;
mod relay;
mod rolling_upgrade;
mod row_lock;
mod snapshot;
mod version_chain;
mod wire_protocol;

fn main() -> ExitCode {
    let mut tests = http_tests();
    tests.extend(messaging_tests());
    runner::run(tests, 2)
}

/// HTTP calls and their responses.
fn http_tests() -> Vec<Test> {
    tests![
        bad_requests::invalid_fields_are_named_with_their_bounds,
        bad_requests::malformed_http_is_refused,
        catalogue::missing_search_texts_are_backfilled_and_indexed,
        catalogue::movies_are_found_by_text,
        catalogue::movies_are_sorted_and_filtered,
        catalogue::sales_write_no_search_text,
        catalogue::the_longest_texts_are_accepted,
        consistency::a_list_is_as_new_as_the_callers_token,
        consistency::a_list_that_cannot_catch_up_answers_503,
        consistency::an_invalid_token_is_refused,
        event_streams::a_reconnecting_client_receives_only_newer_events,
        event_streams::a_stop_ends_open_streams,
        event_streams::each_client_receives_its_reservations_outcome,
        exports::a_movies_reservations_are_exported,
        exports::an_unwritable_folder_fails_the_export,
        exports::expired_exports_are_deleted,
        exports::exports_expire_after_their_ttl,
        exports::replicas_without_a_shared_folder_answer_503,
        exports::the_export_of_a_killed_replica_is_restarted,
        exports::too_many_unfinished_exports_are_refused,
        gateway::cors_admits_configured_origins_only,
        gateway::head_options_and_security_headers,
        gateway::request_heads_are_bounded,
        gateway::requests_are_limited_per_client_address,
        gateway::responses_are_compressed,
        gateway::slow_clients_do_not_delay_others,
        http_surface::collections_are_filtered,
        http_surface::movies_are_published_and_shown,
        http_surface::outcomes_are_listed_and_notified,
        http_surface::reservations_are_placed_and_shown,
        http_surface::tickets_are_delivered_and_movies_edited,
        idempotency::a_key_has_one_effect,
        idempotency::a_key_is_scoped_to_route_resource_and_user,
        idempotency::concurrent_repeats_in_one_replica,
        idempotency::concurrent_repeats_in_two_replicas,
        idempotency::each_repeat_waits_by_its_own_preference,
        idempotency::opposite_key_orders_do_not_deadlock,
        idempotency::stored_responses_survive_a_restart_and_expire,
        idempotency::two_replicas_find_the_same_key_free,
        observability::a_collector_receives_the_whole_saga,
        observability::metrics_count_what_happened,
        observability::one_trace_covers_a_saga,
        openapi::a_stopped_service_stays_in_the_document,
        openapi::every_operation_is_documented,
        openapi::swagger_ui_is_served,
        paging::no_row_is_missed_or_repeated_while_rows_arrive,
        prefer_wait::an_outcome_in_time_is_the_response,
        prefer_wait::an_undecided_reservation_is_accepted,
        prefer_wait::any_replica_can_answer,
    ]
}

/// Events, faults and invariants.
fn messaging_tests() -> Vec<Test> {
    tests![
        atomicity::a_batch_commits_all_at_once,
        atomicity::a_call_commits_all_at_once,
        capacity::two_replicas_sell_exactly_the_stock,
        deadlines::cancelled_right_after_placing,
        deadlines::deadlines_pass_while_the_movie_service_is_stopped,
        email::an_unavailable_mail_server_delays_no_saga,
        email::each_outcome_is_mailed_once,
        email::failed_emails_are_sent_again_on_command,
        email::two_replicas_send_each_once,
        fencing::a_former_owner_writes_nothing,
        fencing::two_owners_of_every_partition,
        locks::rows_are_locked_in_id_order,
        locks::the_sweeper_skips_locked_rows,
        max_message_bytes::events_that_fit_are_sent,
        outages::kafka,
        outages::postgres,
        poison::a_header_name_that_is_not_text,
        poison::after_transaction_markers,
        poison::dead_letters_over_the_limit_of_their_topic,
        poison::in_the_movies_topic,
        poison::in_the_reservations_topic,
        poison::one_record_within_a_batch,
        recreated_topic::its_partitions_are_halted,
        redelivery::every_record_again_changes_nothing,
        relay::a_shard_is_sent_by_its_owner_in_seq_order,
        relay::an_event_sent_again_keeps_its_identity,
        relay::rows_that_commit_late_are_sent,
        rolling_upgrade::an_older_release_starts_on_a_newer_schema,
        version_chain::is_unbroken_under_load,
    ]
}
