//! Every call and event on real Kafka and PostgreSQL.

use std::process::ExitCode;

use theater_tests::runner::{self, Test};
use theater_tests::tests;

mod away;
mod bad;
mod bad_requests;
mod calls;
mod capacity;
mod catalogue;
mod consistency;
mod described;
mod edge;
mod email;
mod endings;
mod exports;
mod holder;
mod http_surface;
mod idempotency;
mod ledgers;
mod locks;
mod look;
mod narrow;
mod observability;
mod older;
mod paging;
mod poison;
mod positions;
mod prometheus;
mod raw;
mod recreated;
mod relay;
mod repeats;
mod streams;
mod together;
mod waiting;

fn main() -> ExitCode {
    let mut tests = on_the_surface();
    tests.extend(underneath());
    runner::run(tests, 2)
}

/// Calls, and what they show.
fn on_the_surface() -> Vec<Test> {
    tests![
        bad_requests::bytes_that_are_no_request_are_refused,
        bad_requests::fields_are_named_with_their_bounds,
        catalogue::movies_are_found,
        catalogue::movies_are_sorted_and_chosen,
        catalogue::sales_leave_the_texts_alone,
        catalogue::the_longest_texts_are_taken,
        catalogue::texts_are_made_up_for_and_indexed,
        consistency::a_list_shows_what_its_caller_has_seen,
        consistency::a_list_that_can_not_catch_up_says_so,
        consistency::a_token_that_nobody_gave_out_is_refused,
        described::a_service_that_is_away_stays_described,
        described::every_call_is_described,
        described::people_can_read_it,
        edge::a_client_is_limited_by_its_address,
        edge::answers_are_compressed,
        edge::head_options_and_what_browsers_are_told,
        edge::heads_are_bounded,
        edge::pages_of_other_origins_call_if_they_may,
        edge::slow_clients_harm_nobody,
        exports::a_dead_replicas_export_is_begun_again,
        exports::a_folder_that_can_not_be_written_fails_the_export,
        exports::a_movies_reservations_are_exported,
        exports::expired_exports_are_cleared,
        exports::exports_expire_by_themselves,
        exports::replicas_that_share_no_folder_say_so,
        exports::too_many_at_once_are_refused,
        http_surface::movies_are_delivered_and_edited,
        http_surface::movies_are_published_and_shown,
        http_surface::reservations_are_cancelled_and_told,
        http_surface::reservations_are_placed_and_shown,
        http_surface::rows_are_filtered,
        idempotency::a_key_belongs_to_its_scope,
        idempotency::a_key_has_one_effect,
        idempotency::a_repeat_waits_by_itself,
        idempotency::acceptances_outlive_the_service_but_not_their_time,
        idempotency::both_replicas_past_the_look,
        idempotency::many_at_once_in_one_replica,
        idempotency::many_at_once_in_two_replicas,
        idempotency::opposite_orders_do_not_block,
        observability::a_collector_sees_the_whole_saga,
        observability::metrics_tell_what_happened,
        observability::one_trace_covers_a_saga,
        paging::no_old_row_is_missed_or_repeated_while_rows_arrive,
        streams::a_client_that_comes_back_is_told_what_is_newer,
        streams::a_stop_waits_for_no_stream,
        streams::each_client_sees_its_own_reservation_end,
        waiting::any_replica_can_answer,
        waiting::the_outcome_is_told_in_time,
        waiting::what_is_not_decided_in_time_is_accepted,
    ]
}

/// Events, faults, and what must hold.
fn underneath() -> Vec<Test> {
    tests![
        away::kafka,
        away::postgres,
        capacity::two_replicas_sell_exactly_what_there_is,
        email::a_mail_server_that_is_away_holds_nobody,
        email::each_outcome_is_told_once,
        email::two_replicas_send_each_once,
        email::what_failed_is_sent_at_the_operators_command,
        endings::cancelled_in_the_moment_of_placing,
        endings::deadlines_pass_while_the_movie_is_away,
        ledgers::are_unbroken_under_load,
        locks::are_taken_in_the_order_of_the_ids,
        locks::the_sweeper_waits_for_nobody,
        narrow::events_that_fit_are_sent,
        older::starts_after_a_newer_one_has_migrated,
        poison::in_the_reservations,
        poison::in_the_movies,
        poison::within_a_batch,
        poison::a_header_whose_name_is_not_text,
        poison::behind_the_markers_of_transactions,
        poison::over_the_limit_of_its_topic,
        positions::an_owner_who_lost_it_writes_nothing,
        positions::two_owners_of_everything,
        recreated::a_log_made_anew_is_held,
        relay::a_shard_is_sent_by_its_owner_in_the_order_of_its_rows,
        relay::what_commits_late_is_sent,
        relay::what_is_sent_again_is_the_same,
        repeats::every_record_again_changes_nothing,
        together::what_a_batch_writes,
        together::what_a_call_writes,
    ]
}
