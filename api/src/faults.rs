//! Finds the faults of input that does not have its documented form. Each fault has a place and a
//! sentence.
//!
//! A body is compared with its schema in the OpenAPI document. So an unknown field is refused here
//! and nowhere else, and a client gets all faults at once.

mod form;
mod parameters;

use domain::clock::Timestamp;
use domain::drive::digest::{self, TimeOfDay};
use domain::drive::when::{self, When};
use domain::refusal::{Code, FieldError, Refusal};
use domain::text::shortened;
use schemars::JsonSchema;
use serde_json::{Map, Value};
use uuid::Uuid;

use self::form::{Field, Form, Shape};
pub(crate) use self::parameters::{of_parameter, path_parameter};
use crate::problem::Problem;

/// The most faults in one answer.
pub(crate) const MOST: usize = 20;
/// The longest value or name that an answer repeats, in bytes.
const SHOWN: usize = 60;

/// Refuses a body that does not have the form of a `T`, with all its faults.
///
/// A limit alone refuses nothing here. The decision checks limits, together with rules about more
/// than one field.
pub(crate) fn check<T: JsonSchema + 'static>(body: &Value) -> Result<(), Problem> {
    let mut walk = Walk::default();
    walk.value(form::of::<T>(), body, &Place::default());
    let worst = walk.faults.iter().map(|(weight, _)| *weight).max();
    let faults = walk.faults.into_iter().map(|(_, fault)| fault);
    match worst {
        None | Some(Weight::Limit) => Ok(()),
        Some(Weight::Instant) => Err(Refusal::new(Code::InvalidDrive).with_errors(faults.collect()).into()),
        Some(Weight::Form) => Err(misfit(faults.collect())),
    }
}

/// The faults of a value, compared with a schema of a document.
#[cfg(test)]
pub(crate) fn against(schema: &Value, all: &Map<String, Value>, value: &Value) -> Vec<FieldError> {
    let mut walk = Walk::default();
    walk.value(&form::read(schema, all), value, &Place::default());
    walk.faults.into_iter().map(|(_, fault)| fault).collect()
}

/// The problem of a body with these faults; the first of them is the detail.
pub(crate) fn misfit(faults: Vec<FieldError>) -> Problem {
    let first = faults.first().map(|fault| match fault.field.as_str() {
        "" => fault.detail.clone(),
        field => format!("{field}: {}", fault.detail),
    });
    Problem::invalid_body().detail(first.unwrap_or_default()).errors(faults)
}

/// The kind of a fault. The worst fault of a body decides its problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// A value is too long or too large, or there are too many.
    Limit,
    /// A drive's instant or time of the day cannot be read.
    Instant,
    /// A value differs from the schema.
    Form,
}

/// A place in a body, as people write it: `slots[0].name`.
#[derive(Debug, Clone, Copy, Default)]
struct Place<'a> {
    within: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Step<'a> {
    #[default]
    Whole,
    Field(&'a str),
    Item(usize),
}

impl Place<'_> {
    fn field<'a>(&'a self, name: &'a str) -> Place<'a> {
        Place { within: Some(self), step: Step::Field(name) }
    }

    fn item(&self, index: usize) -> Place<'_> {
        Place { within: Some(self), step: Step::Item(index) }
    }

    fn shown(&self) -> String {
        let mut shown = self.within.map(Place::shown).unwrap_or_default();
        match self.step {
            Step::Whole => {}
            Step::Field(name) => {
                if !shown.is_empty() {
                    shown.push('.');
                }
                shown.push_str(&shortened(name.to_owned(), SHOWN));
            }
            Step::Item(index) => return format!("{shown}[{index}]"),
        }
        shown
    }
}

/// Compares a body with its form.
#[derive(Default)]
struct Walk {
    faults: Vec<(Weight, FieldError)>,
    /// Only compares: no fault gets a text.
    only_compares: bool,
    /// While it only compares: whether the value differs from the form, limits aside.
    differs: bool,
}

impl Walk {
    /// Notes a fault. The text is made only if the answer shows it. A value that may have several
    /// forms is compared with each, and those faults are not shown.
    fn fault(&mut self, weight: Weight, place: &Place<'_>, detail: impl FnOnce() -> String) {
        if self.only_compares {
            self.differs |= weight != Weight::Limit;
            return;
        }
        if self.faults.len() == MOST {
            // The worst fault decides the problem, so it is never left out for lighter ones.
            let lighter = self.faults.iter().rposition(|(other, _)| *other < weight);
            let Some(lighter) = lighter else { return };
            self.faults.remove(lighter);
        }
        self.faults.push((weight, FieldError::new(place.shown(), detail())));
    }

    fn value(&mut self, form: &Form, value: &Value, place: &Place<'_>) {
        match (&form.shape, value) {
            (_, Value::Null) if form.may_be_null => {}
            (Shape::Anything, _) | (Shape::Number, Value::Number(_)) | (Shape::Truth, Value::Bool(_)) => {}
            (Shape::Object { fields, others }, Value::Object(found)) => {
                self.object(fields, others.as_deref(), found, place);
            }
            (Shape::List { items, most }, Value::Array(found)) => {
                if found.len() as u64 > *most {
                    self.fault(Weight::Limit, place, || format!("it has more than {most} items"));
                }
                for (index, item) in found.iter().enumerate() {
                    self.value(items, item, &place.item(index));
                }
            }
            (Shape::Text { format, words, least, most }, Value::String(text)) => {
                if !words.is_empty() && !words.contains(text) {
                    self.misfit(form, value, place);
                } else if let Err((weight, detail)) =
                    format.as_deref().map_or(Ok(()), |format| parsed(format, text))
                {
                    match detail {
                        Some(detail) => self.fault(weight, place, || detail),
                        None => self.misfit(form, value, place),
                    }
                } else if !has_length(text, *least, *most) {
                    self.fault(Weight::Limit, place, || format!("it has {least} to {most} characters"));
                }
            }
            (Shape::Whole { holds, allowed }, Value::Number(number)) => {
                let number = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
                match number {
                    Some(number) if !(holds.0..=holds.1).contains(&number) => self.misfit(form, value, place),
                    Some(number) if !(allowed.0..=allowed.1).contains(&number) => {
                        self.fault(Weight::Limit, place, || {
                            format!("it is from {} to {}", allowed.0, allowed.1)
                        });
                    }
                    Some(_) => {}
                    None => self.misfit(form, value, place),
                }
            }
            (Shape::OneOf(forms), value) if forms.iter().any(|form| fits(form, value)) => {}
            _ => self.misfit(form, value, place),
        }
    }

    fn misfit(&mut self, form: &Form, value: &Value, place: &Place<'_>) {
        self.fault(Weight::Form, place, || format!("{} is needed here, not {}", needed(form), found(value)));
    }

    fn object(
        &mut self,
        fields: &[Field],
        others: Option<&Form>,
        found: &Map<String, Value>,
        place: &Place<'_>,
    ) {
        for (name, value) in found {
            let field = fields.iter().find(|field| field.name == *name);
            match (field.map(|field| &field.form).or(others), fields) {
                (Some(form), _) => self.value(form, value, &place.field(name)),
                (None, []) => self.fault(Weight::Form, &place.field(name), || {
                    "there is no such field; nothing is needed here".to_owned()
                }),
                (None, _) => self.fault(Weight::Form, &place.field(name), || {
                    let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
                    format!("there is no such field; there are {}", names.join(", "))
                }),
            }
        }
        for field in fields.iter().filter(|field| field.is_needed && !found.contains_key(&field.name)) {
            self.fault(Weight::Form, &place.field(&field.name), || "this field is needed".to_owned());
        }
    }
}

/// Whether a value has a form, limits aside.
fn fits(form: &Form, value: &Value) -> bool {
    let mut walk = Walk { only_compares: true, ..Walk::default() };
    walk.value(form, value, &Place::default());
    !walk.differs
}

/// Whether a text has the form that its format names. An error may bring its own text.
fn parsed(format: &str, text: &str) -> Result<(), (Weight, Option<String>)> {
    let drive = |detail: String| (Weight::Instant, Some(detail));
    match format {
        "uuid" => text.parse::<Uuid>().map(drop).map_err(|_| (Weight::Form, None)),
        "date-time" => text.parse::<Timestamp>().map(drop).map_err(|_| (Weight::Form, None)),
        when::FORMAT => text.parse::<When>().map(drop).map_err(drive),
        digest::FORMAT_NAME => text.parse::<TimeOfDay>().map(drop).map_err(drive),
        _ => Ok(()),
    }
}

/// Whether a text has this many characters.
fn has_length(text: &str, least: u64, most: u64) -> bool {
    let is_free = most == u64::MAX && least == 0;
    is_free || (least..=most).contains(&(text.chars().count() as u64))
}

/// The kind of value that a form needs, with an article.
fn needed(form: &Form) -> String {
    match &form.shape {
        Shape::Text { words, .. } if !words.is_empty() => format!("one of {}", words.join(", ")),
        Shape::Text { format, .. } => match format.as_deref() {
            Some("uuid") => "an id such as 019ab000-0000-7000-8000-00000000d001".to_owned(),
            Some("date-time") => "an instant such as 2026-12-01T09:00:00Z".to_owned(),
            _ => "a text".to_owned(),
        },
        Shape::Whole { holds: (least, most), .. } => format!("a whole number from {least} to {most}"),
        Shape::Number => "a number".to_owned(),
        Shape::Truth => "true or false".to_owned(),
        Shape::List { .. } => "a list".to_owned(),
        Shape::Object { .. } | Shape::Anything => "an object".to_owned(),
        Shape::OneOf(forms) => {
            let all: Vec<_> = forms.iter().map(needed).collect();
            all.split_last().map_or_else(String::new, |(last, rest)| match rest {
                [] => last.clone(),
                rest => format!("{}, or {last}", rest.join(", ")),
            })
        }
    }
}

/// A value, for an answer.
fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => shortened(number.to_string(), SHOWN),
        Value::String(text) => format!("the text {:?}", shortened(text.clone(), SHOWN)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::attribute::Attribute;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    domain::words! {
        /// A colour.
        pub enum ColourForTest {
            /// Like blood.
            Red = "red",
            /// Like grass.
            Green = "green",
        }
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    struct PartForTest {
        #[schemars(length(max = 3))]
        #[allow(dead_code)]
        name: String,
        #[allow(dead_code)]
        colour: Option<ColourForTest>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[allow(dead_code)]
    struct WholeForTest {
        title: String,
        /// A reference with a description.
        first: Option<PartForTest>,
        #[serde(default)]
        parts: Vec<PartForTest>,
        #[schemars(range(max = 10))]
        count: Option<u32>,
        id: Option<Uuid>,
        since: Option<Timestamp>,
        starts_at: Option<When>,
        on: Option<bool>,
        #[serde(default)]
        attributes: BTreeMap<String, Option<Attribute>>,
    }

    fn told(body: &Value) -> Vec<(String, String)> {
        let Err(problem) = check::<WholeForTest>(body) else { return Vec::new() };
        problem.body.errors.into_iter().map(|fault| (fault.field, fault.detail)).collect()
    }

    #[test]
    fn each_fault_of_a_body_has_its_place_and_says_what_is_needed() {
        let body = json!({
            "first": { "name": 7, "colour": "blue", "size": 1 },
            "parts": [{ "name": "a" }, [], { "name": "b", "colour": null }, {}, { "name": "long" }],
            "count": -1, "id": "x", "since": "tomorrow", "starts_at": "soon", "on": "yes", "Title": "t",
        });
        let told = told(&body);
        let told: Vec<_> = told.iter().map(|(field, detail)| (field.as_str(), detail.as_str())).collect();
        for (field, detail) in [
            ("Title", "there is no such field; there are "),
            ("title", "this field is needed"),
            ("first.name", "a text is needed here, not 7"),
            ("first.colour", "one of red, green is needed here, not the text \"blue\""),
            ("first.size", "there is no such field; there are "),
            ("parts[1]", "an object is needed here, not a list"),
            ("parts[3].name", "this field is needed"),
            ("parts[4].name", "it has 0 to 3 characters"),
            ("count", "a whole number from 0 to 4294967295 is needed here, not -1"),
            ("id", "an id such as"),
            ("since", "an instant such as"),
            ("starts_at", "\"soon\" is neither"),
            ("on", "true or false is needed here, not the text \"yes\""),
        ] {
            assert!(
                told.iter().any(|(at, said)| *at == field && said.starts_with(detail)),
                "{field}: {told:#?}"
            );
        }
        assert_eq!(told.len(), 13, "{told:#?}");
    }

    #[test]
    fn values_of_open_names_are_told_one_by_one() {
        let found =
            told(&json!({ "title": "t", "attributes": { "a": true, "b/c": [1], "d": null, "e~": {} } }));
        let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["attributes.b/c", "attributes.e~"], "{found:?}");
        assert_eq!(found[0].1, "true or false, a number, or a text is needed here, not a list");
        assert_eq!(told(&json!({ "title": 7 })).len(), 1, "a number is no text");
        assert_eq!(told(&json!({ "title": "t", "count": null, "on": true })), []);
        let found = told(&json!({ "title": "t", "attributes": [1] }));
        assert_eq!(found, [("attributes".to_owned(), "an object is needed here, not a list".to_owned())]);
        assert_eq!(told(&json!([])), [(String::new(), "an object is needed here, not a list".to_owned())]);
    }

    #[test]
    fn the_worst_fault_decides_the_problem() {
        let code = |body: Value| check::<WholeForTest>(&body).err().map(|problem| problem.body.code);
        assert_eq!(
            code(json!({ "title": "t", "count": 11 })),
            None,
            "limits are checked where it is decided"
        );
        let instant = json!({ "title": "t", "count": 11, "starts_at": "soon" });
        assert_eq!(code(instant.clone()).as_deref(), Some("invalid-drive"));
        assert_eq!(told(&instant).len(), 2, "and the limit is told beside it");
        assert_eq!(code(json!({ "starts_at": "soon" })).as_deref(), Some("invalid-body"));
    }
}
