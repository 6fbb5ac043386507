//! Every call and event on real Kafka and PostgreSQL.

use std::process::ExitCode;

use theater_tests::{runner, tests};

mod calls;
mod capacity;
mod http_surface;

fn main() -> ExitCode {
    let tests = tests![
        capacity::two_replicas_sell_exactly_what_there_is,
        http_surface::movies_are_delivered_and_edited,
        http_surface::movies_are_published_and_shown,
        http_surface::pages_lose_and_repeat_no_row_while_rows_arrive,
        http_surface::reservations_are_cancelled_and_told,
        http_surface::reservations_are_placed_and_shown,
        http_surface::rows_are_filtered,
    ];
    runner::run(tests, 2)
}
