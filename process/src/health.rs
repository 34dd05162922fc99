//! The health report of a process: each part, what its absence means, and the state of the whole.

use std::error::Error;
use std::time::{Duration, Instant};

use domain::text::with_causes;
use serde_json::{Map, Value as Json, json};

use crate::parts::Parts;
use crate::stopping::is_stopping;
use crate::watch::Liveness;

/// How long a part may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A part that a process depends on and can check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its name in the report.
    pub name: &'static str,
    /// How it is checked, in one sentence.
    pub asks: &'static str,
    /// What its absence means, in one sentence.
    pub means: &'static str,
    /// Whether the process cannot do its work without it.
    pub is_needed: bool,
}

/// The database, to an API.
pub const DATABASE: Part = Part {
    name: "database",
    asks: "A row is written, at most once a second.",
    means: "Reading, logging in and signing up answer 503. Clicks are accepted and wait in order for their decision.",
    is_needed: true,
};
/// The broker, to an API.
pub const BROKER: Part = Part {
    name: "broker",
    asks: "It is connected, takes messages, has every queue as it is needed, and decisions come back.",
    means: "Nothing is accepted: clicks answer 503 with Retry-After. Reading goes on.",
    is_needed: true,
};
/// The cache, to an API.
pub const CACHE: Part = Part {
    name: "cache",
    asks: "A key is written.",
    means: "Reads come from the database, which is slower. Nothing is lost.",
    is_needed: false,
};
/// The other API.
pub const PEER: Part = Part {
    name: "peer",
    asks: "Its /health is read.",
    means: "The other API does not answer its clients. This one goes on.",
    is_needed: false,
};
/// The database, to a process behind the APIs.
pub const WORKERS_DATABASE: Part = Part {
    name: "database",
    asks: "A row is written, at most once a second.",
    means: "This process decides, sends and follows nothing. What waits for it waits in order.",
    is_needed: true,
};
/// The broker, to a process behind the APIs.
pub const WORKERS_BROKER: Part = Part {
    name: "broker",
    asks: "It is connected, takes messages, and has every queue as it is needed.",
    means: "No commands reach this process, and no events leave it. What was accepted waits in the broker.",
    is_needed: true,
};

/// How a part answered.
#[derive(Debug)]
pub struct Answer {
    part: Part,
    latency: Duration,
    found: Result<(), Unwell>,
}

/// Why a check failed.
type Unwell = Box<dyn Error + Send + Sync>;

/// Checks a part. A part that does not answer in time is down.
pub async fn ask<E: Into<Unwell>>(part: Part, asked: impl Future<Output = Result<(), E>>) -> Answer {
    let since = Instant::now();
    let found = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(found) => found.map_err(Into::into),
        Err(_) => Err("no answer in time".into()),
    };
    Answer { part, latency: since.elapsed(), found }
}

/// The report, and whether the process can do its work.
///
/// `stopping`: the process was asked to stop and serves on for a moment. `down`: a part that it
/// needs is away. `degraded`: it works, but an optional part is away, or one of its own parts was
/// restarted lately, is stuck or has skipped something. Otherwise `up`.
#[must_use]
pub fn report(service: &str, answers: &[Answer], liveness: &Liveness, parts: &Parts) -> (bool, Json) {
    let (missing, troubles) = (liveness.missing(), parts.troubles());
    let works = !is_stopping()
        && missing.is_empty()
        && answers.iter().all(|answer| answer.found.is_ok() || !answer.part.is_needed);
    let is_whole = troubles.is_empty() && answers.iter().all(|answer| answer.found.is_ok());
    let status = match (works, is_whole) {
        _ if is_stopping() => "stopping",
        (false, _) => "down",
        (true, false) => "degraded",
        (true, true) => "up",
    };
    let checks: Map<_, _> =
        answers.iter().map(|answer| (answer.part.name.to_owned(), answer.json())).collect();
    let report = json!({
        "service": service,
        "status": status,
        "checks": checks,
        "not_consumed": missing,
        "troubles": troubles,
    });
    (works, report)
}

impl Answer {
    fn json(&self) -> Json {
        let mut json = json!({
            "status": if self.found.is_ok() { "up" } else { "down" },
            "latency_ms": self.latency.as_secs_f64() * 1000.0,
            "asks": self.part.asks,
            "means": self.part.means,
        });
        if let Err(error) = &self.found {
            json["error"] = with_causes(&**error).into();
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(away: &[Part], missing: bool, trouble: bool) -> (bool, Json) {
        let mut answers = Vec::new();
        for part in [DATABASE, BROKER, CACHE] {
            let found = if away.contains(&part) { Err("refused".to_owned()) } else { Ok(()) };
            answers.push(ask(part, std::future::ready(found)).await);
        }
        let liveness = Liveness::expecting(missing.then(|| "drives.00".to_owned()));
        let parts = Parts::default();
        if trouble {
            parts.is_stuck("inbox", "entry 7".to_owned(), "why".to_owned());
        }
        report("test", &answers, &liveness, &parts)
    }

    #[tokio::test]
    async fn only_what_is_needed_takes_a_process_down() {
        for (away, missing, trouble, works, status) in [
            (&[][..], false, false, true, "up"),
            (&[CACHE], false, false, true, "degraded"),
            (&[], false, true, true, "degraded"),
            (&[CACHE, DATABASE], false, true, false, "down"),
            (&[BROKER], false, false, false, "down"),
            (&[], true, false, false, "down"),
        ] {
            let (does, report) = said(away, missing, trouble).await;
            assert_eq!((does, &report["status"]), (works, &json!(status)), "{away:?}: {report}");
        }
    }

    #[tokio::test]
    async fn each_part_says_what_its_absence_means() {
        let (_, report) = said(&[CACHE], false, false).await;
        let cache = &report["checks"]["cache"];
        assert_eq!((&cache["status"], &cache["error"]), (&json!("down"), &json!("refused")));
        for part in ["database", "broker", "cache"] {
            assert!(report["checks"][part]["means"].as_str().unwrap().ends_with('.'), "{part}");
        }
    }
}
