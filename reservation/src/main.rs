//! The reservation service as a process of its own.

use std::process::ExitCode;

use reservation::{Application, Config};

fn main() -> ExitCode {
    service_kit::main(
        "reservation",
        std::env::args_os(),
        |config: &Config| &config.telemetry,
        async |config, shutdown| Application::build(config).await?.run(shutdown).await,
    )
}
