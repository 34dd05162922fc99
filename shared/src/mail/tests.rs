use chrono::{NaiveTime, TimeZone as _, Timelike as _, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::{Kind, Language, MOST_LATE, Topic, next_attempt};
use crate::mail::preferences::{Preferences, QuietHours};
use crate::mail::template::{Facts, LANGUAGES, MAX_TEXT, Template};

fn template(subject: &str, text: &str, html: Option<&str>) -> Template {
    Template { subject: subject.to_owned(), text: text.to_owned(), html: html.map(ToOwned::to_owned) }
}

#[test]
fn every_kind_is_there_in_every_language_and_comes_to_something() {
    for language in LANGUAGES {
        let language: Language = language.parse().unwrap();
        for kind in Kind::ALL {
            let template = Template::built_in(kind, &language).expect("it is there");
            assert_eq!(template.faults(), [], "{kind:?} {language}");
            let [full, little] = Facts::samples();
            let rendered = template.render(&full).unwrap();
            assert!(rendered.subject.contains(&full.title), "{rendered:?}");
            assert!(rendered.text.contains(&full.name) && rendered.html.contains("<p>"), "{rendered:?}");
            let can_be_ended = rendered.text.contains(full.unsubscribe.as_deref().unwrap());
            assert_eq!(can_be_ended, kind.topic().is_some(), "{kind:?}: {}", rendered.text);
            let rendered = template.render(&little).unwrap();
            assert!(!rendered.text.contains("None") && !rendered.text.contains("none"), "{rendered:?}");
        }
    }
}

#[test]
fn whoever_has_no_name_is_greeted_without_one() {
    for language in LANGUAGES {
        let language: Language = language.parse().unwrap();
        for kind in Kind::ALL {
            let template = Template::built_in(kind, &language).expect("it is there");
            let greeting = |facts: &Facts| {
                let text = template.render(facts).unwrap().text;
                text.lines().next().unwrap_or_default().to_owned()
            };
            let [full, little] = Facts::samples();
            let hello = greeting(&little);
            assert!(!hello.contains([',', ' ']), "{kind:?} {language}: {hello:?}");
            assert_eq!(greeting(&full), format!("{hello} {},", full.name), "{kind:?} {language}");
        }
    }
}

#[test]
fn a_subject_is_one_line_of_visible_text() {
    for subject in ["a\nb", "a\u{2028}b", "\u{200b}", "a\u{202e}b", "a\tb"] {
        let faults = template(subject, "x", None).faults();
        assert!(faults.len() == 1 && faults[0].field == "subject", "{subject:?}: {faults:?}");
    }
    let facts = Facts { title: "Two\u{2028}\u{202e}lines\u{1b}".to_owned(), ..Facts::default() };
    assert_eq!(template("{{ title }}!", "x", None).render(&facts).unwrap().subject, "Two lines !");
}

#[test]
fn what_is_wrong_with_a_template_is_said_with_its_place() {
    let faults = template("{{ titel }}", "Hello\n{% if name %}", Some("{{ name")).faults();
    let found: Vec<_> = faults.iter().map(|fault| (fault.field.as_str(), fault.line)).collect();
    assert_eq!(found, [("subject", None), ("text", Some(2)), ("html", Some(1))]);
    assert!(faults[0].detail.contains("there is no titel; there are name, title"), "{faults:?}");
    for (text, says) in [
        ("", "empty"),
        ("{{ name | nothing }}", "filter"),
        ("{{ name | indent(99999999999) }}", "filter"),
        ("{{ name * 99999999999 }}", "too large"),
        ("{{ 1 / 0 }}", "unable"),
        ("{{ name.first }}", "undefined"),
        ("{% for a in [1] * 9999 %}{% for b in [1] * 9999 %}{% endfor %}{% endfor %}", "fuel"),
        ("{% for a in [1] * 9000 %}{{ title }}{{ title }}{% endfor %}", "more than"),
        ("{% include 'other' %}", "unknown statement"),
        ("{{ position + name }}", ""),
    ] {
        let faults = template("s", text, None).faults();
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        assert!(faults[0].field == "text" && faults[0].detail.contains(says), "{text}: {faults:?}");
    }
    assert_eq!(template("s", &"x".repeat(MAX_TEXT + 1), None).faults().len(), 1);
}

#[test]
fn what_is_filled_in_cannot_become_markup_or_a_header() {
    let facts =
        Facts { title: "<b>&\"bold\"</b>\r\nBcc: everybody@example.org".to_owned(), ..Facts::default() };
    let written = template("{{ title }}", "{{ title }}\n\nx", Some("<p>{{ title }}</p>"));
    let rendered = written.render(&facts).unwrap();
    assert_eq!(rendered.subject, "<b>&\"bold\"</b> Bcc: everybody@example.org");
    assert!(rendered.html.starts_with("<p>&lt;b&gt;&amp;"), "{}", rendered.html);
    let made = template("s", "{{ title }}", None).render(&facts).unwrap();
    assert!(made.html.contains("&lt;b&gt;&amp;") && !made.html.contains("<b>"), "{}", made.html);
}

#[test]
fn a_language_has_fallbacks_and_no_other_form() {
    let tags = |text: &str| -> Vec<String> {
        text.parse::<Language>().unwrap().fallbacks().map(|language| language.to_string()).collect()
    };
    assert_eq!(tags("pt-BR"), ["pt-BR", "pt", "en"]);
    assert_eq!(tags("hi"), ["hi", "hi", "en"]);
    for text in ["", "e", "EN", "en-us", "en-USA", "english", "en-US-x", "é"] {
        assert!(text.parse::<Language>().is_err(), "{text}");
    }
}

#[test]
fn attempts_come_for_two_days_and_no_longer() {
    let made = Utc.with_ymd_and_hms(2026, 11, 21, 8, 0, 0).unwrap();
    let (mut now, mut attempts) = (made, 0);
    while let Some(again) = next_attempt(made, attempts + 1, now, 0.5) {
        assert!(again > now);
        (now, attempts) = (again, attempts + 1);
    }
    assert!((made + MOST_LATE - now).num_hours() < 1, "{now}");
    assert!((95..110).contains(&attempts), "{attempts}");
}

#[test]
fn what_is_essential_always_comes_and_at_once() {
    let zone = Tz::Asia__Kolkata;
    let (from, until) = (NaiveTime::MIN, NaiveTime::from_hms_opt(23, 59, 0).unwrap());
    let preferences = Preferences {
        unwanted: Topic::ALL.iter().copied().collect(),
        quiet_hours: Some(QuietHours { from, until, zone }),
        ..Preferences::default()
    };
    let now = Utc.with_ymd_and_hms(2026, 11, 21, 8, 0, 0).unwrap();
    for kind in Kind::ALL {
        let expected = kind.topic().is_none().then_some(now);
        assert_eq!(preferences.due(kind, now), expected, "{kind:?}");
        let bounced = Preferences { bounced_at: Some(now), ..preferences.clone() };
        assert_eq!(bounced.due(kind, now), None);
    }
}

#[test]
fn quiet_hours_reach_over_midnight_and_over_changes_of_the_clock() {
    let at = |text: &str| text.parse::<domain::clock::Timestamp>().unwrap();
    let time = |hour, minute| NaiveTime::from_hms_opt(hour, minute, 0).unwrap();
    let night = QuietHours { from: time(22, 0), until: time(7, 0), zone: Tz::Asia__Kolkata };
    // 22:00 to 07:00 in Kolkata is 16:30 to 01:30 in UTC.
    assert_eq!(night.over(at("2026-11-21T16:29:59Z")), at("2026-11-21T16:29:59Z"));
    assert_eq!(night.over(at("2026-11-21T16:30:00Z")), at("2026-11-22T01:30:00Z"));
    assert_eq!(night.over(at("2026-11-22T01:29:00Z")), at("2026-11-22T01:30:00Z"));
    assert_eq!(night.over(at("2026-11-22T01:30:00Z")), at("2026-11-22T01:30:00Z"));
    // 02:30 does not exist on the day on which the clocks go forward.
    let spring = QuietHours { from: time(1, 0), until: time(2, 30), zone: Tz::Europe__Berlin };
    assert_eq!(spring.over(at("2027-03-28T00:30:00Z")), at("2027-03-28T01:00:00Z"));
    // It exists twice in autumn.
    assert_eq!(spring.over(at("2026-10-25T00:00:00Z")), at("2026-10-25T01:30:00Z"));
    let never = QuietHours { from: time(9, 0), until: time(9, 0), zone: Tz::UTC };
    assert_eq!(never.over(at("2026-11-21T09:00:00Z")), at("2026-11-21T09:00:00Z"));
}

proptest! {
    /// In every zone, at any time: quiet hours are over within 48 hours, and then it is not quiet.
    #[test]
    fn quiet_hours_end(
        seconds in 0_i64..2_000_000_000,
        zone in 0..chrono_tz::TZ_VARIANTS.len(),
        from in 0_u32..1440,
        until in 0_u32..1440,
    ) {
        let zone = chrono_tz::TZ_VARIANTS[zone];
        let time = |minutes: u32| NaiveTime::from_hms_opt(minutes / 60, minutes % 60, 0).unwrap();
        let quiet = QuietHours { from: time(from), until: time(until), zone };
        let now = Utc.timestamp_opt(seconds, 0).unwrap();
        let over = quiet.over(now);
        prop_assert!(now <= over && (over - now).num_hours() <= 48);
        let local = over.with_timezone(&zone);
        if over > now {
            let minute = local.hour() * 60 + local.minute();
            // It is the end, unless the clock skips the end.
            prop_assert!((minute + 1440 - until) % 1440 <= 24 * 60 / 12, "{local}");
        } else {
            let minute = local.hour() * 60 + local.minute();
            let is_quiet = if from <= until { (from..until).contains(&minute) } else { minute >= from || minute < until };
            prop_assert!(!is_quiet || local.second() == 0, "{local}");
        }
    }
}
