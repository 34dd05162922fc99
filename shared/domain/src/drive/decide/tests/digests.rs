//! Digests: one a day, at a local time of the drive, from the opening until the first after the
//! end.

use chrono::{NaiveDate, Timelike as _};
use chrono_tz::Tz;

use super::*;
use crate::drive::RemindDrive;
use crate::drive::event::DriveDigested;
use crate::id::timed_id;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

impl Lane {
    /// The digests that are sent when schedulers look at `ms`.
    fn digests(&mut self, ms: i64) -> Vec<DriveDigested> {
        let (drive_id, sequence, now) = (self.drive_id, self.state.sequence, clock::from_ms(ms));
        let drive = self.state.drive.as_ref().unwrap();
        let Some(due) = drive.next_digest().filter(|due| *due <= now) else { return vec![] };
        let id = timed_id(&format!("remind-drive {drive_id} {sequence}"), due.timestamp_millis());
        let command = RemindDrive { drive_id, due }.into();
        let events = self.deliver(id, ms, &command).events;
        // Another scheduler found the same digest.
        self.deliver(id, ms, &command);
        let next = self.state.drive.as_ref().unwrap().next_digest();
        assert!(next.is_none_or(|next| next > now), "nothing is due for ever");
        let told = |event| match event {
            Event::DriveDigested(told) => told,
            other => panic!("{other:?}"),
        };
        events.into_iter().map(told).collect()
    }
}

/// A drive that is open from the first midnight on, without reminders.
fn open(more: serde_json::Value) -> Lane {
    let mut base = serde_json::json!({ "reminders": [], "opens_at": clock::from_ms(DAY) });
    base.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
    let mut lane = Lane::published(base);
    lane.at(DAY, AdvanceDrive { drive_id: lane.drive_id, due: clock::from_ms(DAY) }).result.unwrap();
    lane
}

#[test]
fn a_digest_says_how_it_stands_and_stood_and_comes_until_the_first_after_the_end() {
    let mut lane = open(serde_json::json!({
        "digest_at": "08:00", "time_zone": "Asia/Kolkata", "capacity": 2, "waitlist_capacity": 5,
        "closes_at": clock::from_ms(3 * DAY), "starts_at": clock::from_ms(3 * DAY + HOUR),
    }));
    // 08:00 in Kolkata is 02:30 UTC.
    let due = |day: i64| day * DAY + 5 * HOUR / 2;
    assert_eq!(lane.digests(due(1) - 1), []);
    let first = lane.digests(due(1)).remove(0);
    assert_eq!((first.at, first.confirmed, first.entries), (clock::from_ms(due(1)), 0, 3));
    assert_eq!(lane.digests(due(2) - 1), []);
    for member in 1..=3 {
        lane.register(due(1), member);
    }
    let second = lane.digests(due(2) + HOUR).remove(0);
    let says = |told: &DriveDigested| {
        (told.confirmed, told.waitlisted, told.confirmed_before, told.waitlisted_before, told.entries)
    };
    assert_eq!((second.at, says(&second)), (clock::from_ms(due(2)), (2, 1, 0, 0, 3)));
    // The drive starts before the next 08:00. This digest says how it ended.
    let last = lane.digests(due(3)).remove(0);
    assert_eq!(says(&last), (2, 1, 2, 1, 0));
    assert_eq!(lane.state.drive.as_ref().unwrap().next_digest(), None);
    assert_eq!(lane.digests(due(9)), []);
}

#[test]
fn a_digest_is_told_of_what_is_not_called_off_and_only_as_long_as_it_is_wanted() {
    let closes_at = clock::from_ms(9 * DAY);
    let mut lane = open(serde_json::json!({ "digest_at": "08:00", "closes_at": closes_at }));
    assert_eq!(lane.digests(4 * DAY).len(), 1, "of several that are overdue the last");
    assert_eq!(lane.digests(4 * DAY), []);
    lane.update(4 * DAY, serde_json::json!({ "digest_at": "07:00" })).result.unwrap();
    assert_eq!(lane.digests(4 * DAY + 7 * HOUR).len(), 1);
    lane.update(5 * DAY, serde_json::json!({ "digest_at": null })).result.unwrap();
    assert_eq!(lane.digests(6 * DAY), []);
    lane.update(6 * DAY, serde_json::json!({ "digest_at": "07:00" })).result.unwrap();
    let drive_id = lane.drive_id;
    lane.at(6 * DAY, CancelDrive { drive_id, reason: "rain".into() }).result.unwrap();
    assert_eq!(lane.digests(8 * DAY), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_day_has_its_digest_once_whatever_the_clocks_do(
        zone in proptest::sample::select(vec![
            "UTC", "Asia/Kolkata", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia",
        ]),
        (hour, minute) in (0..24_u32, 0..60_u32),
        // The range has two years, with all clock changes of these zones.
        first in 0..700_i64,
        days in 1..30_i64,
        ticks in proptest::collection::vec(1..40 * HOUR, 1..80),
    ) {
        // Samoa skipped 30 December 2011.
        let opens = NaiveDate::from_ymd_opt(2010, 6, 1).unwrap().and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp_millis()
            + first * DAY;
        let closes = opens + days * DAY;
        let digest_at = format!("{hour:02}:{minute:02}");
        let mut lane = Lane::published(serde_json::json!({
            "reminders": [], "time_zone": zone, "digest_at": digest_at,
            "opens_at": clock::from_ms(opens), "closes_at": clock::from_ms(closes),
        }));
        lane.at(opens, AdvanceDrive { drive_id: lane.drive_id, due: clock::from_ms(opens) }).result.unwrap();
        let zone: Tz = zone.parse().unwrap();
        let (mut now, mut told, mut last) = (opens, Vec::new(), None);
        for tick in ticks {
            let since = now;
            now += tick;
            let digests = lane.digests(now);
            prop_assert!(digests.len() <= 1);
            // The last time at which the clock has shown it since then, found by counting minutes.
            let shown = (since / 60_000 + 1..=now / 60_000).map(|minute| clock::from_ms(minute * 60_000)).rfind(|at| {
                let local = at.with_timezone(&zone);
                (local.hour(), local.minute()) == (hour, minute)
            });
            if let Some(digest) = digests.first() {
                prop_assert!(digest.at.timestamp_millis() > opens && digest.at.timestamp_millis() <= now);
                prop_assert!(last.is_none_or(|last| last < digest.at));
                last = Some(digest.at);
                told.push(digest.at.with_timezone(&zone).date_naive());
            }
            if let Some(shown) = shown.filter(|shown| shown.timestamp_millis() < closes && shown.timestamp_millis() > opens) {
                // Its digest was sent. If the clock shows the time twice on a day, the second one
                // counts.
                prop_assert!(last.is_some_and(|last| last >= shown || shown - last < chrono::Duration::hours(2)), "{shown}");
            }
        }
        // At most one digest comes after the end. It may have been sent already.
        let over = closes + 4 * DAY;
        let last = lane.digests(now.max(over));
        prop_assert!(last.len() <= 1);
        prop_assert!(lane.digests(now.max(over) + 100 * DAY).is_empty());
        told.extend(last.iter().map(|digest| digest.at.with_timezone(&zone).date_naive()));
        let after = told.iter().filter(|day| **day > clock::from_ms(closes + DAY).with_timezone(&zone).date_naive());
        prop_assert_eq!(after.count(), 0);
        let days: BTreeSet<_> = told.iter().collect();
        prop_assert_eq!(days.len(), told.len(), "one a day");
    }
}
