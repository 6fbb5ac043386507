//! The notification service as a process of its own.

use std::process::ExitCode;

use notification::{Application, Config};

fn main() -> ExitCode {
    service_kit::main(
        "notification",
        |config: &Config| &config.telemetry,
        async |config, shutdown| Application::build(config).await?.run(shutdown).await,
    )
}
