use proptest::prelude::*;

use super::*;
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
    }
}

fn member(json: serde_json::Value) -> Attributes {
    serde_json::from_value(json).unwrap()
}

fn judge_one(when: &str, attributes: serde_json::Value) -> RuleVerdict {
    let rules = Rules::compile(&[rule(when)], 3).unwrap_or_else(|errors| panic!("{when}: {errors:?}"));
    rules.judge(&member(attributes), &drive(), clock::from_ms(1_700_000_000_000)).rules.remove(0)
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
fn what_cannot_be_compared_fails_and_says_why() {
    for (when, me) in [
        ("member.age >= 18", serde_json::json!({ "age": "seventeen" })),
        ("member.age / 0 > 1", serde_json::json!({ "age": 1 })),
        ("member.age", serde_json::json!({ "age": 1 })),
        ("member.born < 3", serde_json::json!({ "born": "2001-01-01" })),
        ("member.name + 1 == 'a'", serde_json::json!({ "name": "a" })),
        ("years(member.age, now) > 3", serde_json::json!({ "age": 1 })),
    ] {
        let verdict = judge_one(when, me);
        // A decimal divided by zero is infinite in CEL, and compares.
        let divides = when.contains("/ 0");
        assert_eq!(verdict.passed, divides, "{when}");
        assert_eq!(verdict.detail.is_some(), !divides, "{when}: {verdict:?}");
    }
}

#[test]
fn a_rule_that_cannot_be_used_is_refused_with_its_place() {
    for (when, line, column, part) in [
        ("member.age >=", 1, 14, "Syntax"),
        ("true &&\n  member..x", 2, 10, "Syntax"),
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
    ] {
        let errors = Rules::compile(&[rule(when)], 1).map(|_| ()).expect_err(when);
        let found = errors.iter().any(|error| {
            (error.line, error.column) == (Some(line), Some(column)) && error.detail.contains(part)
        });
        assert!(found, "{when}: {errors:?}");
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
    assert_eq!(facts.to_text(), r#"{"age":4}"#);
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
            Just("has(member.a)"), Just("size"), Just(","), Just("=="), Just("{"), Just("}"),
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

    #[test]
    fn a_minimum_admits_exactly_those_who_reach_it(marks in 0.0..100.0_f64, minimum in 0..100_u32) {
        let rules = Rules::compile(&[rule(&format!("member.marks >= {minimum}"))], 1).unwrap();
        let verdict = rules.judge(&member(serde_json::json!({ "marks": marks })), &drive(), clock::from_ms(0));
        prop_assert_eq!(verdict.eligible, marks >= f64::from(minimum));
    }
}
