//! Free ports on the loopback.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use uuid::Uuid;

/// Below those that Linux gives to whoever asks for any (`net.ipv4.ip_local_port_range`, from 32768): one of those
/// may be taken by anybody's outgoing connection, before its server has started or while it is restarted.
const RANGE: Range<u16> = 15_000..32_000;
const TRIES: usize = 1000;

/// What this process has taken. A name in Linux's abstract namespace is held by one process at a time, leaves no
/// file and ends with its process.
static TAKEN: LazyLock<Mutex<HashMap<u16, UnixListener>>> = LazyLock::new(Mutex::default);

/// A port of 127.0.0.1 on which nobody listens, and which no other call of this function has given to a process
/// that lives.
///
/// # Errors
/// If none is found.
pub fn free() -> io::Result<u16> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES {
        let port = any();
        if taken.contains_key(&port) || !is_free(port) {
            continue;
        }
        let name = SocketAddr::from_abstract_name(format!("theater-port-{port}"))?;
        if let Ok(held) = UnixListener::bind_addr(&name) {
            taken.insert(port, held);
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no free port in {RANGE:?} after {TRIES} tries")))
}

/// Whether nobody listens on `port` of 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn any() -> u16 {
    let [.., high, low] = Uuid::new_v4().into_bytes();
    RANGE.start + u16::from_be_bytes([high, low]) % (RANGE.end - RANGE.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let mut ports: Vec<u16> = (0..200).map(|_| free().unwrap()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 200);
    }

    #[test]
    fn one_that_is_listened_on_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
