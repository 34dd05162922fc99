//! The expressions of rules.
//!
//! Rules use CEL's grammar and some of its functions. [`super::evaluate`] evaluates them instead of
//! CEL's own interpreter, because they mean what organisers mean. There is one kind of number, and
//! it is exact. Days begin at midnight in the drive's time zone.

use std::borrow::Cow;
use std::fmt;

use chrono::TimeDelta;
use chrono_tz::Tz;
use rust_decimal::Decimal;

use super::{DriveField, parse, typing};
use crate::eligibility::moment::Moment;

/// What an expression reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Read {
    /// What an organisation says of the member.
    Member(String),
    /// What the member says.
    Declared(String),
    Drive(DriveField),
    Now,
}

impl Read {
    /// Its name in verdicts and explanations.
    pub(super) fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Member(name) => name.into(),
            Self::Declared(name) => format!("declared.{name}").into(),
            Self::Drive(field) => format!("drive.{}", field.as_str()).into(),
            Self::Now => "now".into(),
        }
    }

    /// Whether it is an attribute of a person.
    pub(super) fn is_attribute(&self) -> bool {
        matches!(self, Self::Member(_) | Self::Declared(_))
    }
}

/// A fault in an expression, and where it is (line and column from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) detail: String,
}

impl Fault {
    pub(super) fn at(source: &str, offset: usize, detail: impl fmt::Display) -> Self {
        let (mut line, mut column) = (1, 1);
        for character in source.chars().take(offset) {
            if character == '\n' {
                (line, column) = (line + 1, 1);
            } else {
                column += 1;
            }
        }
        Self { line, column, detail: detail.to_string() }
    }
}

/// A part of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Its offset in the source, in characters.
    pub(super) at: usize,
    pub(super) kind: Kind,
}

impl Node {
    /// Whether a part of it tests with `has` whether there is this value.
    pub(super) fn tests(&self, read: &Read) -> bool {
        match &self.kind {
            Kind::Has(tested) => tested == read,
            Kind::Not(one) | Kind::Negate(one) | Kind::Part(_, one, _) => one.tests(read),
            Kind::And(two) | Kind::Or(two) | Kind::Compare(_, two) | Kind::Arithmetic(_, two) => {
                two.iter().any(|part| part.tests(read))
            }
            Kind::If(three) => three.iter().any(|part| part.tests(read)),
            Kind::In(item, list) => item.tests(read) || list.iter().any(|part| part.tests(read)),
            Kind::Call(_, args) => args.iter().any(|part| part.tests(read)),
            Kind::Bool(_)
            | Kind::Number(_)
            | Kind::Text(_)
            | Kind::Duration(_)
            | Kind::Moment(_)
            | Kind::Read(_) => false,
        }
    }
}

/// The kind of a part of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Bool(bool),
    Number(Decimal),
    Text(String),
    Duration(TimeDelta),
    Moment(Moment),
    Read(Read),
    Has(Read),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    If(Box<[Node; 3]>),
    Compare(Comparison, Box<[Node; 2]>),
    Arithmetic(Operator, Box<[Node; 2]>),
    In(Box<Node>, Vec<Node>),
    Call(Function, Vec<Node>),
    Part(Part, Box<Node>, Option<Tz>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// Whether it orders its two sides.
    pub(super) fn orders(self) -> bool {
        !matches!(self, Self::Equal | Self::Unequal)
    }

    /// The same comparison with its sides exchanged.
    pub(super) fn turned(self) -> Self {
        match self {
            Self::Equal => Self::Equal,
            Self::Unequal => Self::Unequal,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// A function that takes values. The functions of the calendar are in [`Part`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Number,
    Whole,
    Text,
    Bool,
    Date,
    Days,
    Years,
}

impl Function {
    /// The function with this name, and how many arguments it takes.
    pub(super) fn named(name: &str) -> Option<(Self, usize)> {
        Some(match name {
            "size" => (Self::Size, 1),
            "contains" => (Self::Contains, 2),
            "startsWith" => (Self::StartsWith, 2),
            "endsWith" => (Self::EndsWith, 2),
            "double" => (Self::Number, 1),
            "int" => (Self::Whole, 1),
            "string" => (Self::Text, 1),
            "bool" => (Self::Bool, 1),
            "timestamp" => (Self::Date, 1),
            "days" => (Self::Days, 2),
            "years" => (Self::Years, 2),
            _ => return None,
        })
    }
}

/// A part of a date, counted as in CEL. Months, days of the month and days of the year start at 0.
/// Days of the week start with Sunday, which is 0. `getDate` starts at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Year,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

impl Part {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "getFullYear" => Self::Year,
            "getMonth" => Self::Month,
            "getDate" => Self::Date,
            "getDayOfMonth" => Self::DayOfMonth,
            "getDayOfWeek" => Self::DayOfWeek,
            "getDayOfYear" => Self::DayOfYear,
            "getHours" => Self::Hours,
            "getMinutes" => Self::Minutes,
            "getSeconds" => Self::Seconds,
            "getMilliseconds" => Self::Milliseconds,
            _ => return None,
        })
    }

    /// Whether a duration has this part as well.
    pub(super) fn is_of_durations(self) -> bool {
        matches!(self, Self::Hours | Self::Minutes | Self::Seconds | Self::Milliseconds)
    }
}

/// A parsed expression.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    pub(super) root: Node,
    /// Sorted, each once.
    pub(super) reads: Vec<Read>,
}

impl Expression {
    /// Parses and checks `source`.
    ///
    /// An accepted rule gives a verdict on every member whose attributes have the types that the
    /// rule expects. The exceptions are a division by zero, a number that is too large, a text that
    /// is no number, and a date beyond the calendar.
    ///
    /// # Errors
    /// With every fault that it finds.
    pub(super) fn compile(source: &str) -> Result<Self, Vec<Fault>> {
        let parsed = parse::parse(source)?;
        typing::check(source, &parsed.root)?;
        let root = super::fold::folded(parsed.root);
        let root = root.map_err(|(at, detail)| vec![Fault::at(source, at, detail)])?;
        if root.kind == Kind::Bool(false) {
            return Err(vec![Fault::at(source, root.at, "this can never be true, so nobody could come")]);
        }
        Ok(Self { root, ..parsed })
    }

    /// An expression that is false for every member.
    pub(super) fn never() -> Self {
        Self { root: Node { at: 0, kind: Kind::Bool(false) }, reads: Vec::new() }
    }
}
