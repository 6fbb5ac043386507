//! The movie service as a process of its own.

use std::process::ExitCode;

use movie::{Application, Config};

fn main() -> ExitCode {
    service_kit::main(
        "movie",
        std::env::args_os(),
        |config: &Config| &config.telemetry,
        async |config, shutdown| Application::build(config).await?.run(shutdown).await,
    )
}
