//! One CEL expression: parsed within bounds, checked before it is stored, evaluated without surprises.

use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo};
use cel::common::types::{self, CelDouble, CelTimestamp};
use cel::common::value::CowVal;
use cel::{Context, Env, ExecutionError, Value};
use chrono::{Datelike as _, FixedOffset};

use super::{DRIVE_FIELDS, MAX_EXPRESSION};
use crate::clock::Instant;
use crate::member::Attribute;

/// The deepest nesting of brackets, and of the parsed expression.
const MAX_DEPTH: usize = 24;
/// The parser recurses deeply for each bracket; it gets a stack that [`MAX_EXPRESSION`] bytes cannot exhaust.
const PARSER_STACK: usize = 64 * 1024 * 1024;

/// The functions that rules may call. Everything that loops is left out: `all`, `exists`, `map`, `filter`.
const FUNCTIONS: [&str; 23] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "has",
    "double",
    "int",
    "string",
    "bool",
    "timestamp",
    "duration",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "days",
    "years",
];

/// The names that rules may read.
const VARIABLES: [&str; 3] = ["member", "drive", "now"];

/// What an expression reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Read {
    Member(String),
    Drive(String),
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
    fn at(source: &str, offset: usize, detail: impl fmt::Display) -> Self {
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

/// A parsed and checked expression.
#[derive(Debug)]
pub(super) struct Expression {
    root: IdedExpr,
    reads: Vec<Read>,
}

impl Expression {
    /// Parses and checks `source`; gives every fault it finds.
    pub(super) fn compile(source: &str) -> Result<Self, Vec<Fault>> {
        bounds(source).map_err(|fault| vec![fault])?;
        let owned = source.to_owned();
        // The parser's own recursion limit comes too late for some nestings, so it gets room and is watched.
        let parsed = std::thread::Builder::new()
            .stack_size(PARSER_STACK)
            .spawn(move || parse(&owned))
            .map_err(|error| vec![Fault::at(source, 0, format_args!("start the parser: {error}"))])?
            .join();
        parsed.unwrap_or_else(|_| Err(vec![Fault::at(source, 0, "the parser cannot read this")]))
    }

    /// What it reads, in alphabetical order, each once.
    pub(super) fn reads(&self) -> &[Read] {
        &self.reads
    }

    pub(super) fn evaluate(&self, context: &Context) -> Result<Value, ExecutionError> {
        Value::resolve(&self.root, context)
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
    let (mut root, positions) = environment().parser().parse_with_source_info(source).map_err(|errors| {
        let fault = |error: &cel::ParseError| Fault {
            line: u32::try_from(error.pos.0).unwrap_or(1).max(1),
            column: u32::try_from(error.pos.1).unwrap_or(1).max(1),
            detail: error.msg.clone(),
        };
        errors.errors.iter().map(fault).collect::<Vec<_>>()
    })?;
    let mut check = Check { source, positions: &positions, faults: Vec::new(), reads: Vec::new() };
    check.visit(&mut root, 0);
    let Check { faults, mut reads, .. } = check;
    if !faults.is_empty() {
        return Err(faults);
    }
    reads.sort();
    reads.dedup();
    Ok(Expression { root, reads })
}

/// Walks over a parsed expression: refuses what rules must not do, notes what they read, and makes every number a
/// decimal (an attribute may be 67 for one member and 67.5 for the next).
struct Check<'a> {
    source: &'a str,
    positions: &'a SourceInfo,
    faults: Vec<Fault>,
    reads: Vec<Read>,
}

impl Check<'_> {
    fn fault(&mut self, id: u64, detail: impl fmt::Display) {
        let offset = self.positions.offset_for(id).map_or(0, |(start, _)| start as usize);
        self.faults.push(Fault::at(self.source, offset, detail));
    }

    fn visit(&mut self, node: &mut IdedExpr, depth: usize) {
        let id = node.id;
        if depth > MAX_DEPTH {
            // One place is enough to say so.
            if !self.faults.iter().any(|fault| fault.detail.starts_with("an expression nests")) {
                self.fault(id, format_args!("an expression nests at most {MAX_DEPTH} deep"));
            }
            return;
        }
        match &mut node.expr {
            Expr::Literal(literal) => {
                if let LiteralValue::Int(number) = literal {
                    *literal = LiteralValue::Double(CelDouble::from(*number.inner() as f64));
                }
            }
            Expr::Ident(name) if name == "now" => self.reads.push(Read::Now),
            Expr::Ident(name) if VARIABLES.contains(&name.as_str()) => {
                let detail = format!("name what of {name} is meant: {name}.something");
                self.fault(id, detail);
            }
            Expr::Ident(name) => {
                let detail = format!("there is no {name}; rules read member.*, drive.* and now");
                self.fault(id, detail);
            }
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) if name == "member" => self.reads.push(Read::Member(select.field.clone())),
                Expr::Ident(name) if name == "drive" => {
                    if DRIVE_FIELDS.contains(&select.field.as_str()) {
                        self.reads.push(Read::Drive(select.field.clone()));
                    } else {
                        let detail =
                            format!("drive has no {}; it has {}", select.field, DRIVE_FIELDS.join(", "));
                        self.fault(id, detail);
                    }
                }
                _ => {
                    let before = self.faults.len();
                    self.visit(&mut select.operand, depth + 1);
                    if self.faults.len() == before {
                        let detail = format!("nothing here has a field {}", select.field);
                        self.fault(id, detail);
                    }
                }
            },
            Expr::Call(call) => {
                let is_operator = call.func_name.contains('_') || call.func_name.starts_with('@');
                if !is_operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
                    let detail = format!("there is no function {}", call.func_name);
                    self.fault(id, detail);
                }
                for operand in call.target.as_deref_mut().into_iter().chain(&mut call.args) {
                    self.visit(operand, depth + 1);
                }
            }
            Expr::List(list) => list.elements.iter_mut().for_each(|element| self.visit(element, depth + 1)),
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        self.visit(&mut entry.key, depth + 1);
                        self.visit(&mut entry.value, depth + 1);
                    }
                }
            }
            Expr::Comprehension(_) => {
                self.fault(
                    id,
                    "rules do not loop: all, exists, exists_one, map and filter are not available",
                );
            }
            Expr::Struct(_) => self.fault(id, "rules make no messages"),
            Expr::Unspecified => self.fault(id, "an expression is needed"),
        }
    }
}

/// CEL's standard functions and macros, `days` and `years`.
pub(super) fn environment() -> Arc<Env> {
    static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
        let mut env = Env::stdlib();
        let instants = || vec![types::TIMESTAMP_TYPE, types::TIMESTAMP_TYPE];
        let declared = [
            env.add_overload("days", "days_between", instants(), |args| {
                between(&args, |from, to| (*to - *from).num_days())
            }),
            env.add_overload("years", "years_between", instants(), |args| between(&args, whole_years)),
        ];
        debug_assert!(declared.iter().all(Result::is_ok), "the standard library has no days and years");
        Arc::new(env)
    });
    ENVIRONMENT.clone()
}

type Timestamp = chrono::DateTime<FixedOffset>;

fn between<'b, 'v>(
    args: &[CowVal<'b, 'v>],
    count: fn(&Timestamp, &Timestamp) -> i64,
) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let instant = |index: usize| {
        args.get(index)
            .and_then(|arg| arg.downcast_ref::<CelTimestamp>())
            .map(CelTimestamp::inner)
            .ok_or_else(|| ExecutionError::invalid_argument_count(2, args.len()))
    };
    Ok(CowVal::owned(CelDouble::from(count(instant(0)?, instant(1)?) as f64)))
}

/// The whole years from one day to another, as an age is counted: a person born on 29 February is a year older on
/// 1 March in years that have no 29 February. Negative if `to` is earlier.
fn whole_years(from: &Timestamp, to: &Timestamp) -> i64 {
    let (from, to) = (from.to_utc(), to.to_utc());
    let years = i64::from(to.year()) - i64::from(from.year());
    let before_the_day = (to.month(), to.day(), to.time()) < (from.month(), from.day(), from.time());
    years - i64::from(before_the_day)
}

/// An attribute as CEL sees it.
pub(super) fn value(attribute: &Attribute) -> Value {
    match attribute {
        Attribute::Bool(flag) => Value::Bool(*flag),
        Attribute::Number(number) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        Attribute::Text(text) => match attribute.as_instant() {
            Some(instant) => Value::Timestamp(Instant::fixed_offset(&instant)),
            None => Value::String(Arc::new(text.clone())),
        },
    }
}

/// What a value is called in an explanation.
pub(super) fn name(value: &Value) -> &'static str {
    match value {
        Value::List(_) => "a list",
        Value::Map(_) | Value::Struct(_) => "a map",
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => "a number",
        Value::String(_) => "a text",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "true or false",
        Value::Duration(_) => "a duration",
        Value::Timestamp(_) => "a date",
        Value::Function(..) | Value::Opaque(_) | Value::Null => "nothing",
    }
}

/// An evaluation error in words.
pub(super) fn explain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!("cannot {operator} {} and {}", name(left), name(right))
        }
        ExecutionError::ValuesNotComparable(left, right) => {
            format!("cannot compare {} with {}", name(left), name(right))
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "divides by zero".to_owned()
        }
        other => other.to_string(),
    }
}
