//! Failpoints: places where a test can make a process die, stop or panic between two steps.
//!
//! They exist only with the feature `failpoints`. Then the variable `FAILPOINT` names the place,
//! the number of the pass, and the action: `consumer-committed:3:kill`, `consumer-looked:1:stop`,
//! `mail-looking:1:panic`. `panics` panics at that pass and at every later one. A fourth part is a
//! delay in microseconds, in which everything else goes on: `command-published:1:kill:800`. A place
//! may be limited to one subject: `mail-composing@ann@x.org:1:panics`. Commas separate several
//! failpoints. `CLOCK_OFFSET_MS` sets the process's clock ahead or back (`clock.rs`).

#[cfg(feature = "failpoints")]
pub use armed::{hit, hit_about};

/// Passes the failpoint `name`.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn hit(_name: &str) {}

/// Passes the failpoint `name` for one subject.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn hit_about(_name: &str, _what: &dyn std::fmt::Display) {}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    /// A place that `FAILPOINT` names.
    struct Failpoint {
        name: String,
        left: AtomicU64,
        action: Action,
        after: Duration,
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Action {
        Signal(Signal),
        Panic,
        /// Panics at this pass and at every later one.
        Panics,
    }

    impl Failpoint {
        fn read(text: &str) -> Option<Self> {
            let mut parts = text.split(':');
            let (name, time) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
            let action = match parts.next()? {
                "kill" => Action::Signal(Signal::KILL),
                "stop" => Action::Signal(Signal::STOP),
                "panic" => Action::Panic,
                "panics" => Action::Panics,
                _ => return None,
            };
            let after = parts.next().map_or(Some(0), |us| us.parse().ok())?;
            Some(Self { name, left: AtomicU64::new(time), action, after: Duration::from_micros(after) })
        }

        /// Whether it acts at this pass.
        fn is_time(&self) -> bool {
            let count = |left: u64| left.checked_sub(1);
            match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) {
                Ok(left) => left == 1,
                Err(_) => self.action == Action::Panics,
            }
        }

        fn come_by(&'static self) {
            match self.action {
                Action::Panic | Action::Panics => panic!("the failpoint {}", self.name),
                Action::Signal(signal) if self.after.is_zero() => fire(signal),
                Action::Signal(signal) => {
                    std::thread::spawn(move || {
                        std::thread::sleep(self.after);
                        fire(signal);
                    });
                }
            }
        }
    }

    fn fire(signal: Signal) {
        // A signal to this process fails only if the signal does not exist.
        let _ = kill_process(getpid(), signal);
        // Another thread may handle the signal. Meanwhile this one must not go on.
        std::thread::sleep(Duration::from_secs(1));
    }

    fn all() -> &'static [Failpoint] {
        static FAILPOINTS: OnceLock<Vec<Failpoint>> = OnceLock::new();
        let read = |text: &str| {
            let read = text.split(',').map(Failpoint::read).collect::<Option<Vec<_>>>();
            read.unwrap_or_else(|| panic!("FAILPOINT={text} cannot be read"))
        };
        let given = || std::env::var("FAILPOINT").ok().filter(|text| !text.is_empty());
        FAILPOINTS.get_or_init(|| given().map(|text| read(&text)).unwrap_or_default())
    }

    /// Passes the failpoint `name`.
    pub fn hit(name: &str) {
        for point in all().iter().filter(|point| point.name == name && point.is_time()) {
            point.come_by();
        }
    }

    /// Passes the failpoint `name` for one subject.
    pub fn hit_about(name: &str, what: &dyn std::fmt::Display) {
        let is_it = |point: &&Failpoint| match point.name.split_once('@') {
            Some((place, about)) => place == name && about == what.to_string(),
            None => point.name == name,
        };
        for point in all().iter().filter(is_it).filter(|point| point.is_time()) {
            point.come_by();
        }
    }
}
