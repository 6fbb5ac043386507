//! The reservation-list service as its own process.

use std::process::ExitCode;

use reservation_list::{Application, Config};

fn main() -> ExitCode {
    service_kit::main(
        "reservation-list",
        std::env::args_os(),
        |config: &Config| &config.telemetry,
        async |config, shutdown| Application::build(config).await?.run(shutdown).await,
    )
}
