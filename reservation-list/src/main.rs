//! The reservation-list service as a process of its own.

use std::process::ExitCode;

use reservation_list::{Application, Config};

fn main() -> ExitCode {
    service_kit::main(
        "reservation-list",
        |config: &Config| &config.telemetry,
        async |config, shutdown| Application::build(config).await?.run(shutdown).await,
    )
}
