//! The notification service as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    notification::main(std::env::args_os())
}
