//! Free ports of 127.0.0.1.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use uuid::Uuid;

/// Below Linux's ephemeral ports (`net.ipv4.ip_local_port_range`, from 32768): an outgoing connection of any process could
/// take one of those before its server has started, or while it restarts.
const RANGE: Range<u16> = 15_000..32_000;
const TRIES: usize = 1000;

/// The ports that this process has reserved. Each is a name in Linux's abstract namespace: only one process can hold it,
/// it leaves no file, and it is released when the process ends.
static RESERVED: LazyLock<Mutex<HashMap<u16, UnixListener>>> = LazyLock::new(Mutex::default);

/// Reserves a port of 127.0.0.1 on which no process listens, and which this function has returned to no other running
/// process.
///
/// # Errors
/// If none is found.
pub fn free() -> io::Result<u16> {
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES {
        let port = random();
        if reserved.contains_key(&port) || !is_free(port) {
            continue;
        }
        let name = SocketAddr::from_abstract_name(format!("theater-port-{port}"))?;
        if let Ok(reservation) = UnixListener::bind_addr(&name) {
            reserved.insert(port, reservation);
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no free port in {RANGE:?} after {TRIES} tries")))
}

/// Whether no process listens on `port` of 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn random() -> u16 {
    let [.., high, low] = Uuid::new_v4().into_bytes();
    RANGE.start + u16::from_be_bytes([high, low]) % (RANGE.end - RANGE.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_returned_twice() {
        let mut ports: Vec<u16> = (0..200).map(|_| free().unwrap()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 200);
    }

    #[test]
    fn a_port_with_a_listener_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
