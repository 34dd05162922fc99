//! Socket options for connections to a database server. sqlx does not expose its sockets, so this
//! module finds them by the server's port.
//!
//! - `TCP_NODELAY` sends data at once. sqlx 0.9.0 lost its call of `set_nodelay`
//!   (<https://github.com/launchbadge/sqlx/issues/4335>). Without it, data that is larger than a
//!   packet waits for an acknowledgement, which the other side delays by 40 ms. This happens twice
//!   per batch, and is most of a batch's time. Remove it with the next sqlx.
//! - Keepalive and `TCP_USER_TIMEOUT` (tcp(7)). Without them a peer that vanished blocks a reader
//!   for ever and a writer for about 15 minutes.

use std::os::fd::RawFd;

use nix::sys::socket::{SockaddrStorage, getpeername, setsockopt, sockopt};

/// Keepalive: the idle time before the first probe, and the interval of the next ones, in seconds.
#[cfg(target_os = "linux")]
const QUIET: (u32, u32) = (20, 10);
/// `TCP_USER_TIMEOUT`: how long data may stay unacknowledged before the connection breaks, in
/// milliseconds.
#[cfg(target_os = "linux")]
const GONE: u32 = 60_000;

/// Sets the options on all open connections to this port.
pub(super) fn set_on_connections_to(port: u16) {
    let Ok(open) = std::fs::read_dir("/dev/fd") else { return };
    let numbers = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.filter(|number| peers_port(*number) == Some(port)) {
        // A connection that has broken meanwhile accepts none of them. This does no harm.
        let _ = setsockopt(number, sockopt::TcpNoDelay, &true);
        #[cfg(target_os = "linux")]
        notice_silence(number);
    }
}

/// The remote port of an open file, if it is a TCP connection.
fn peers_port(number: RawFd) -> Option<u16> {
    let peer = getpeername::<SockaddrStorage>(number).ok()?;
    let v4 = peer.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
    v4.or_else(|| peer.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port))
}

#[cfg(target_os = "linux")]
fn notice_silence(connection: RawFd) {
    let _ = setsockopt(connection, sockopt::KeepAlive, &true);
    let _ = setsockopt(connection, sockopt::TcpKeepIdle, &QUIET.0);
    let _ = setsockopt(connection, sockopt::TcpKeepInterval, &QUIET.1);
    let _ = setsockopt(connection, sockopt::TcpUserTimeout, &GONE);
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn connections_to_a_port_send_at_once_and_notice_silence_and_no_others() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [connection, other] =
            listeners.each_ref().map(|to| TcpStream::connect(to.local_addr().unwrap()).unwrap());
        super::set_on_connections_to(connection.peer_addr().unwrap().port());
        assert!(connection.nodelay().unwrap());
        assert!(!other.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd as _;

            use nix::sys::socket::{getsockopt, sockopt};

            let number = connection.as_raw_fd();
            assert!(getsockopt(number, sockopt::KeepAlive).unwrap());
            assert_eq!(getsockopt(number, sockopt::TcpKeepIdle).unwrap(), super::QUIET.0);
            assert_eq!(getsockopt(number, sockopt::TcpKeepInterval).unwrap(), super::QUIET.1);
            assert_eq!(getsockopt(number, sockopt::TcpUserTimeout).unwrap(), super::GONE);
            assert!(!getsockopt(other.as_raw_fd(), sockopt::KeepAlive).unwrap());
        }
    }
}
