//! Evaluates an expression for one member at one instant.

use std::borrow::Cow;
use std::collections::BTreeSet;

use chrono::TimeDelta;
use chrono_tz::Tz;
use rust_decimal::Decimal;

use super::{DriveFacts, DriveValue, moment};
use crate::attribute::{Attribute, Known};
use crate::clock::Timestamp;
use crate::eligibility::expression::{Comparison, Function, Kind, Node, Operator, Read};
use crate::eligibility::moment::Moment;
use crate::eligibility::parse::{decimal, exact};
use crate::eligibility::typing::Type;

/// The value of a part of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Bool(bool),
    Number(Decimal),
    Text(Cow<'a, str>),
    Instant(Timestamp),
    Duration(TimeDelta),
}

impl Value<'_> {
    /// The literal with this value, if it does not depend on a zone.
    pub(super) fn into_literal(self) -> Option<Kind> {
        Some(match self {
            Self::Bool(flag) => Kind::Bool(flag),
            Self::Number(number) => Kind::Number(number),
            Self::Text(text) => Kind::Text(text.into_owned()),
            Self::Duration(duration) => Kind::Duration(duration),
            Self::Instant(_) => return None,
        })
    }

    fn kind(&self) -> Type {
        match self {
            Self::Bool(_) => Type::Bool,
            Self::Number(_) => Type::Number,
            Self::Text(_) => Type::Text,
            Self::Instant(_) => Type::Date,
            Self::Duration(_) => Type::Duration,
        }
    }
}

/// Why an expression has no value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stop {
    /// The names of the missing values.
    pub(super) missing: BTreeSet<String>,
    /// What does not fit, in words.
    pub(super) wrong: Option<String>,
}

impl Stop {
    fn missing(read: &Read) -> Self {
        Self { missing: BTreeSet::from([read.name().into_owned()]), wrong: None }
    }

    pub(super) fn wrong(detail: impl Into<String>) -> Self {
        Self { missing: BTreeSet::new(), wrong: Some(detail.into()) }
    }

    fn and(mut self, other: Self) -> Self {
        self.missing.extend(other.missing);
        Self { missing: self.missing, wrong: self.wrong.or(other.wrong) }
    }
}

type Result<T> = std::result::Result<T, Stop>;

/// Everything that a rule can read.
#[derive(Debug, Clone, Copy)]
pub(super) struct World<'a> {
    pub(super) person: &'a Known,
    pub(super) drive: &'a DriveFacts,
    pub(super) now: Timestamp,
}

/// The value of an attribute, or that it is missing.
fn value_of<'a>(read: &Read, attribute: Option<&'a Attribute>) -> Result<Value<'a>> {
    match attribute {
        None => Err(Stop::missing(read)),
        Some(Attribute::Bool(flag)) => Ok(Value::Bool(*flag)),
        Some(Attribute::Text(text)) => Ok(Value::Text(text.into())),
        Some(Attribute::Number(number)) => exact(number)
            .map(Value::Number)
            .ok_or_else(|| Stop::wrong(format!("{} has more digits than a rule can compare", read.name()))),
    }
}

/// The name of a part in an explanation.
fn subject(node: &Node) -> Cow<'_, str> {
    match &node.kind {
        Kind::Read(read) if *read != Read::Now => read.name(),
        _ => "a part of the rule".into(),
    }
}

impl<'a> World<'a> {
    fn zone(&self) -> Tz {
        self.drive.time_zone
    }

    pub(super) fn value(&self, node: &'a Node) -> Result<Value<'a>> {
        Ok(match &node.kind {
            Kind::Bool(flag) => Value::Bool(*flag),
            Kind::Number(number) => Value::Number(*number),
            Kind::Text(text) => Value::Text(text.into()),
            Kind::Duration(duration) => Value::Duration(*duration),
            Kind::Moment(at) => Value::Instant(at.at(self.zone()).ok_or_else(beyond)?),
            Kind::Read(read) => self.read(read)?,
            Kind::Has(read) => Value::Bool(match read {
                Read::Member(name) => self.person.member(name).is_some(),
                Read::Declared(name) => self.person.declared.get(name).is_some(),
                Read::Drive(field) => self.drive.get(*field).is_some(),
                Read::Now => true,
            }),
            Kind::Not(operand) => Value::Bool(!self.truth(operand)?),
            Kind::Negate(operand) => match self.value(operand)? {
                Value::Duration(duration) => Value::Duration(-duration),
                value => Value::Number(-number(operand, value)?),
            },
            Kind::And(two) => Value::Bool(!self.either(&two[0], &two[1], false)?),
            Kind::Or(two) => Value::Bool(self.either(&two[0], &two[1], true)?),
            Kind::If(three) => {
                let [condition, yes, no] = three.as_ref();
                return self.value(if self.truth(condition)? { yes } else { no });
            }
            Kind::Compare(comparison, two) => Value::Bool(self.compare(*comparison, &two[0], &two[1])?),
            Kind::Arithmetic(operator, two) => self.compute(*operator, &two[0], &two[1])?,
            Kind::In(item, list) => {
                // Compute the item once. It may contain lists itself.
                let value = self.value(item)?;
                for element in list {
                    let other = self.value(element)?;
                    if self.compared(Comparison::Equal, (item, &value), (element, &other))? {
                        return Ok(Value::Bool(true));
                    }
                }
                Value::Bool(false)
            }
            Kind::Call(function, args) => self.call(*function, args)?,
            Kind::Part(part, date, zone) => {
                let number = match self.value(date)? {
                    Value::Duration(duration) => of_duration(*part, duration),
                    value => moment::part(*part, self.date(date, &value)?, zone.unwrap_or(self.zone())),
                };
                Value::Number(number.into())
            }
        })
    }

    fn read(&self, read: &'a Read) -> Result<Value<'a>> {
        match read {
            Read::Now => Ok(Value::Instant(self.now)),
            Read::Member(name) => value_of(read, self.person.member(name)),
            Read::Declared(name) => value_of(read, self.person.declared.get(name)),
            Read::Drive(field) => match self.drive.get(*field) {
                None => Err(Stop::missing(read)),
                Some(DriveValue::Text(text)) => Ok(Value::Text(text.into())),
                Some(DriveValue::Instant(instant)) => Ok(Value::Instant(instant)),
            },
        }
    }

    /// Whether one of two sides is `decisive`, whatever the other one is. `true` decides `||`,
    /// `false` decides `&&`.
    fn either(&self, one: &'a Node, other: &'a Node, decisive: bool) -> Result<bool> {
        let one = self.truth(one);
        if one == Ok(decisive) {
            return Ok(true);
        }
        match (one, self.truth(other)) {
            (_, Ok(other)) if other == decisive => Ok(true),
            (Ok(_), Ok(_)) => Ok(false),
            (Err(one), Err(other)) => Err(one.and(other)),
            (Err(stop), _) | (_, Err(stop)) => Err(stop),
        }
    }

    /// Whether a part is true.
    pub(super) fn truth(&self, node: &'a Node) -> Result<bool> {
        truth(node, &self.value(node)?)
    }

    fn text(&self, node: &'a Node) -> Result<Cow<'a, str>> {
        match self.value(node)? {
            Value::Text(text) => Ok(text),
            other => Err(unfit(node, &other, Type::Text)),
        }
    }

    /// The date of a part with this value.
    fn date(&self, node: &Node, value: &Value<'_>) -> Result<Timestamp> {
        match self.as_date(value) {
            Some(instant) => Ok(instant),
            None if matches!(value, Value::Text(_)) => Err(no_date(node)),
            None => Err(unfit(node, value, Type::Date)),
        }
    }

    /// The values of two parts. If both have none, both reasons count.
    fn both(&self, one: &'a Node, other: &'a Node) -> Result<(Value<'a>, Value<'a>)> {
        match (self.value(one), self.value(other)) {
            (Ok(one), Ok(other)) => Ok((one, other)),
            (Err(one), Err(other)) => Err(one.and(other)),
            (Err(stop), _) | (_, Err(stop)) => Err(stop),
        }
    }

    fn as_date(&self, value: &Value<'_>) -> Option<Timestamp> {
        match value {
            Value::Instant(instant) => Some(*instant),
            Value::Text(text) => Moment::read(text)?.at(self.zone()),
            _ => None,
        }
    }

    fn compare(&self, comparison: Comparison, one: &'a Node, other: &'a Node) -> Result<bool> {
        let (left, right) = self.both(one, other)?;
        self.compared(comparison, (one, &left), (other, &right))
    }

    /// Compares the values of two parts.
    fn compared(
        &self,
        comparison: Comparison,
        (one, left): (&Node, &Value<'_>),
        (other, right): (&Node, &Value<'_>),
    ) -> Result<bool> {
        let order = match (left, right) {
            (Value::Bool(left), Value::Bool(right)) if !comparison.orders() => left.cmp(right),
            (Value::Number(left), Value::Number(right)) => left.cmp(right),
            (Value::Duration(left), Value::Duration(right)) => left.cmp(right),
            // Two texts that are dates are compared as dates. So `2024-01-01` is before every later
            // instant of that day.
            (Value::Text(texts), Value::Text(others)) => match (self.as_date(left), self.as_date(right)) {
                (Some(left), Some(right)) if texts != others => left.cmp(&right),
                // `12/31/2015` is not a date, so it has no order among dates.
                (Some(_), None) if comparison.orders() => return Err(no_date(other)),
                (None, Some(_)) if comparison.orders() => return Err(no_date(one)),
                _ => texts.cmp(others),
            },
            (Value::Instant(_), Value::Text(_) | Value::Instant(_)) | (Value::Text(_), Value::Instant(_)) => {
                self.date(one, left)?.cmp(&self.date(other, right)?)
            }
            _ => {
                let (one, other) = (subject(one), subject(other));
                let (left, right) = (left.kind(), right.kind());
                return Err(Stop::wrong(format!("{one} is {left}, and {other} is {right}")));
            }
        };
        Ok(match comparison {
            Comparison::Equal => order.is_eq(),
            Comparison::Unequal => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        })
    }

    fn compute(&self, operator: Operator, one: &'a Node, other: &'a Node) -> Result<Value<'a>> {
        let (left, right) = self.both(one, other)?;
        let adds = operator == Operator::Add;
        match (operator, &left, &right) {
            (Operator::Add, Value::Text(left), Value::Text(right)) => {
                return Ok(Value::Text(format!("{left}{right}").into()));
            }
            (Operator::Add | Operator::Subtract, Value::Duration(left), Value::Duration(right)) => {
                let sum = if adds { left.checked_add(right) } else { left.checked_sub(right) };
                return sum.map(Value::Duration).ok_or_else(beyond);
            }
            (Operator::Add | Operator::Subtract, _, Value::Duration(by)) => {
                let date = self.date(one, &left)?;
                let moved = if adds { date.checked_add_signed(*by) } else { date.checked_sub_signed(*by) };
                return moved.map(Value::Instant).ok_or_else(beyond);
            }
            (Operator::Add, Value::Duration(by), _) => {
                let moved = self.date(other, &right)?.checked_add_signed(*by);
                return moved.map(Value::Instant).ok_or_else(beyond);
            }
            (Operator::Subtract, Value::Instant(_) | Value::Text(_), Value::Instant(_) | Value::Text(_)) => {
                return Ok(Value::Duration(self.date(one, &left)? - self.date(other, &right)?));
            }
            _ => {}
        }
        let (left, right) = (number(one, left)?, number(other, right)?);
        let computed = match operator {
            Operator::Add => left.checked_add(right),
            Operator::Subtract => left.checked_sub(right),
            Operator::Multiply => left.checked_mul(right),
            Operator::Divide | Operator::Remainder if right.is_zero() => {
                let zero = match &other.kind {
                    Kind::Read(_) => format!("{} is 0, and the rule divides by it", subject(other)),
                    _ => "the rule divides by 0".to_owned(),
                };
                return Err(Stop::wrong(zero));
            }
            Operator::Divide => left.checked_div(right),
            Operator::Remainder => left.checked_rem(right),
        };
        computed.map(Value::Number).ok_or_else(|| Stop::wrong("the rule comes to too large a number"))
    }

    fn call(&self, function: Function, args: &'a [Node]) -> Result<Value<'a>> {
        let first = &args[0];
        let second = args.get(1);
        let pair = |test: fn(&str, &str) -> bool| {
            let second = second.ok_or_else(|| Stop::wrong("something is missing in the rule"))?;
            Ok(Value::Bool(test(&self.text(first)?, &self.text(second)?)))
        };
        let count = |whole: fn(Timestamp, Timestamp, Tz) -> i64| {
            let second = second.ok_or_else(|| Stop::wrong("something is missing in the rule"))?;
            let (from, to) = self.both(first, second)?;
            let (from, to) = (self.date(first, &from)?, self.date(second, &to)?);
            Ok(Value::Number(whole(from, to, self.zone()).into()))
        };
        match function {
            Function::Size => Ok(Value::Number(self.text(first)?.chars().count().into())),
            Function::Contains => pair(|text, part| text.contains(part)),
            Function::StartsWith => pair(|text, part| text.starts_with(part)),
            Function::EndsWith => pair(|text, part| text.ends_with(part)),
            Function::Days => count(moment::whole_days),
            Function::Years => count(moment::whole_years),
            Function::Date => Ok(Value::Instant(self.date(first, &self.value(first)?)?)),
            Function::Number => Ok(Value::Number(self.converted(first)?)),
            Function::Whole => Ok(Value::Number(self.converted(first)?.trunc())),
            Function::Bool => match self.value(first)? {
                Value::Text(text) if text.eq_ignore_ascii_case("true") => Ok(Value::Bool(true)),
                Value::Text(text) if text.eq_ignore_ascii_case("false") => Ok(Value::Bool(false)),
                value => Ok(Value::Bool(truth(first, &value)?)),
            },
            Function::Text => Ok(Value::Text(match self.value(first)? {
                Value::Text(text) => text,
                Value::Bool(flag) => flag.to_string().into(),
                Value::Number(number) => number.normalize().to_string().into(),
                Value::Instant(instant) => instant.with_timezone(&self.zone()).to_rfc3339().into(),
                Value::Duration(duration) => format!("{}s", duration.num_seconds()).into(),
            })),
        }
    }

    /// The number of a part, or the number in its text.
    fn converted(&self, node: &'a Node) -> Result<Decimal> {
        match self.value(node)? {
            Value::Text(text) => {
                let no_number = || Stop::wrong(format!("{} is no number", subject(node)));
                decimal(text.trim()).ok_or_else(no_number)
            }
            value => number(node, value),
        }
    }
}

fn no_date(node: &Node) -> Stop {
    Stop::wrong(format!("{} is no date such as 2001-02-03", subject(node)))
}

fn truth(node: &Node, value: &Value<'_>) -> Result<bool> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        other => Err(unfit(node, other, Type::Bool)),
    }
}

fn number(node: &Node, value: Value<'_>) -> Result<Decimal> {
    match value {
        Value::Number(number) => Ok(number),
        other => Err(unfit(node, &other, Type::Number)),
    }
}

fn unfit(node: &Node, found: &Value<'_>, wanted: Type) -> Stop {
    Stop::wrong(format!("{} is {}, and the rule needs {wanted}", subject(node), found.kind()))
}

fn beyond() -> Stop {
    Stop::wrong("the rule leaves the calendar")
}

/// The whole duration in hours, minutes, seconds or milliseconds, as in CEL.
fn of_duration(part: super::expression::Part, duration: TimeDelta) -> i64 {
    use super::expression::Part;
    match part {
        Part::Hours => duration.num_hours(),
        Part::Minutes => duration.num_minutes(),
        Part::Milliseconds => duration.num_milliseconds(),
        _ => duration.num_seconds(),
    }
}
