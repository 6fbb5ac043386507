//! The notification service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    notification::main(std::env::args_os())
}
