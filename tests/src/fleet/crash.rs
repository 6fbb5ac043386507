//! How a process of the fleet dies at a failpoint: at one that it is told at its start, or at those of which it hears
//! on a socket of its own, so that it can be told under load.

use std::os::unix::net::UnixDatagram;

use anyhow::Context;
use rustix::process::{Signal, getpid, kill_process};
use service_kit::messaging::failpoint;

/// The environment's name of the failpoint at which a process dies from the start on.
pub const DIES_AT: &str = "FLEET_DIES_AT";

/// The environment's name of the socket.
pub const ORDERS: &str = "FLEET_ORDERS";

/// A process' last words: a death is laid to a failpoint by them.
pub fn last_words(point: &str) -> String {
    format!("fleet: dies at {point}")
}

/// Dies at the failpoint that the environment names, and later on at those that come to its socket.
pub(super) fn obey() -> anyhow::Result<()> {
    if let Ok(point) = std::env::var(DIES_AT) {
        die_at(&point)?;
    }
    let Some(path) = std::env::var_os(ORDERS) else { return Ok(()) };
    let orders = UnixDatagram::bind(&path).with_context(|| format!("the socket {}", path.display()))?;
    let listen = move || -> anyhow::Result<()> {
        let mut order = [0; 100];
        loop {
            let length = orders.recv(&mut order)?;
            die_at(std::str::from_utf8(&order[..length])?)?;
        }
    };
    std::thread::Builder::new().name("orders".into()).spawn(move || {
        if let Err(error) = listen() {
            eprintln!("fleet: orders: {error:#}");
            std::process::exit(1);
        }
    })?;
    Ok(())
}

/// As by `kill -9`: nothing is unwound, dropped or flushed.
fn die_at(point: &str) -> anyhow::Result<()> {
    let words = last_words(point);
    let die = move || {
        eprintln!("{words}");
        if let Err(error) = kill_process(getpid(), Signal::KILL) {
            eprintln!("fleet: but can't: {error}");
            std::process::abort();
        }
    };
    failpoint::arm(point, die).map_err(anyhow::Error::msg)
}
