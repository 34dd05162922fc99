//! Processor time and resident memory of this machine's processes, from `/proc` (Linux).

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Ticks per second of `/proc/PID/stat`; Linux has always told user space 100.
const TICKS: f64 = 100.0;
/// Bytes per page on every machine that this is measured on.
const PAGE: u64 = 4096;
/// How often memory is read.
const LOOK: Duration = Duration::from_millis(200);
/// The servers, by the names of their processes.
const SERVERS: [(&str, &str); 5] = [
    ("beam.smp", "broker"),
    ("postgres", "database"),
    ("mariadbd", "database"),
    ("mysqld", "database"),
    ("redis-server", "cache"),
];

/// What one kind of process used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Used {
    /// Processor time, in seconds.
    pub(super) cpu_seconds: f64,
    /// The most resident memory of one such process, in bytes.
    pub(super) peak_bytes: u64,
}

/// Measures from its creation until it is stopped.
#[derive(Debug)]
pub(super) struct Usage {
    before: BTreeMap<u32, Process>,
    peaks: Arc<Mutex<BTreeMap<u32, u64>>>,
    _looking: DropGuard,
}

#[derive(Debug, Clone)]
struct Process {
    kind: String,
    parent: u32,
    cpu_seconds: f64,
    resident: u64,
}

impl Usage {
    pub(super) fn start() -> Self {
        let (peaks, token) = (Arc::<Mutex<BTreeMap<u32, u64>>>::default(), CancellationToken::new());
        let (kept, stop) = (peaks.clone(), token.clone());
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(LOOK);
            while stop.run_until_cancelled(tick.tick()).await.is_some() {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                for (pid, process) in processes() {
                    let peak = kept.entry(pid).or_default();
                    *peak = process.resident.max(*peak);
                }
            }
        });
        Self { before: processes(), peaks, _looking: token.drop_guard() }
    }

    /// The usage since the start, by kind of process.
    pub(super) fn stop(self) -> BTreeMap<String, Used> {
        let mut all: BTreeMap<String, Used> = BTreeMap::new();
        let peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = processes();
        let before = at_the_start(&self.before, &now);
        for (pid, process) in now {
            let before = before.get(&pid).copied().unwrap_or_default();
            let used = all.entry(process.kind).or_default();
            used.cpu_seconds += process.cpu_seconds - before;
            used.peak_bytes = used.peak_bytes.max(peaks.get(&pid).copied().unwrap_or(process.resident));
        }
        all
    }
}

/// The present usage of all processes that count, by kind: processor time since they began, and
/// resident memory of the largest.
pub(super) fn now() -> BTreeMap<String, Used> {
    let mut all: BTreeMap<String, Used> = BTreeMap::new();
    for process in processes().into_values() {
        let used = all.entry(process.kind).or_default();
        used.cpu_seconds += process.cpu_seconds;
        used.peak_bytes = used.peak_bytes.max(process.resident);
    }
    all
}

/// The processor time of one process since it began.
pub(super) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    read(&stat).map_or(0.0, |process| process.cpu_seconds)
}

/// The resident memory of one process, in bytes.
pub(super) fn resident(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    read(&stat).map_or(0, |process| process.resident)
}

/// Whether this kind is a process of Muster: neither a server nor the load.
pub(super) fn is_ours(kind: &str) -> bool {
    kind != "load" && !SERVERS.iter().any(|(_, server)| *server == kind)
}

/// The processes that count: Muster's, the servers', and this one (the load). If this one has
/// started processes of Muster, only those count, and not another deployment on this machine.
fn processes() -> BTreeMap<u32, Process> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Some(process) = fs::read_to_string(entry.path().join("stat")).ok().and_then(|stat| read(&stat))
        else {
            continue;
        };
        let kind = if pid == std::process::id() { "load".to_owned() } else { kind(&process.kind) };
        if !kind.is_empty() {
            all.insert(pid, Process { kind, ..process });
        }
    }
    only_started_by(std::process::id(), &mut all);
    all
}

/// If this process started some of Muster's processes, leaves the others out.
fn only_started_by(pid: u32, all: &mut BTreeMap<u32, Process>) {
    let is_own = |process: &Process| process.parent == pid;
    if all.values().any(|process| is_ours(&process.kind) && is_own(process)) {
        all.retain(|_, process| !is_ours(&process.kind) || is_own(process));
    }
}

/// The processor time that each process of `now` had used at the start. It includes the time of
/// children that have ended since, because Linux charges it to the parent.
fn at_the_start(before: &BTreeMap<u32, Process>, now: &BTreeMap<u32, Process>) -> BTreeMap<u32, f64> {
    let mut all: BTreeMap<u32, f64> = BTreeMap::new();
    for (pid, process) in before {
        let charged = if now.contains_key(pid) { *pid } else { process.parent };
        *all.entry(charged).or_default() += process.cpu_seconds;
    }
    all
}

/// Our processes at full size.
static OURS: LazyLock<Vec<&str>> = LazyLock::new(muster::process_names);

/// The kind of a process by its name (cut to 15 bytes by Linux); empty if it does not count.
fn kind(name: &str) -> String {
    let server = SERVERS.iter().find(|(process, _)| *process == name).map(|(_, kind)| (*kind).to_owned());
    let cut = |ours: &str| ours.get(..15).unwrap_or(ours) == name;
    let mut ours = ["muster"].into_iter().chain(OURS.iter().copied());
    server.or_else(|| ours.find(|ours| cut(ours)).map(ToOwned::to_owned)).unwrap_or_default()
}

/// One line of `/proc/PID/stat` (`proc_pid_stat(5)`): fields 2, 4, 14 to 17 and 24. Linux charges
/// the time of ended children to their parent. A database's children end while it works.
fn read(stat: &str) -> Option<Process> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Process {
        kind: name.to_owned(),
        parent: u32::try_from(number(4)?).ok()?,
        cpu_seconds: (14..=17).map(number).sum::<Option<u64>>()? as f64 / TICKS,
        resident: number(24)? * PAGE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name_is() {
        let stat = "42 (a) (b) S 1 42 42 0 -1 4194560 1 0 0 0 200 50 40 10 20 0 9 0 100 1000000 256 18446744073709551615";
        let process = read(stat).unwrap();
        assert_eq!((process.kind.as_str(), process.parent, process.resident), ("a) (b", 1, 256 * 4096));
        assert!((process.cpu_seconds - 3.0).abs() < 1e-9);
        assert!(read("nonsense").is_none());
    }

    fn process(kind: &str, parent: u32, cpu_seconds: f64) -> Process {
        Process { kind: kind.to_owned(), parent, cpu_seconds, resident: 0 }
    }

    #[test]
    fn processes_of_other_deployments_do_not_count_beside_those_that_were_started() {
        let others = [(1, process("database", 0, 0.0)), (2, process("muster", 7, 0.0))];
        let mut all = BTreeMap::from(others.clone());
        only_started_by(9, &mut all);
        assert_eq!(all.into_keys().collect::<Vec<_>>(), [1, 2], "a deployment that runs already");
        let mut all = BTreeMap::from(others);
        all.insert(3, process("muster", 9, 0.0));
        only_started_by(9, &mut all);
        assert_eq!(all.into_keys().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn what_a_child_had_used_before_is_not_charged_to_its_parent_when_it_ends() {
        let before = [
            (1, process("database", 0, 1.0)),
            (2, process("database", 1, 5.0)),
            (3, process("database", 1, 2.0)),
        ];
        let now = BTreeMap::from([(1, process("database", 0, 6.5)), (3, process("database", 1, 2.0))]);
        assert_eq!(at_the_start(&BTreeMap::from(before), &now), BTreeMap::from([(1, 6.0), (3, 2.0)]));
    }

    #[test]
    fn processes_are_known_by_their_cut_names() {
        assert_eq!(kind("eligibility-con"), "eligibility-consumer");
        assert_eq!(kind("beam.smp"), "broker");
        assert_eq!(kind("bash"), "");
    }
}
