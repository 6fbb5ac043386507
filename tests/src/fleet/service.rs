//! The main function of a fleet process, which runs one service: `theater-tests fleet movie --database-url …`. The fault
//! tests kill it, or make it die at one of its failpoints.

use std::ffi::OsString;
use std::process::ExitCode;

use super::crash;

/// The first argument is the service. The others are the service's.
pub fn main(args: Vec<OsString>) -> ExitCode {
    if let Err(error) = crash::arm_failpoints() {
        eprintln!("fleet: {error:#}");
        return ExitCode::FAILURE;
    }
    let service = args.first().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    macro_rules! run {
        ($service:ident, $name:literal) => {
            service_kit::main(
                $name,
                args,
                |config: &$service::Config| &config.telemetry,
                async |config, shutdown| $service::Application::build(config).await?.run(shutdown).await,
            )
        };
    }
    match service.as_str() {
        "reservation" => run!(reservation, "reservation"),
        "movie" => run!(movie, "movie"),
        // It has subcommands.
        "notification" => notification::main(args),
        "reservation-list" => run!(reservation_list, "reservation-list"),
        "gateway" => run!(gateway, "gateway"),
        other => {
            eprintln!("fleet: there is no service `{other}`");
            ExitCode::FAILURE
        }
    }
}
