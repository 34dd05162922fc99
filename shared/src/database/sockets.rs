//! What connections to a server need of the kernel; set on every connection of this process, for sqlx lends nobody its sockets.
//!
//! - What is written is sent at once (`TCP_NODELAY`). sqlx 0.9.0 lost its call of `set_nodelay`
//!   (<https://github.com/launchbadge/sqlx/issues/4335>). Without it, whatever is larger than a packet waits for an acknowledgement
//!   that the other side delays by 40 ms: twice per batch, which is most of a batch's time.
//! - Silence is noticed (tcp(7)). A machine that is gone says nothing: whoever waits for its answer would wait for ever, and
//!   whoever writes to it for as long as the kernel tries, which is a quarter of an hour.

use std::os::fd::RawFd;

use nix::sys::socket::{setsockopt, sockopt};

/// After how long without a word the kernel asks whether the other side is there, and how often from then on, in seconds.
#[cfg(target_os = "linux")]
const QUIET: (u32, u32) = (20, 10);
/// After how long without an acknowledgement a connection is broken, in milliseconds.
#[cfg(target_os = "linux")]
const GONE: u32 = 60_000;

/// Sets the options on whatever is open now and is a TCP connection. Anything else refuses them, which does no harm.
pub(super) fn set_on_all() {
    let Ok(open) = std::fs::read_dir("/dev/fd") else { return };
    for number in open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok()) {
        if setsockopt(number, sockopt::TcpNoDelay, &true).is_ok() {
            #[cfg(target_os = "linux")]
            notice_silence(number);
        }
    }
}

#[cfg(target_os = "linux")]
fn notice_silence(connection: RawFd) {
    // It took the option before, so it takes these.
    let _ = setsockopt(connection, sockopt::KeepAlive, &true);
    let _ = setsockopt(connection, sockopt::TcpKeepIdle, &QUIET.0);
    let _ = setsockopt(connection, sockopt::TcpKeepInterval, &QUIET.1);
    let _ = setsockopt(connection, sockopt::TcpUserTimeout, &GONE);
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

    #[cfg(target_os = "linux")]
    #[test]
    fn connections_that_are_open_notice_silence() {
        use std::os::fd::AsRawFd as _;

        use nix::sys::socket::{getsockopt, sockopt};

        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        super::set_on_all();
        let number = connection.as_raw_fd();
        assert!(getsockopt(number, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(number, sockopt::TcpKeepIdle).unwrap(), super::QUIET.0);
        assert_eq!(getsockopt(number, sockopt::TcpKeepInterval).unwrap(), super::QUIET.1);
        assert_eq!(getsockopt(number, sockopt::TcpUserTimeout).unwrap(), super::GONE);
    }
}
