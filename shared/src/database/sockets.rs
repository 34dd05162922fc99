//! Sends what is written at once (`TCP_NODELAY`), on every connection of this process.
//!
//! sqlx 0.9.0 lost its call of `set_nodelay` (<https://github.com/launchbadge/sqlx/issues/4335>) and lends nobody its
//! sockets. Without it, whatever is larger than a packet waits for an acknowledgement that the other side delays by
//! 40 ms: twice per batch, which is most of a batch's time. To be removed with the next sqlx.

use std::os::fd::RawFd;

use nix::sys::socket::{setsockopt, sockopt};

/// Sets the option on whatever is open now and is a TCP connection. Anything else refuses it, which does no harm.
pub(super) fn set_on_all() {
    let Ok(open) = std::fs::read_dir("/dev/fd") else { return };
    for number in open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok()) {
        let _ = setsockopt(number, sockopt::TcpNoDelay, &true);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn connections_that_are_open_send_at_once() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!connection.nodelay().unwrap());
        super::set_on_all();
        assert!(connection.nodelay().unwrap());
    }
}
