//! Free ports on the loopback.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// A port that is free now, on 127.0.0.1. Another program may take it before it is used.
///
/// # Errors
/// If there is none.
pub fn free() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether nobody listens on `port` of 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
