//! Places where a process can be made to die or to be stopped: what lies between two of its steps can be tested.
//!
//! Compiled in only with the feature `failpoints`; otherwise nothing is left of them. Then the variable `FAILPOINT` says
//! which one, at which time it is come by, and what happens: `consumer-committed:3:kill`, `consumer-looked:1:stop`. A
//! fourth part lets so many microseconds pass first, while everything else goes on: `command-published:1:kill:800`.
//! `CLOCK_OFFSET_MS` sets the process's clock ahead or back.

#[cfg(feature = "failpoints")]
pub(crate) use armed::clock;
#[cfg(feature = "failpoints")]
pub use armed::{hit, published};

/// Comes by the place called `name`.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn hit(_name: &str) {}

/// Comes by the place after a message was handed to the broker's connection, and before it is confirmed.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn published(_to: &crate::bus::Address) {}

/// What the machine's clock shows, seen from a process.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn clock(shows: chrono::DateTime<chrono::Utc>) -> chrono::DateTime<chrono::Utc> {
    shows
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use crate::bus::Address;

    /// The place that `FAILPOINT` names.
    struct Failpoint {
        name: String,
        left: AtomicU64,
        signal: Signal,
        after: Duration,
    }

    impl Failpoint {
        fn read(text: &str) -> Option<Self> {
            let mut parts = text.split(':');
            let (name, time) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
            let signal = match parts.next()? {
                "kill" => Signal::KILL,
                "stop" => Signal::STOP,
                _ => return None,
            };
            let after = parts.next().map_or(Some(0), |us| us.parse().ok())?;
            Some(Self { name, left: AtomicU64::new(time), signal, after: Duration::from_micros(after) })
        }

        fn fire(&self) {
            // A signal to oneself can only fail for one that does not exist.
            let _ = kill_process(getpid(), self.signal);
            // Another thread may be the one that takes the signal; meanwhile this one must not go on.
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// Comes by the place called `name`.
    pub fn hit(name: &str) {
        static FAILPOINT: OnceLock<Option<Failpoint>> = OnceLock::new();
        let read = || {
            let text = std::env::var("FAILPOINT").ok()?;
            Some(Failpoint::read(&text).unwrap_or_else(|| panic!("FAILPOINT={text} cannot be read")))
        };
        let Some(point) = FAILPOINT.get_or_init(read).as_ref().filter(|point| point.name == name) else {
            return;
        };
        let count = |left: u64| left.checked_sub(1);
        if point.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) == Ok(1) {
            if point.after.is_zero() {
                point.fire();
            } else {
                std::thread::spawn(move || {
                    std::thread::sleep(point.after);
                    point.fire();
                });
            }
        }
    }

    /// Comes by the place after a message was handed to the broker's connection, and before it is confirmed.
    pub fn published(to: &Address) {
        match to {
            Address::Commands(_) => hit("command-published"),
            Address::Events(_) => hit("event-published"),
            _ => {}
        }
    }

    /// What the machine's clock shows, seen from a process whose clock is wrong.
    pub(crate) fn clock(shows: chrono::DateTime<chrono::Utc>) -> chrono::DateTime<chrono::Utc> {
        static OFFSET: OnceLock<chrono::Duration> = OnceLock::new();
        let read = || {
            let ms = std::env::var("CLOCK_OFFSET_MS").ok().and_then(|text| text.parse().ok());
            chrono::Duration::milliseconds(ms.unwrap_or(0))
        };
        shows + *OFFSET.get_or_init(read)
    }
}
