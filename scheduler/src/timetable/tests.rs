use super::*;

#[test]
fn every_pattern_of_the_timetable_can_be_read() {
    for entry in TIMETABLE {
        let from = shared::clock::from_ms(1_790_000_000_000);
        let due = due(entry.cron, entry.zone, from, from + chrono::Duration::days(2), 1000).unwrap();
        assert!(!due.is_empty(), "{}", entry.name);
    }
}
