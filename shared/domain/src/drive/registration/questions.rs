//! Questions to members who register, and their answers.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;

use crate::attribute::{Attribute, Attributes, MAX_ATTRIBUTE_NAME, is_attribute_name};
use crate::member::MAX_TEXT;
use crate::refusal::FieldError;
use crate::text;

/// The most questions of one drive.
pub const MAX_QUESTIONS: usize = 32;
/// The most choices of one question.
pub const MAX_CHOICES: usize = 50;
/// How much of a client's unknown name an error repeats, in bytes.
const MAX_SHOWN: usize = 100;

/// Answers by the name of the question: a flat object. Null in a request means no answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(with = "BTreeMap<String, Option<Attribute>>")]
pub struct Answers(Attributes);

impl Answers {
    /// The answer to the question `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Attribute> {
        self.0.get(name)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, by the questions' names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Attribute)> {
        self.0.iter()
    }
}

impl FromIterator<(String, Attribute)> for Answers {
    fn from_iter<I: IntoIterator<Item = (String, Attribute)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl<'de> Deserialize<'de> for Answers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = BTreeMap::<String, Json>::deserialize(deserializer)?;
        let read = |(name, value)| match value {
            Json::Null => None,
            Json::Bool(flag) => Some(Ok((name, Attribute::Bool(flag)))),
            Json::Number(number) => Some(Ok((name, Attribute::Number(number)))),
            Json::String(text) => Some(Ok((name, Attribute::Text(text)))),
            Json::Array(_) | Json::Object(_) => {
                let name = text::shortened(name, MAX_SHOWN);
                let fault = format!("the answer {name:?} must be a text, a number, true, false or null");
                Some(Err(D::Error::custom(fault)))
            }
        };
        given.into_iter().filter_map(read).collect()
    }
}

/// What kind of answer a question wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// Any text.
    Text,
    /// A number.
    Number,
    /// Yes or no.
    Boolean,
    /// One of the question's choices.
    Choice,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// Unique in its drive: `shirt_size`.
    #[schemars(length(min = 1, max = MAX_ATTRIBUTE_NAME))]
    pub name: String,
    /// What is asked, on one line.
    #[schemars(length(min = 1, max = MAX_TEXT))]
    pub text: String,
    /// What kind of answer it wants.
    pub kind: AnswerKind,
    /// Whether it must be answered.
    #[serde(default)]
    pub required: bool,
    /// For `choice`: the choices. Any two must differ in more than case, accents and white space.
    #[schemars(length(max = MAX_CHOICES), inner(length(min = 1, max = MAX_TEXT)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
}

/// What is wrong with a drive's questions.
#[must_use]
pub fn faults(questions: &[Question]) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if questions.len() > MAX_QUESTIONS {
        faults.push(FieldError::new("questions", format!("a drive has at most {MAX_QUESTIONS} questions")));
    }
    for (index, question) in questions.iter().take(MAX_QUESTIONS).enumerate() {
        let mut fault = |field: &str, detail: &str| {
            faults.push(FieldError::new(format!("questions[{index}].{field}"), detail));
        };
        if !is_attribute_name(&question.name) {
            fault("name", "a question's name is a–z, 0–9 and _");
        }
        if questions[..index].iter().any(|other| other.name == question.name) {
            fault("name", "another question has the same name");
        }
        if let Some(detail) = text::line_fault(&question.text, MAX_TEXT) {
            fault("text", &detail);
        }
        let choices = question.choices.len();
        match question.kind {
            AnswerKind::Choice if !(2..=MAX_CHOICES).contains(&choices) => {
                fault("choices", &format!("a question of kind choice has 2 to {MAX_CHOICES} choices"));
            }
            AnswerKind::Choice => {
                for (at, detail) in choice_faults(&question.choices) {
                    fault(&format!("choices[{at}]"), &detail);
                }
            }
            AnswerKind::Text | AnswerKind::Number | AnswerKind::Boolean if choices > 0 => {
                fault("choices", "only a question of kind choice has choices");
            }
            _ => {}
        }
    }
    faults
}

/// What is wrong with the choices of a question, by their places. Readers must be able to tell any
/// two apart.
fn choice_faults(choices: &[String]) -> Vec<(usize, String)> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for (at, choice) in choices.iter().enumerate() {
        if let Some(fault) = text::line_fault(choice, MAX_TEXT) {
            faults.push((at, fault));
        } else if !seen.insert(text::folded(choice)) {
            faults.push((at, "another choice of this question reads the same".to_owned()));
        }
    }
    faults
}

/// The answers in the form in which they are stored. A blank text is no answer, and a choice gets
/// the question's spelling. Answers that fit no question stay as they are. [`check`] refuses them.
#[must_use]
pub fn kept(questions: &[Question], answers: &Answers) -> Answers {
    let keep = |(name, answer): (&String, &Attribute)| {
        let question = questions.iter().find(|question| question.name == *name);
        let answer = match (question, answer) {
            (Some(_), Attribute::Text(text)) if text::is_blank(text) => return None,
            (Some(question), Attribute::Text(text)) if question.kind == AnswerKind::Choice => {
                Attribute::Text(choice(question, text).unwrap_or(text).clone())
            }
            _ => answer.clone(),
        };
        Some((name.clone(), answer))
    };
    answers.iter().filter_map(keep).collect()
}

/// The choice that a text means. White space at the ends and the composition of letters (NFC) do
/// not matter.
fn choice<'a>(question: &'a Question, text: &str) -> Option<&'a String> {
    let normal = |text: &str| text::composed(text.trim());
    let same = question.choices.iter().find(|choice| *choice == text);
    same.or_else(|| question.choices.iter().find(|choice| normal(choice) == normal(text)))
}

/// What is wrong with the answers to these questions. The answers must have the form of [`kept`].
#[must_use]
pub fn check(questions: &[Question], answers: &Answers) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let mut fault = |name: &str, detail: String| {
        let name = text::shortened(name.to_owned(), MAX_SHOWN);
        faults.push(FieldError::new(format!("answers.{name}"), detail));
    };
    for question in questions {
        match answers.get(&question.name) {
            None if question.required => fault(&question.name, "this question needs an answer".to_owned()),
            None => {}
            Some(answer) => {
                if let Some(detail) = answer_fault(question, answer) {
                    fault(&question.name, detail);
                }
            }
        }
    }
    let is_asked = |name: &str| questions.iter().any(|question| question.name == name);
    for (name, _) in answers.iter().filter(|(name, _)| !is_asked(name)).take(MAX_QUESTIONS) {
        fault(name, "the drive does not ask this".to_owned());
    }
    faults
}

fn answer_fault(question: &Question, answer: &Attribute) -> Option<String> {
    let wanted = match (question.kind, answer) {
        (AnswerKind::Text, Attribute::Text(text)) => return text::lines_fault(text, MAX_TEXT),
        (AnswerKind::Choice, Attribute::Text(text)) if question.choices.contains(text) => return None,
        (AnswerKind::Number, Attribute::Number(_)) | (AnswerKind::Boolean, Attribute::Bool(_)) => {
            return None;
        }
        (AnswerKind::Text, _) => "the answer must be a text",
        (AnswerKind::Number, _) => "the answer must be a number",
        (AnswerKind::Boolean, _) => "the answer must be true or false",
        (AnswerKind::Choice, _) => "the answer must be one of the choices",
    };
    Some(wanted.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> Question {
        Question {
            name: "size".into(),
            text: "Which shirt?".into(),
            kind: AnswerKind::Choice,
            required: true,
            choices: vec!["S".into(), "M".into()],
        }
    }

    fn answers(pairs: &[(&str, Attribute)]) -> Answers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn answers_must_fit_the_questions() {
        let questions = [size()];
        let fields = |answers: &Answers| {
            let kept = kept(&questions, answers);
            check(&questions, &kept).into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        let text = |text: &str| Attribute::Text(text.to_owned());
        assert!(fields(&answers(&[("size", text("M"))])).is_empty());
        assert_eq!(fields(&answers(&[])), ["answers.size"]);
        for blank in ["", " ", "\n", "\u{200b}", "\u{3164}\u{a0}"] {
            assert_eq!(fields(&answers(&[("size", text(blank))])), ["answers.size"], "{blank:?}");
        }
        assert_eq!(fields(&answers(&[("size", text("XL"))])), ["answers.size"]);
        assert_eq!(fields(&answers(&[("size", Attribute::Bool(true))])), ["answers.size"]);
        let unknown = answers(&[("size", text("S")), ("age", Attribute::Number(3.into()))]);
        assert_eq!(fields(&unknown), ["answers.age"]);
        let many: Answers = (0..9_999).map(|n| (format!("{n}{}", "x".repeat(999)), text("x"))).collect();
        let faults = fields(&many);
        assert!(faults.len() <= 2 * MAX_QUESTIONS && faults.iter().all(|field| field.len() < 200));
    }

    #[test]
    fn a_text_question_takes_several_lines_and_no_control_characters() {
        let question = Question { kind: AnswerKind::Text, choices: Vec::new(), ..size() };
        let fault = |text: &str| answer_fault(&question, &Attribute::Text(text.to_owned()));
        assert_eq!(fault("Nuts.\nAnd milk."), None);
        assert!(fault("Nuts\0").is_some() && fault(&"x".repeat(MAX_TEXT + 1)).is_some());
    }

    #[test]
    fn a_choice_is_kept_as_the_question_spells_it_and_a_blank_is_no_answer() {
        let coffee = Question { choices: vec!["Caf\u{e9}".into(), "Tea".into()], ..size() };
        let note = Question {
            name: "note".into(),
            kind: AnswerKind::Text,
            required: false,
            choices: vec![],
            ..size()
        };
        let questions = [coffee, note];
        let given = answers(&[
            ("size", Attribute::Text(" Cafe\u{301}\n".into())),
            ("note", Attribute::Text("\u{200b}".into())),
        ]);
        let kept = kept(&questions, &given);
        assert_eq!(kept, answers(&[("size", Attribute::Text("Caf\u{e9}".into()))]));
        assert_eq!(check(&questions, &kept), []);
    }

    #[test]
    fn null_is_no_answer_and_lists_are_refused() {
        let read = serde_json::from_str::<Answers>;
        let found = read(r#"{"a":null,"b":"x","c":1.50,"d":false}"#).unwrap();
        assert_eq!(serde_json::to_string(&found).unwrap(), r#"{"b":"x","c":1.5,"d":false}"#);
        let refused = read(r#"{"a":["x"]}"#).unwrap_err().to_string();
        assert!(refused.contains("\"a\" must be a text, a number"), "{refused}");
    }

    #[test]
    fn questions_must_make_sense() {
        let broken = Question { name: "Size".into(), text: " ".into(), choices: vec!["S".into()], ..size() };
        let fields = |questions: &[Question]| {
            faults(questions).into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        assert_eq!(
            fields(&[broken, size(), size()]),
            ["questions[0].name", "questions[0].text", "questions[0].choices", "questions[2].name"]
        );
        let choices = ["Yes", "No", " yes ", "NO", "\u{200b}", "Y\nes", "Ye\u{301}s", "N\u{200b}o", "Maybe"];
        let choices = choices.map(ToOwned::to_owned).to_vec();
        let same: Vec<_> =
            [2, 3, 4, 5, 6, 7].iter().map(|at| format!("questions[0].choices[{at}]")).collect();
        assert_eq!(fields(&[Question { choices, ..size() }]), same);
        assert_eq!(fields(&[Question { text: "Which\nshirt?".into(), ..size() }]), ["questions[0].text"]);
    }
}
