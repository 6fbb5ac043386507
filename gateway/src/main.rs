//! The gateway as a process.

use std::process::ExitCode;

use gateway::{Application, Config};

fn main() -> ExitCode {
    service_kit::main(
        "gateway",
        std::env::args_os(),
        |config: &Config| &config.telemetry,
        async |config, shutdown| Application::build(config).await?.run(shutdown).await,
    )
}
