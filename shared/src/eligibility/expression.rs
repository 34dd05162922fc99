//! One rule's expression: parsed within bounds by CEL's parser, and lowered to what rules may say.
//!
//! Rules use CEL's grammar and a part of its functions. They are judged by [`super::evaluate`], because they mean what
//! organisers mean: there is one kind of number, it is exact, and dates turn at midnight where the drive takes place.

use std::fmt;
use std::str::FromStr as _;

use cel::common::ast::{
    CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators,
};
use chrono::TimeDelta;
use chrono_tz::Tz;
use rust_decimal::Decimal;

use super::moment::Moment;
use super::{DriveField, MAX_EXPRESSION, types};

/// The deepest nesting of brackets, and of the parsed expression.
const MAX_DEPTH: usize = 24;
/// The parser recurses deeply for each bracket; it gets a stack that [`MAX_EXPRESSION`] bytes cannot exhaust.
const PARSER_STACK: usize = 64 * 1024 * 1024;

/// From here on whole numbers have gaps between them in binary: 2^53.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

/// What an expression reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Read {
    Member(String),
    Drive(DriveField),
    Now,
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
    /// Where it stands in the source, in characters.
    pub(super) at: usize,
    pub(super) kind: Kind,
}

/// What a part of an expression says.
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
    /// Whether it asks which of two is the larger one.
    pub(super) fn orders(self) -> bool {
        !matches!(self, Self::Equal | Self::Unequal)
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

/// A function that takes values; those of the calendar are in [`Part`].
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
    fn named(name: &str) -> Option<(Self, usize)> {
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

/// A part of a date, counted as CEL counts it: months, days of the month and of the year from 0, days of the week from
/// Sunday, which is 0. `getDate` counts from 1.
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
    fn named(name: &str) -> Option<Self> {
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

    /// Whether a duration has it, too.
    pub(super) fn is_of_durations(self) -> bool {
        matches!(self, Self::Hours | Self::Minutes | Self::Seconds | Self::Milliseconds)
    }
}

/// A parsed expression.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    pub(super) root: Node,
    /// In alphabetical order, each once.
    pub(super) reads: Vec<Read>,
}

impl Expression {
    /// Parses and checks `source`; gives every fault it finds. What passes never ends in an error for a member whose
    /// attributes have the types that the rule expects, unless it divides by zero or leaves the calendar.
    pub(super) fn compile(source: &str) -> Result<Self, Vec<Fault>> {
        let parsed = Self::parse(source)?;
        types::check(source, &parsed.root)?;
        let root = super::fold::folded(parsed.root);
        let root = root.map_err(|(at, detail)| vec![Fault::at(source, at, detail)])?;
        if root.kind == Kind::Bool(false) {
            return Err(vec![Fault::at(source, root.at, "this can never be true, so nobody could come")]);
        }
        Ok(Self { root, ..parsed })
    }

    /// What nobody meets.
    pub(super) fn never() -> Self {
        Self { root: Node { at: 0, kind: Kind::Bool(false) }, reads: Vec::new() }
    }

    /// Parses `source` without a check of its types: it was checked when it was written, by the checks of then.
    pub(super) fn parse(source: &str) -> Result<Self, Vec<Fault>> {
        bounds(source).map_err(|fault| vec![fault])?;
        let owned = source.to_owned();
        // The parser's own recursion limit comes too late for some nestings, so it gets room and is watched.
        let parsed = std::thread::Builder::new()
            .stack_size(PARSER_STACK)
            .spawn(move || parse(&owned))
            .map_err(|error| vec![Fault::at(source, 0, format_args!("start the parser: {error}"))])?
            .join();
        parsed.unwrap_or_else(|_| Err(vec![Fault::at(source, 0, "this cannot be read")]))
    }
}

/// What can be said before parsing: length, and how deep the brackets go.
fn bounds(source: &str) -> Result<(), Fault> {
    if source.trim().is_empty() {
        return Err(Fault::at(source, 0, "an expression is needed"));
    }
    if source.len() > MAX_EXPRESSION {
        return Err(Fault::at(source, 0, format_args!("an expression has at most {MAX_EXPRESSION} bytes")));
    }
    let mut depth = 0_usize;
    for (offset, character) in source.chars().enumerate() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(Fault::at(source, offset, format_args!("brackets nest at most {MAX_DEPTH} deep")));
        }
    }
    Ok(())
}

fn parse(source: &str) -> Result<Expression, Vec<Fault>> {
    let (root, positions) = cel::Env::stdlib().parser().parse_with_source_info(source).map_err(|errors| {
        let fault = |error: &cel::ParseError| Fault {
            line: u32::try_from(error.pos.0).unwrap_or(1).max(1),
            column: u32::try_from(error.pos.1).unwrap_or(1).max(1),
            detail: explained(&error.msg).to_owned(),
        };
        errors.errors.iter().map(fault).collect::<Vec<_>>()
    })?;
    let mut lowering = Lowering { source, positions: &positions, faults: Vec::new(), reads: Vec::new() };
    let lowered = lowering.node(&root, 0);
    let Lowering { faults, mut reads, .. } = lowering;
    match lowered {
        Some(root) if faults.is_empty() => {
            reads.sort();
            reads.dedup();
            Ok(Expression { root, reads })
        }
        _ => Err(faults),
    }
}

/// A parser's message in our words.
fn explained(message: &str) -> &'static str {
    if message.contains("<EOF>") {
        "something is missing here: the expression ends too early, or something is too much"
    } else if message.contains("token recognition") {
        "this character cannot stand here, or a text is not closed"
    } else if message.contains("recursion") {
        "the expression nests too deep"
    } else if message.contains("literal") {
        "this number or text cannot be read"
    } else {
        "this cannot be read: look for a missing bracket, quote or operator"
    }
}

/// Walks over a parsed expression: refuses what rules must not do, and notes what they read.
struct Lowering<'a> {
    source: &'a str,
    positions: &'a SourceInfo,
    faults: Vec<Fault>,
    reads: Vec<Read>,
}

impl Lowering<'_> {
    fn at(&self, id: u64) -> usize {
        self.positions.offset_for(id).map_or(0, |(start, _)| start as usize)
    }

    /// Notes a fault. Gives nothing, so that it can end a walk.
    fn fault<T>(&mut self, id: u64, detail: impl fmt::Display) -> Option<T> {
        self.faults.push(Fault::at(self.source, self.at(id), detail));
        None
    }

    fn node(&mut self, node: &IdedExpr, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            // One place is enough to say so.
            let detail = format!("an expression nests at most {MAX_DEPTH} deep");
            if !self.faults.iter().any(|fault| fault.detail == detail) {
                self.fault::<()>(node.id, detail);
            }
            return None;
        }
        let kind = match &node.expr {
            Expr::Literal(literal) => self.literal(node.id, literal)?,
            Expr::Ident(name) if name == "now" => Kind::Read(self.reads(Read::Now)),
            Expr::Ident(name) if name == "member" || name == "drive" => {
                return self.fault(node.id, format_args!("name what of {name} is meant: {name}.something"));
            }
            Expr::Ident(name) => {
                let detail = format!("there is no {name}; rules read member.*, drive.* and now");
                return self.fault(node.id, detail);
            }
            Expr::Select(select) => self.select(node.id, select, depth)?,
            Expr::Call(call) => self.call(node.id, call, depth)?,
            Expr::List(_) => return self.fault(node.id, "a list stands behind `in` only"),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.node(&entry.value, depth + 1);
                    }
                }
                return self.fault(node.id, "rules have no maps");
            }
            Expr::Comprehension(_) => {
                let detail = "rules do not loop: all, exists, exists_one, map and filter are not available";
                return self.fault(node.id, detail);
            }
            Expr::Struct(_) => return self.fault(node.id, "rules make no messages"),
            Expr::Unspecified => return self.fault(node.id, "an expression is needed"),
        };
        Some(Node { at: self.at(node.id), kind })
    }

    fn reads(&mut self, read: Read) -> Read {
        self.reads.push(read.clone());
        read
    }

    fn literal(&mut self, id: u64, literal: &LiteralValue) -> Option<Kind> {
        Some(match literal {
            LiteralValue::Boolean(flag) => Kind::Bool(*flag.inner()),
            LiteralValue::Int(number) => Kind::Number(Decimal::from(*number.inner())),
            LiteralValue::UInt(number) => Kind::Number(Decimal::from(*number.inner())),
            LiteralValue::Double(number) => {
                let exact = Some(*number.inner()).filter(|number| number.abs() < MOST_EXACT);
                match exact.and_then(|number| decimal(&number.to_string())) {
                    Some(number) => Kind::Number(number),
                    None => return self.fault(id, "a number with a point has at most 15 digits"),
                }
            }
            LiteralValue::String(text) => Kind::Text(text.inner().to_owned()),
            LiteralValue::Null => {
                return self.fault(id, "there is no null: has(member.x) asks whether x is known");
            }
            LiteralValue::Bytes(_) => return self.fault(id, "rules have texts, and no bytes"),
        })
    }

    fn select(&mut self, id: u64, select: &SelectExpr, depth: usize) -> Option<Kind> {
        let read = match &select.operand.expr {
            Expr::Ident(name) if name == "member" => Read::Member(select.field.clone()),
            Expr::Ident(name) if name == "drive" => {
                let Some(field) = DriveField::from_word(&select.field) else {
                    let names = DriveField::ALL.map(DriveField::as_str).join(", ");
                    return self.fault(id, format_args!("drive has no {}; it has {names}", select.field));
                };
                Read::Drive(field)
            }
            _ => {
                self.node(&select.operand, depth + 1)?;
                return self.fault(id, format_args!("nothing here has a field {}", select.field));
            }
        };
        let read = self.reads(read);
        Some(if select.test { Kind::Has(read) } else { Kind::Read(read) })
    }

    fn call(&mut self, id: u64, call: &CallExpr, depth: usize) -> Option<Kind> {
        if call.func_name == operators::IN {
            return self.is_in(id, call, depth);
        }
        if let Some(kind) = self.is_known(call, depth) {
            return kind;
        }
        if call.func_name == "duration" && call.target.is_none() {
            return self.duration(id, call);
        }
        let mut all = Vec::with_capacity(call.args.len() + 1);
        let mut parts = call.target.as_deref().into_iter().chain(&call.args);
        let before = self.faults.len();
        all.extend(parts.by_ref().filter_map(|part| self.node(part, depth + 1)));
        let is_operator = call.func_name.contains('_') || call.func_name.starts_with('@');
        let name = call.func_name.as_str();
        let known = is_operator || Function::named(name).is_some() || Part::named(name).is_some();
        if !known {
            return self.fault(id, format_args!("there is no function {name}"));
        }
        if self.faults.len() > before {
            return None;
        }
        let Some(kind) = operation(name, all) else {
            return self.fault(id, format_args!("this is not how {name} is used"));
        };
        match kind {
            // A date that stands in the rule is checked here, once and for all.
            Kind::Call(Function::Date, args) => match args.as_slice() {
                [Node { kind: Kind::Text(text), at }] => {
                    let moment = Moment::read(text);
                    if moment.is_none() {
                        let detail =
                            format!("{text:?} is no date such as 2001-02-03, and no RFC 3339 instant");
                        self.faults.push(Fault::at(self.source, *at, detail));
                    }
                    moment.map(Kind::Moment)
                }
                _ => Some(Kind::Call(Function::Date, args)),
            },
            kind => Some(kind),
        }
    }

    /// `x == null` and `x != null`, which ask whether something is known; none if the call is something else.
    fn is_known(&mut self, call: &CallExpr, depth: usize) -> Option<Option<Kind>> {
        let is_null = |node: &IdedExpr| matches!(node.expr, Expr::Literal(LiteralValue::Null));
        let is_equal = match call.func_name.as_str() {
            operators::EQUALS => true,
            operators::NOT_EQUALS => false,
            _ => return None,
        };
        let asked = match call.args.as_slice() {
            [asked, null] | [null, asked] if is_null(null) && matches!(asked.expr, Expr::Select(_)) => asked,
            _ => return None,
        };
        let Some(Node { at, kind: Kind::Read(read) }) = self.node(asked, depth + 1) else {
            return Some(None);
        };
        let has = Kind::Has(read);
        Some(Some(if is_equal { Kind::Not(Box::new(Node { at, kind: has })) } else { has }))
    }

    fn is_in(&mut self, id: u64, call: &CallExpr, depth: usize) -> Option<Kind> {
        let [item, list] = call.args.as_slice() else { return self.fault(id, "this is not how in is used") };
        let item = self.node(item, depth + 1);
        let Expr::List(list) = &list.expr else {
            return self.fault(list.id, "a list is needed behind in: ['a', 'b']");
        };
        let before = self.faults.len();
        let elements: Vec<_> =
            list.elements.iter().filter_map(|element| self.node(element, depth + 2)).collect();
        let item = item?;
        if self.faults.len() > before {
            return None;
        }
        Some(Kind::In(Box::new(item), elements))
    }

    fn duration(&mut self, id: u64, call: &CallExpr) -> Option<Kind> {
        let parsed = match call.args.as_slice() {
            [IdedExpr { expr: Expr::Literal(LiteralValue::String(text)), .. }] => duration(text.inner()),
            _ => None,
        };
        match parsed {
            Some(parsed) => Some(Kind::Duration(parsed)),
            None => self.fault(id, "a duration is written duration('48h'), of h, m, s and ms"),
        }
    }
}

/// An operator or a function with its operands; none if it does not take so many.
fn operation(name: &str, all: Vec<Node>) -> Option<Kind> {
    let compared = |comparison, two| Kind::Compare(comparison, Box::new(two));
    let computed = |operator, two| Kind::Arithmetic(operator, Box::new(two));
    let two = |all: Vec<Node>| <[Node; 2]>::try_from(all).ok();
    let one = |all: Vec<Node>| <[Node; 1]>::try_from(all).ok().map(|[one]| Box::new(one));
    Some(match name {
        operators::LOGICAL_AND => Kind::And(Box::new(two(all)?)),
        operators::LOGICAL_OR => Kind::Or(Box::new(two(all)?)),
        operators::LOGICAL_NOT => Kind::Not(one(all)?),
        operators::NEGATE => Kind::Negate(one(all)?),
        operators::CONDITIONAL => Kind::If(Box::new(<[Node; 3]>::try_from(all).ok()?)),
        operators::EQUALS => compared(Comparison::Equal, two(all)?),
        operators::NOT_EQUALS => compared(Comparison::Unequal, two(all)?),
        operators::LESS => compared(Comparison::Less, two(all)?),
        operators::LESS_EQUALS => compared(Comparison::LessOrEqual, two(all)?),
        operators::GREATER => compared(Comparison::Greater, two(all)?),
        operators::GREATER_EQUALS => compared(Comparison::GreaterOrEqual, two(all)?),
        operators::ADD => computed(Operator::Add, two(all)?),
        operators::SUBSTRACT => computed(Operator::Subtract, two(all)?),
        operators::MULTIPLY => computed(Operator::Multiply, two(all)?),
        operators::DIVIDE => computed(Operator::Divide, two(all)?),
        operators::MODULO => computed(Operator::Remainder, two(all)?),
        _ => {
            if let Some(part) = Part::named(name) {
                let mut all = all.into_iter();
                let date = Box::new(all.next()?);
                let zone = match (all.next(), all.next()) {
                    (None, _) => None,
                    (Some(Node { kind: Kind::Text(zone), .. }), None) => Some(zone.parse().ok()?),
                    _ => return None,
                };
                Kind::Part(part, date, zone)
            } else {
                let (function, arguments) = Function::named(name)?;
                (all.len() == arguments).then_some(Kind::Call(function, all))?
            }
        }
    })
}

/// The exact number that an attribute is. One that JSON has read with binary digits, and that is so large that it may have
/// lost some of its own, is none.
pub(super) fn exact(number: &serde_json::Number) -> Option<Decimal> {
    let may_have_lost = number.is_f64() && number.as_f64().is_some_and(|number| number.abs() >= MOST_EXACT);
    if may_have_lost { None } else { decimal(&number.to_string()) }
}

/// The exact number that a text in decimal or scientific notation is, if it has at most 28 digits.
pub(super) fn decimal(text: &str) -> Option<Decimal> {
    let number = Decimal::from_str_exact(text).or_else(|_| Decimal::from_scientific(text));
    number.ok().map(|number| number.normalize())
}

/// A duration as it is written in CEL: `48h`, `1h30m`, `-1.5s`.
fn duration(text: &str) -> Option<TimeDelta> {
    let (negative, mut rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    if rest.is_empty() || rest == "0" {
        return (rest == "0").then(TimeDelta::zero);
    }
    let mut sum = TimeDelta::zero();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let nanoseconds: i64 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let nanoseconds = Decimal::from_str(number).ok()?.checked_mul(nanoseconds.into())?;
        let nanoseconds = i64::try_from(nanoseconds.trunc()).ok()?;
        sum = sum.checked_add(&TimeDelta::nanoseconds(nanoseconds))?;
        rest = behind;
    }
    Some(if negative { -sum } else { sum })
}
