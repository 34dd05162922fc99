use super::*;

#[test]
fn every_pattern_of_the_timetable_can_be_read() {
    for entry in TIMETABLE {
        let from = shared::clock::from_ms(1_790_000_000_000);
        let due = due(entry.cron, entry.zone, from, from + chrono::Duration::days(2), 1000).unwrap();
        assert!(!due.is_empty(), "{}", entry.name);
    }
}

/// Against an independent calculation: `expected.py`, beside this file.
#[test]
fn changes_of_the_clock_are_right() {
    let mut compared = 0;
    for line in include_str!("expected.csv").lines() {
        let [zone, pattern, start, minutes] = line.split(';').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let start: Instant = start.parse().unwrap();
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
    let (start, zone) = (shared::clock::from_ms(1_790_000_000_000), Tz::Europe__Berlin);
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
