use std::collections::BTreeSet;

use chrono::{Offset as _, TimeZone as _, Timelike as _};

use super::*;

#[test]
fn every_pattern_of_the_timetable_can_be_read() {
    for entry in TIMETABLE {
        let from = domain::clock::from_ms(1_790_000_000_000);
        let due = due(entry.cron, entry.zone, from, from + chrono::Duration::days(2), 1000).unwrap();
        assert!(!due.is_empty(), "{}", entry.name);
    }
}

/// Compares with an independent calculation: `expected.py`, beside this file.
#[test]
fn changes_of_the_clock_are_right() {
    let mut compared = 0;
    for line in include_str!("expected.csv").lines() {
        let [zone, pattern, start, minutes] = line.split(';').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let start: Timestamp = start.parse().unwrap();
        let until = start + chrono::Duration::minutes(2 * 24 * 60 + 7);
        let found = due(pattern, zone.parse().unwrap(), start, until, 10_000).unwrap();
        let found: Vec<_> = found.iter().map(|at| (*at - start).num_minutes().to_string()).collect();
        assert_eq!(found.join(" "), minutes, "{zone} {pattern} from {start}");
        compared += 1;
    }
    assert!(compared > 300, "{compared}");
}

#[test]
fn it_goes_on_where_it_stopped() {
    let (start, zone) = (domain::clock::from_ms(1_790_000_000_000), Tz::Europe__Berlin);
    let until = start + chrono::Duration::days(400);
    let all = due("17 */5 * * *", zone, start, until, 100_000).unwrap();
    let mut pieces = Vec::new();
    let mut reached = start;
    loop {
        let next = due("17 */5 * * *", zone, reached, until, 7).unwrap();
        let Some(last) = next.last() else { break };
        reached = *last;
        pieces.extend(next);
    }
    assert_eq!(pieces, all);
}

/// Compares with local time, minute by minute, around every change of every zone's clock in two
/// years.
#[test]
fn every_zone_and_every_change_of_its_clock() {
    let (mut at, end) =
        (domain::clock::from_ms(1_767_225_600_000), domain::clock::from_ms(1_830_297_600_000));
    let step = chrono::Duration::hours(6);
    let shift = |zone: Tz, at: Timestamp| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    let mut edges = Vec::new();
    while at < end {
        let changed = |zone: &&Tz| shift(**zone, at) != shift(**zone, at + step);
        edges.extend(chrono_tz::TZ_VARIANTS.iter().filter(changed).map(|zone| (*zone, at)));
        at += step;
    }
    // Zones whose clock never changes have an ordinary day.
    edges.extend(chrono_tz::TZ_VARIANTS.iter().map(|zone| (*zone, end)));
    assert!(edges.len() > 1000, "{}", edges.len());
    for (zone, edge) in edges {
        let (start, until) = (edge - chrono::Duration::hours(26), edge + chrono::Duration::hours(32));
        let minutes =
            (1..=(until - start).num_minutes()).map(|minute| start + chrono::Duration::minutes(minute));
        let shown: Vec<_> = minutes.map(|at| (at, at.with_timezone(&zone).naive_local())).collect();
        let hourly: Vec<_> =
            shown.iter().filter(|(_, clock)| clock.minute() == 17).map(|(at, _)| *at).collect();
        assert_eq!(due("17 * * * *", zone, start, until, 1000).unwrap(), hourly, "{zone} around {edge}");
        // A fixed time is due once a day, whatever the clock does. It is due at the first minute
        // that shows it. If it is skipped, it is due at the first minute after it.
        let days: BTreeSet<_> = shown.iter().map(|(_, clock)| clock.date()).collect();
        let whole: Vec<_> = days.into_iter().skip(1).collect();
        let daily: Vec<_> = whole[..whole.len() - 1]
            .iter()
            .filter_map(|day| {
                let time = day.and_hms_opt(2, 30, 0)?;
                shown.iter().find(|(_, clock)| *clock >= time).map(|(at, _)| *at)
            })
            .collect();
        let found = due("30 2 * * *", zone, start, until, 1000).unwrap();
        let inside =
            |at: &Timestamp| whole[..whole.len() - 1].contains(&at.with_timezone(&zone).date_naive());
        let found: Vec<_> = found.into_iter().filter(inside).collect();
        assert_eq!(found, daily, "{zone} around {edge}");
    }
}
