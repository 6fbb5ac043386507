//! The death of a fleet process at a failpoint. A variable of the environment names the failpoint at its start; later
//! ones arrive on its socket, so that a test can name them under load.

use std::os::unix::net::UnixDatagram;

use anyhow::Context;
use rustix::process::{Signal, getpid, kill_process};
use service_kit::messaging::failpoint;

/// The variable with the failpoint at which a process dies, from its start on.
pub const FAILPOINT_VARIABLE: &str = "FLEET_FAILPOINT";

/// The variable with the path of the socket.
pub const FAILPOINT_SOCKET_VARIABLE: &str = "FLEET_FAILPOINT_SOCKET";

/// The last line in the log of a process that dies at this failpoint, which tells its death from others.
pub fn crash_message(failpoint: &str) -> String {
    format!("fleet: dies at {failpoint}")
}

/// Arms the failpoint that the environment names, and later those whose names arrive on the socket.
pub(super) fn arm_failpoints() -> anyhow::Result<()> {
    if let Ok(failpoint) = std::env::var(FAILPOINT_VARIABLE) {
        arm(&failpoint)?;
    }
    let Some(path) = std::env::var_os(FAILPOINT_SOCKET_VARIABLE) else { return Ok(()) };
    let socket = UnixDatagram::bind(&path).with_context(|| format!("the socket {}", path.display()))?;
    let listen = move || -> anyhow::Result<()> {
        let mut name = [0; 100];
        loop {
            let length = socket.recv(&mut name)?;
            arm(std::str::from_utf8(&name[..length])?)?;
        }
    };
    std::thread::Builder::new().name("failpoints".into()).spawn(move || {
        if let Err(error) = listen() {
            eprintln!("fleet: failpoints: {error:#}");
            std::process::exit(1);
        }
    })?;
    Ok(())
}

/// Makes the process die at a failpoint as by `kill -9`: nothing is unwound, dropped or flushed.
fn arm(name: &str) -> anyhow::Result<()> {
    let message = crash_message(name);
    let die = move || {
        eprintln!("{message}");
        if let Err(error) = kill_process(getpid(), Signal::KILL) {
            eprintln!("fleet: but can't: {error}");
            std::process::abort();
        }
    };
    failpoint::arm(name, die).map_err(anyhow::Error::msg)
}
