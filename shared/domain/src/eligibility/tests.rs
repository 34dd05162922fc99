use proptest::prelude::*;

use super::*;
use crate::attribute::{Source, Verified};
use crate::clock;

fn rule(when: &str) -> Rule {
    Rule { name: "rule".into(), when: when.into(), message: "No".into() }
}

fn drive() -> DriveFacts {
    DriveFacts {
        title: "Blood drive".into(),
        kind: "donation".into(),
        venue: "Hall 3".into(),
        opens_at: clock::from_ms(1_700_000_000_000),
        closes_at: clock::from_ms(1_700_086_400_000),
        starts_at: Some(clock::from_ms(1_701_000_000_000)),
        ends_at: None,
        time_zone: Tz::UTC,
    }
}

fn in_zone(time_zone: Tz) -> DriveFacts {
    DriveFacts { time_zone, ..drive() }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Someone of whom an import says this.
fn member(json: serde_json::Value) -> Known {
    Known::imported(serde_json::from_value(json).unwrap(), clock::from_ms(1_600_000_000_000))
}

fn compiled(when: &str) -> Rules {
    Rules::compile(&[rule(when)], 3).unwrap_or_else(|errors| panic!("{when}: {errors:?}"))
}

fn judge_one(when: &str, attributes: serde_json::Value) -> RuleVerdict {
    compiled(when).judge(&member(attributes), &drive(), clock::from_ms(1_700_000_000_000)).rules.remove(0)
}

#[test]
fn a_rule_holds_or_does_not() {
    let me = serde_json::json!({
        "age": 17, "marks": 67.5, "workex": true, "branch": "Sci&Tech", "born": "2005-11-15",
        "last": "2023-10-01", "seen": "2023-11-14T00:00:00+05:30"
    });
    for (when, expected) in [
        ("member.age >= 18", false),
        ("member.age >= 16.5", true),
        ("member.marks >= 60", true),
        ("member.marks >= 60.0 && member.age > 16", true),
        ("member.marks + member.age >= 84.5", true),
        ("(member.marks + member.age) / 2 < 43", true),
        ("member.workex", true),
        ("!member.workex || member.age < 3", false),
        ("member.branch in ['Sci&Tech', 'Arts']", true),
        ("member.branch.startsWith('Sci')", true),
        ("size(member.branch) == 8", true),
        ("has(member.backlogs) ? member.backlogs == 0 : true", true),
        ("years(member.born, now) >= 18", false),
        ("years(member.born, drive.starts_at) >= 18", true),
        ("days(member.last, now) >= 44", true),
        ("days(member.last, now) >= 45", false),
        ("now - member.last >= duration('1056h')", true),
        ("member.seen < now", true),
        ("drive.kind == 'donation'", true),
        ("drive.opens_at <= now && now < drive.closes_at", true),
        ("member.born.getFullYear() < 2006", true),
        ("size(member.branch) + 1 > 8", true),
        ("member.age % 2 == 1", true),
        ("now.getFullYear() - 18 >= member.born.getFullYear()", true),
        ("member.marks * 3 == 202.5 && 0.1 + 0.2 == 0.3", true),
        ("int(member.marks) == 67", true),
        ("member.born < '2006-01-01' && member.born == '2005-11-15'", true),
        ("member.born in ['2005-11-15', '2005-11-16']", true),
        ("string(member.age) + '!' == '17!'", true),
        ("member.last + duration('24h') < now", true),
        ("member.branch.contains('&') ? member.workex : false", true),
        ("drive.title == 'Blood drive' && drive.starts_at > '2023-11-01'", true),
        ("(now - member.last).getHours() > 1000", true),
        ("-member.age < 0", true),
    ] {
        let verdict = judge_one(when, me.clone());
        assert_eq!((verdict.passed, verdict.detail.as_deref()), (expected, None), "{when}");
    }
}

#[test]
fn a_missing_attribute_is_a_failed_rule_that_says_what_is_missing() {
    let verdict = judge_one("member.age >= 18 && member.weight > 50.0", serde_json::json!({ "age": 20 }));
    assert!(!verdict.passed);
    assert_eq!(verdict.missing, ["weight"]);
    assert_eq!(verdict.compared["weight"], Json::Null);
    assert_eq!(verdict.compared["age"], 20);
    assert_eq!(verdict.detail, None);
    let verdict = judge_one("drive.ends_at > now", serde_json::json!({}));
    assert_eq!(verdict.missing, ["drive.ends_at"]);
}

#[test]
fn what_does_not_fit_fails_and_says_why() {
    for (when, me, says) in [
        ("member.age >= 18", serde_json::json!({ "age": "seventeen" }), "age is a text, and 18"),
        ("member.age >= 18", serde_json::json!({ "age": "60" }), "age is a text"),
        ("100 / member.age > 1", serde_json::json!({ "age": 0 }), "age is 0, and the rule divides by it"),
        ("100 % member.age > 1", serde_json::json!({ "age": 0 }), "divides by it"),
        (
            "member.fit",
            serde_json::json!({ "fit": "yes" }),
            "fit is a text, and the rule needs true or false",
        ),
        ("member.fit != true", serde_json::json!({ "fit": "TRUE" }), "fit is a text"),
        ("!(member.fit == false)", serde_json::json!({ "fit": 0 }), "fit is a number"),
        ("member.branch != 'Arts'", serde_json::json!({ "branch": 7 }), "branch is a number"),
        ("years(member.born, now) > 3", serde_json::json!({ "born": "soon" }), "born is no date"),
        ("years(member.born, now) > 3", serde_json::json!({ "born": 2001 }), "born is a number"),
        ("int(member.roll) > 3", serde_json::json!({ "roll": "A7" }), "roll is no number"),
        ("member.big * 2 > 3", serde_json::json!({ "big": 1e300 }), "more digits"),
        ("member.big == 5", serde_json::json!({ "big": 1.234_567_890_123_456_8e20 }), "more digits"),
        ("member.born <= '2008-01-01'", serde_json::json!({ "born": "12/31/2015" }), "born is no date"),
        ("'2008-01-01' > member.born", serde_json::json!({ "born": "01.05.2015" }), "born is no date"),
        ("now + duration('1000000h') > member.born", serde_json::json!({ "born": "2001-01-01" }), ""),
    ] {
        let verdict = judge_one(when, me);
        if says.is_empty() {
            assert!(verdict.passed, "{when}: {verdict:?}");
            continue;
        }
        assert!(!verdict.passed, "{when}");
        let detail = verdict.detail.as_deref().unwrap_or_default();
        assert!(detail.contains(says.replace("18", "").trim_end_matches(", and ")), "{when}: {detail}");
    }
}

/// One side of `&&` and `||` may decide alone. A guard protects the side after it.
#[test]
fn what_is_not_needed_is_not_missed() {
    for when in [
        "member.absent > 1 || member.age == 17",
        "member.age == 17 || member.age / member.zero > 1",
        "member.zero == 0 || 10 / member.zero > 1",
        "!(member.absent > 1 && member.age == 18)",
        "has(member.absent) ? member.absent > 1 : true",
    ] {
        let verdict = judge_one(when, serde_json::json!({ "age": 17, "zero": 0 }));
        assert_eq!((verdict.passed, verdict.detail), (true, None), "{when}");
    }
    let verdict =
        judge_one("member.a > 1 && member.b > 1 && member.age > 3", serde_json::json!({ "age": 17 }));
    assert_eq!(verdict.missing, ["a", "b"]);
}

#[test]
fn large_numbers_are_never_rounded_to_each_other() {
    let pairs = [
        ("9007199254740993", "9007199254740992"),
        ("18446744073709551615", "18446744073709551614"),
        ("0.10000000000000002", "0.1"),
    ];
    for (one, other) in pairs {
        let me = format!("{{\"a\":{one},\"b\":{other}}}");
        let me: serde_json::Value = serde_json::from_str(&me).unwrap();
        assert!(judge_one("member.a > member.b && member.a != member.b", me).passed, "{one} {other}");
    }
    let me = serde_json::json!({ "a": 9_007_199_254_740_993_u64 });
    assert!(!judge_one("member.a == 9007199254740992", me.clone()).passed);
    assert!(judge_one("member.a == 9007199254740993", me).passed);
}

#[test]
fn a_text_that_looks_like_a_date_is_a_text_as_well() {
    let me = serde_json::json!({ "batch": "2024-01-01", "until": "2024-06-30T18:00:00Z" });
    for (when, expected) in [
        ("member.batch == '2024-01-01'", true),
        ("member.batch != '2024-01-02'", true),
        ("member.batch in ['A', '2024-01-01']", true),
        ("member.batch.startsWith('2024')", true),
        ("size(member.batch) == 10", true),
        ("member.batch == timestamp('2024-01-01')", true),
        ("member.batch < member.until", true),
        // Two texts that are both dates are compared as dates.
        ("member.until == '2024-06-30T20:00:00+02:00'", true),
        ("member.until > '2024-06-30' && member.until < '2024-07-01'", true),
    ] {
        let verdict = judge_one(when, me.clone());
        assert_eq!((verdict.passed, verdict.detail), (expected, None), "{when}");
    }
    let titled = DriveFacts { title: "2024-01-01".into(), venue: "2024-01-02".into(), ..drive() };
    for when in ["drive.title == '2024-01-01'", "size(drive.venue) == 10", "drive.title != drive.venue"] {
        let verdict = compiled(when).judge(&Known::default(), &titled, clock::from_ms(0));
        assert!(verdict.eligible, "{when}: {verdict:?}");
    }
}

/// A day begins at midnight in the drive's time zone.
#[test]
fn dates_go_by_the_drives_zone() {
    let adult = "years(member.born, now) >= 18";
    for (zone, born, now, expected) in [
        (Tz::Asia__Kolkata, "2006-11-30", "2024-11-29T18:29:59Z", false),
        (Tz::Asia__Kolkata, "2006-11-30", "2024-11-29T18:30:00Z", true),
        (Tz::America__Los_Angeles, "2006-11-30", "2024-11-30T07:59:59Z", false),
        (Tz::America__Los_Angeles, "2006-11-30", "2024-11-30T08:00:00Z", true),
        (Tz::Pacific__Kiritimati, "2006-11-30", "2024-11-29T10:00:00Z", true),
        (Tz::Asia__Kolkata, "2004-02-29", "2022-02-28T18:29:59Z", false),
        (Tz::Asia__Kolkata, "2004-02-29", "2022-02-28T18:30:00Z", true),
        (Tz::America__New_York, "2004-02-29", "2022-03-01T04:59:59Z", false),
        (Tz::America__New_York, "2004-02-29", "2022-03-01T05:00:00Z", true),
        (Tz::America__New_York, "2004-02-29", "2024-02-29T05:00:00Z", true),
    ] {
        let me = member(serde_json::json!({ "born": born }));
        let verdict = compiled(adult).judge(&me, &in_zone(zone), at(now));
        assert_eq!(verdict.eligible, expected, "{born} at {now} in {zone}");
    }
    for (when, zone, now) in [
        ("now.getDate() == 30 && now.getHours() == 0", Tz::Asia__Kolkata, "2024-11-29T18:30:00Z"),
        ("now.getMonth() == 11 && now.getFullYear() == 2023", Tz::America__New_York, "2024-01-01T04:59:00Z"),
        ("now.getDayOfWeek() == 0", Tz::Asia__Tokyo, "2024-11-30T15:00:00Z"),
        ("now.getHours('Asia/Kolkata') == 0 && now.getHours() == 18", Tz::UTC, "2024-11-29T18:30:00Z"),
        ("now >= '2024-11-30'", Tz::Asia__Kolkata, "2024-11-29T18:30:00Z"),
        ("now < timestamp('2024-11-30')", Tz::Asia__Kolkata, "2024-11-29T18:29:59Z"),
        ("days('2024-03-09', '2024-03-11') == 2", Tz::America__New_York, "2024-01-01T00:00:00Z"),
        ("days('2024-03-10', now) == 1", Tz::America__New_York, "2024-03-11T04:00:00Z"),
        ("days('2024-03-10', now) == 0", Tz::America__New_York, "2024-03-11T03:59:59Z"),
        ("days('2024-03-12', now) == -1", Tz::UTC, "2024-03-11T15:00:00Z"),
        // The clock of this zone skips this midnight.
        ("days('2018-11-04', '2018-11-05') == 1", Tz::America__Sao_Paulo, "2018-11-04T03:00:00Z"),
        ("years('2001-10-14', '2019-10-14') == 18", Tz::America__Sao_Paulo, "2019-11-04T03:00:00Z"),
        ("days('2018-11-04', now) == 0", Tz::America__Sao_Paulo, "2018-11-04T03:00:00Z"),
    ] {
        let verdict = compiled(when).judge(&Known::default(), &in_zone(zone), at(now));
        assert!(verdict.eligible, "{when} in {zone}: {verdict:?}");
    }
}

#[test]
fn a_rule_that_cannot_be_used_is_refused_with_its_place() {
    for (when, line, column, part) in [
        ("member.age >=", 1, 14, "ends too early"),
        ("true &&\n  member..x", 2, 10, "cannot be read"),
        ("member.age > 'x", 1, 14, "not closed"),
        ("student.age > 3", 1, 1, "there is no student"),
        ("member.age > 3 && foo", 1, 19, "there is no foo"),
        ("drive.price > 3", 1, 6, "drive has no price"),
        ("member", 1, 1, "member.something"),
        ("member['age'] > 3", 1, 1, "member.something"),
        ("matches(member.name, 'a+')", 1, 8, "no function matches"),
        ("member.name.matches('a+')", 1, 20, "no function matches"),
        ("[1, 2].all(x, x > 1)", 1, 11, "do not loop"),
        ("[1].map(x, x) == [1]", 1, 8, "do not loop"),
        ("member.a.b > 1", 1, 9, "nothing here has a field b"),
        ("", 1, 1, "needed"),
        ("   ", 1, 1, "needed"),
        ("5", 1, 1, "a number; here it must be true or false"),
        ("'x'", 1, 1, "a text"),
        ("member.age + 1", 1, 12, "a number"),
        ("1 / 0 == 1", 1, 3, "divides by 0"),
        ("member.a > 1 && 5 % (3 - 3) == 0", 1, 19, "divides by 0"),
        ("member.a / 0 > 1", 1, 10, "divides by 0"),
        ("member.a % (2 - 2.0) == 1", 1, 10, "divides by 0"),
        ("now.getMonth() == 12", 1, 16, "getMonth counts from 0 to 11"),
        ("7 <= now.getDayOfWeek() || member.a > 1", 1, 3, "getDayOfWeek counts from 0 to 6"),
        ("member.born.getDate() in [1, 32]", 1, 23, "getDate counts from 1 to 31"),
        ("size(member.a) < 0", 1, 16, "size counts from 0"),
        ("size(member.a) == 2.5", 1, 16, "size counts from 0"),
        ("false", 1, 1, "never be true"),
        ("1 > 2", 1, 3, "never be true"),
        ("member.a > 1 && 'a' == 'b'", 1, 14, "never be true"),
        (
            "member.age >= 18 && member.age == 'x'",
            1,
            27,
            "age is used as a text here, and as a number before",
        ),
        ("member.a && member.a > 3", 1, 19, "a is used as a number here"),
        ("member.age > true", 1, 12, "none of them is larger"),
        ("'a' > 1", 1, 5, "do not go together"),
        ("size(5) > 1", 1, 6, "a number; here it must be a text"),
        ("size(member.a, member.b) > 1", 1, 5, "not how size is used"),
        ("years(member.age, now) > 3 && member.age > 5", 1, 37, "age is used as a number here"),
        ("now > 'yesterday'", 1, 5, "do not go together"),
        ("timestamp('soon') > now", 1, 11, "no date"),
        ("duration('2 days') > duration('1h')", 1, 9, "duration('48h')"),
        ("now.getHours('Mars') > 1", 1, 13, "not how getHours is used"),
        ("member.a in member.b", 1, 19, "a list is needed"),
        ("member.a in []", 1, 10, "the list is empty"),
        ("member.a in ['x', 1]", 1, 7, "used as a number here"),
        ("[1, 2] == [1, 2]", 1, 1, "behind `in` only"),
        ("{'a': 1} == {'a': 1}", 1, 1, "no maps"),
        ("size(null) > 1", 1, 6, "no null"),
        ("member.a == 123456789012345678901.0", 1, 13, "15 digits"),
        ("member.born < '2008-01-01' && member.born > 5", 1, 37, "born is used as a number here"),
        ("member.a - now > 5", 1, 16, "do not go together"),
        ("'a' - 'b' == 'c'", 1, 5, "cannot be used together"),
        ("now + now > now", 1, 5, "cannot be used together"),
    ] {
        let errors = Rules::compile(&[rule(when)], 1).map(|_| ()).expect_err(when);
        let found = errors.iter().any(|error| {
            (error.line, error.column) == (Some(line), Some(column)) && error.detail.contains(part)
        });
        assert!(found, "{when}: {errors:?}");
        let words = errors.iter().map(|error| error.detail.to_lowercase()).collect::<String>();
        for word in ["syntax", "overload", "expecting", "<eof>", "extraneous", "mismatched", "cel"] {
            assert!(!words.contains(word), "{when}: {errors:?}");
        }
    }
}

#[test]
fn a_rule_that_would_explode_is_refused() {
    let deep = |open: &str, inside: &str, close: &str, times: usize| {
        format!("{}{inside}{}", open.repeat(times), close.repeat(times))
    };
    let long = "member.a > 1 && ".repeat(80);
    for when in [
        deep("(", "true", ")", 200),
        deep("[", "1", "]", 200),
        deep("true ? 1 : ", "1", "", 80),
        deep("1 + ", "1", "", 200),
        deep("size(", "'a'", ")", 150),
        deep("{1:", "1", "}", 100),
        deep("a.", "b", "", 400),
        deep("a[", "1", "]", 300),
        format!("{long}true"),
        "\u{0}\u{1}".to_owned(),
        "'".repeat(999),
        "((((((((".to_owned(),
    ] {
        assert!(Rules::compile(&[rule(&when)], 1).is_err(), "{when}");
    }
}

#[test]
fn a_rule_that_was_stored_is_judged_though_it_would_be_refused_today() {
    let judge = |when: &str| {
        let rules = Rules::compile_stored(&[rule(when)], 1);
        rules.judge(&member(serde_json::json!({ "a": 1 })), &drive(), clock::from_ms(0)).rules.remove(0)
    };
    assert!(judge("member.a == 1 || member.a == 'x'").passed);
    assert!(!judge("5").passed && !judge("1 / 0 == 1").passed && !judge("[1][0] == 1").passed);
    let unread = judge("[1][0] == 1");
    assert!(unread.name == "rule" && unread.message.contains("write it again"), "{unread:?}");
    assert!(judge("member.a != null").passed && judge("member.b == null").passed);
    assert!(!judge("member.b != null").passed && !judge("null == member.a").passed);
}

/// The item before `in` may contain lists itself. Each part is computed once.
#[test]
fn lists_of_lists_cost_no_more_than_they_are_long() {
    let nested = format!("member.a{}", " in [true, true, true, true, true, true, true]".repeat(20));
    assert!(!judge_one(&nested, serde_json::json!({ "a": false })).passed);
    let wrong = format!("member.a{}", " in [1, 1, 1, 1, 1, 1, 1, 1]".repeat(20));
    assert!(Rules::compile(&[rule(&wrong)], 1).is_err());
}

#[test]
fn a_deep_rule_that_is_allowed_is_judged_on_an_ordinary_stack() {
    let sum = format!("{}member.a > 3", "member.a + ".repeat(20));
    let verdict = judge_one(&sum, serde_json::json!({ "a": 1 }));
    assert!(verdict.passed, "{verdict:?}");
}

#[test]
fn names_are_unique_and_plain_and_messages_are_there() {
    let named = |name: &str| Rule { name: name.into(), when: "true".into(), message: "No".into() };
    assert!(Rules::compile(&[named("a"), named("a")], 1).is_err());
    assert!(Rules::compile(&[named("A b")], 1).is_err());
    assert!(Rules::compile(&[Rule { message: " ".into(), ..named("a") }], 1).is_err());
    assert!(Rules::compile(&vec![named("a"); MAX_RULES + 1], 1).is_err());
}

#[test]
fn facts_are_what_the_rules_look_at_and_no_more() {
    let rules = Rules::compile(&[rule("member.age > 3 && drive.kind == 'donation'")], 1).unwrap();
    let facts = rules.facts(&member(serde_json::json!({ "age": 4, "religion": "none" })));
    assert_eq!(facts, member(serde_json::json!({ "age": 4 })));
}

#[test]
fn an_age_is_counted_as_birthdays_are() {
    for (born, on, age) in [
        ("2004-02-29", "2022-02-28", 17),
        ("2004-02-29", "2022-03-01", 18),
        ("2004-06-15", "2022-06-14", 17),
        ("2004-06-15", "2022-06-15", 18),
        ("2022-06-15", "2004-06-15", -18),
    ] {
        let when = format!("years(member.born, member.day) == {age}");
        let verdict = judge_one(&when, serde_json::json!({ "born": born, "day": on }));
        assert!(verdict.passed, "{born} on {on}: {verdict:?}");
    }
}

/// Random expressions. Many of them have fitting types by chance.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "member\\.[abc]",
        "member\\.[abc]",
        Just("now".to_owned()),
        Just("drive.kind".to_owned()),
        Just("drive.opens_at".to_owned()),
        "[0-9]{1,3}",
        "[0-9]\\.[0-9]",
        "'[a-c]'",
        Just("'2024-02-29'".to_owned()),
        Just("true".to_owned()),
        Just("duration('5h')".to_owned()),
        "has\\(member\\.[abc]\\)",
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            (two.clone(), prop_oneof![Just("=="), Just("!="), Just("<"), Just(">="), Just(">")])
                .prop_map(|((one, other), operator)| format!("({one} {operator} {other})")),
            (two.clone(), prop_oneof![Just("+"), Just("-"), Just("*"), Just("/"), Just("%")])
                .prop_map(|((one, other), operator)| format!("({one} {operator} {other})")),
            (two.clone(), prop_oneof![Just("&&"), Just("||")])
                .prop_map(|((one, other), operator)| format!("({one} {operator} {other})")),
            (inner.clone(), two.clone()).prop_map(|(one, (two, three))| format!("({one} ? {two} : {three})")),
            (inner.clone(), two.clone())
                .prop_map(|(one, (two, three))| format!("({one} in [{two}, {three}])")),
            (two, prop_oneof![Just("years"), Just("days"), Just("contains"), Just("startsWith")])
                .prop_map(|((one, other), function)| format!("{function}({one}, {other})")),
            (
                inner.clone(),
                prop_oneof![
                    Just("!"),
                    Just("-"),
                    Just("size"),
                    Just("string"),
                    Just("int"),
                    Just("timestamp")
                ]
            )
                .prop_map(|(one, function)| format!("{function}({one})")),
            (inner, prop_oneof![Just("getHours"), Just("getFullYear"), Just("getDate")])
                .prop_map(|(one, function)| format!("{one}.{function}()")),
        ]
    })
}

fn value_of(known: typing::Type) -> BoxedStrategy<Attribute> {
    let text = |strategy: BoxedStrategy<String>| strategy.prop_map(Attribute::Text).boxed();
    match known {
        typing::Type::Bool => any::<bool>().prop_map(Attribute::Bool).boxed(),
        typing::Type::Number => (-1000_i32..1000).prop_map(|number| Attribute::Number(number.into())).boxed(),
        typing::Type::Text => text("[a-c]{0,2}|2024-01-0[1-9]".boxed()),
        typing::Type::Date => text("20[0-9][0-9]-0[1-9]-1[0-9]|2024-01-01T0[0-9]:30:00Z".boxed()),
        typing::Type::Duration => unreachable!("no attribute is a duration"),
    }
}

#[test]
fn what_a_member_says_never_satisfies_a_member_rule() {
    let declared = serde_json::from_value(serde_json::json!({ "age": 19, "city": "Pune" })).unwrap();
    let says = Known { declared, ..Known::default() };
    let judge = |when: &str, person: &Known| {
        compiled(when).judge(person, &drive(), clock::from_ms(0)).rules.remove(0)
    };
    let needs = judge("member.age >= 18", &says);
    assert!(!needs.passed && needs.sources.is_empty(), "{needs:?}");
    assert_eq!((needs.missing, &needs.compared["age"]), (vec!["age".to_owned()], &Json::Null));
    assert_eq!(needs.declared["age"], 19, "the verdict says what the member says");
    assert!(!judge("has(member.age)", &says).passed);

    let asks = judge("declared.age >= 18 && declared.city == 'Pune'", &says);
    assert!(asks.passed && asks.missing.is_empty(), "{asks:?}");
    assert_eq!(
        (&asks.compared["declared.age"], &asks.compared["declared.city"]),
        (&19.into(), &"Pune".into())
    );
    let said = member(serde_json::json!({ "age": 17 }));
    assert_eq!(judge("declared.age >= 18", &said).missing, ["declared.age"]);
    assert!(judge("has(declared.age) || member.age == 17", &said).passed);
    // They are two attributes, also for the types.
    assert!(Rules::compile(&[rule("member.a > 1 && declared.a == 'x'")], 1).is_ok());
    assert!(Rules::compile(&[rule("declared.a > 1 && declared.a == 'x'")], 1).is_err());
}

#[test]
fn a_verdict_names_the_source_of_what_it_compared() {
    let (imported, edited) = (clock::from_ms(1_000), clock::from_ms(2_000));
    let mut person = member(serde_json::json!({ "age": 17, "marks": 60, "unread": 1 }));
    person.verified.get_mut("age").unwrap().at = imported;
    person.verified.insert("fit".into(), Verified { value: None, source: Source::Organiser, at: edited });
    person.declared.insert("age".into(), Attribute::Number(30.into()));
    let verdict = compiled("member.age >= 18 && member.fit && declared.age > 1")
        .judge(&person, &drive(), clock::from_ms(0))
        .rules
        .remove(0);
    let origins = [
        ("age".to_owned(), Origin { source: Source::Import, at: imported }),
        ("fit".to_owned(), Origin { source: Source::Organiser, at: edited }),
    ];
    assert_eq!(verdict.sources, origins.into());
    assert_eq!(
        (verdict.missing, verdict.declared.is_empty()),
        (Vec::<String>::new(), true),
        "17 decides alone"
    );
    let facts = compiled("member.age >= 18 && member.fit").facts(&person);
    assert_eq!(facts.verified.keys().collect::<Vec<_>>(), ["age", "fit"], "an absent value is a fact, too");
    assert!(facts.declared.is_empty());
}

/// An accepted rule, and attributes of the types that it expects.
fn rule_and_member() -> impl Strategy<Value = (String, Known)> {
    let accepted = |when: String| {
        let when = format!("({when}) == ({when}) && has(member.a) || {when}");
        Expression::compile(&when).is_ok().then_some(when)
    };
    expression().prop_filter_map("it is accepted", accepted).prop_flat_map(|when| {
        let parsed = parse::parse(&when).unwrap();
        // Attributes whose types do not matter are texts here.
        let values = typing::expected(&when, &parsed.root).into_iter().map(|(name, known)| {
            value_of(known.unwrap_or(typing::Type::Text)).prop_map(move |value| (name.clone(), value))
        });
        let values: Vec<_> = values.collect();
        values.prop_map(move |values| {
            let all = values.into_iter().collect();
            (when.clone(), Known::imported(all, clock::from_ms(0)))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_compiles_or_is_refused(when in "[ -~\\n]{0,60}") {
        let _ = Rules::compile(&[rule(&when)], 1);
    }

    #[test]
    fn pieces_of_expressions_compile_or_are_refused(
        pieces in proptest::collection::vec(prop_oneof![
            Just("member.a"), Just("drive.kind"), Just("now"), Just("("), Just(")"), Just("["), Just("]"), Just("&&"),
            Just("||"), Just("!"), Just("-"), Just("1"), Just("'x'"), Just("?"), Just(":"), Just("."), Just("in"),
            Just("has(member.a)"), Just("declared.a"), Just("size"), Just(","), Just("=="), Just("{"), Just("}"),
        ], 0..24),
        value in prop_oneof![Just(serde_json::json!(1)), Just(serde_json::json!("x")), Just(serde_json::json!(true))],
    ) {
        let when = pieces.join(" ");
        if let Ok(rules) = Rules::compile(&[rule(&when)], 1) {
            let me = member(serde_json::json!({ "a": value }));
            let now = clock::from_ms(0);
            // The same input gives the same verdict, and a verdict is never an error.
            prop_assert_eq!(rules.judge(&me, &drive(), now), rules.judge(&me, &drive(), now));
        }
    }

    /// An accepted rule gives a verdict on any member whose attributes have the types that it
    /// expects. It fails, and says so, for example if it divides by zero or leaves the calendar.
    #[test]
    fn an_accepted_rule_can_judge_everybody_it_expects(
        (when, me) in rule_and_member(),
        zone in 0..chrono_tz::TZ_VARIANTS.len(),
    ) {
        let drive = in_zone(chrono_tz::TZ_VARIANTS[zone]);
        let mut verdict = compiled(&when).judge(&me, &drive, at("2024-02-29T12:00:00Z"));
        let RuleVerdict { detail, missing, .. } = verdict.rules.remove(0);
        let detail = detail.unwrap_or_default();
        let is_allowed = ["", "divides by", "leaves the calendar", "too large a number", "is no number", "is no date"];
        prop_assert!(is_allowed.iter().any(|part| detail.contains(part) && part.is_empty() == detail.is_empty()), "{when}: {detail}");
        prop_assert!(missing.iter().all(|name| me.member(name).is_none() && name != "drive.kind"), "{:?}", missing);
    }

    #[test]
    fn a_minimum_admits_exactly_those_who_reach_it(marks in 0.0..100.0_f64, minimum in 0..100_u32) {
        let rules = Rules::compile(&[rule(&format!("member.marks >= {minimum}"))], 1).unwrap();
        let verdict = rules.judge(&member(serde_json::json!({ "marks": marks })), &drive(), clock::from_ms(0));
        prop_assert_eq!(verdict.eligible, marks >= f64::from(minimum));
    }
}
