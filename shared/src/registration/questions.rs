//! Questions to those who register, and their answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::member::{Attribute, Attributes, MAX_TEXT, is_attribute_name};
use crate::refusal::FieldError;

/// The most questions of one drive.
pub const MAX_QUESTIONS: usize = 32;
/// The most choices of one question.
pub const MAX_CHOICES: usize = 50;

/// Answers by the question's name: a flat object, like attributes.
pub type Answers = Attributes;

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
    pub name: String,
    /// What is asked.
    pub text: String,
    /// What kind of answer it wants.
    pub kind: AnswerKind,
    /// Whether it must be answered.
    #[serde(default)]
    pub required: bool,
    /// For [`AnswerKind::Choice`]: what can be chosen.
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
        if question.text.trim().is_empty() || question.text.len() > MAX_TEXT {
            fault("text", "a question has a text, and not a long one");
        }
        let choices = question.choices.len();
        match question.kind {
            AnswerKind::Choice if !(2..=MAX_CHOICES).contains(&choices) => {
                fault("choices", "a choice has 2 to 50 choices");
            }
            AnswerKind::Choice
                if question.choices.iter().any(|choice| choice.is_empty() || choice.len() > MAX_TEXT) =>
            {
                fault("choices", "a choice has a text, and not a long one");
            }
            AnswerKind::Text | AnswerKind::Number | AnswerKind::Boolean if choices > 0 => {
                fault("choices", "only a question of kind choice has choices");
            }
            _ => {}
        }
    }
    faults
}

/// What is wrong with the answers to these questions.
#[must_use]
pub fn check(questions: &[Question], answers: &Answers) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let mut fault =
        |name: &str, detail: &str| faults.push(FieldError::new(format!("answers.{name}"), detail));
    for question in questions {
        match answers.get(&question.name) {
            None if question.required => fault(&question.name, "this must be answered"),
            Some(answer) if !fits(question, answer) => fault(&question.name, wanted(question.kind)),
            _ => {}
        }
    }
    for (name, _) in answers.iter() {
        if !questions.iter().any(|question| question.name == *name) {
            fault(name, "the drive does not ask this");
        }
    }
    faults
}

fn fits(question: &Question, answer: &Attribute) -> bool {
    match (question.kind, answer) {
        (AnswerKind::Text, Attribute::Text(text)) => text.len() <= MAX_TEXT,
        (AnswerKind::Choice, Attribute::Text(text)) => question.choices.contains(text),
        (AnswerKind::Number, Attribute::Number(_)) | (AnswerKind::Boolean, Attribute::Bool(_)) => true,
        _ => false,
    }
}

fn wanted(kind: AnswerKind) -> &'static str {
    match kind {
        AnswerKind::Text => "the answer is a text, and not a long one",
        AnswerKind::Number => "the answer is a number",
        AnswerKind::Boolean => "the answer is true or false",
        AnswerKind::Choice => "the answer is one of the choices",
    }
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
            check(&questions, answers).into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        assert!(fields(&answers(&[("size", Attribute::Text("M".into()))])).is_empty());
        assert_eq!(fields(&answers(&[])), ["answers.size"]);
        assert_eq!(fields(&answers(&[("size", Attribute::Text("XL".into()))])), ["answers.size"]);
        assert_eq!(fields(&answers(&[("size", Attribute::Bool(true))])), ["answers.size"]);
        let unknown = answers(&[("size", Attribute::Text("S".into())), ("age", Attribute::Number(3.into()))]);
        assert_eq!(fields(&unknown), ["answers.age"]);
    }

    #[test]
    fn questions_must_make_sense() {
        let broken = Question { name: "Size".into(), text: " ".into(), choices: vec!["S".into()], ..size() };
        let fields: Vec<_> = faults(&[broken, size(), size()]).into_iter().map(|fault| fault.field).collect();
        assert_eq!(
            fields,
            ["questions[0].name", "questions[0].text", "questions[0].choices", "questions[2].name"]
        );
    }
}
