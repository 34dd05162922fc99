//! Parses an expression with CEL's parser, within bounds, and lowers it to the expressions of
//! rules.

use std::fmt;
use std::str::FromStr as _;
use std::sync::LazyLock;

use cel::common::ast::{
    CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators,
};
use chrono::TimeDelta;
use rust_decimal::Decimal;

use super::{DriveField, MAX_EXPRESSION};
use crate::eligibility::expression::{
    Comparison, Expression, Fault, Function, Kind, Node, Operator, Part, Read,
};
use crate::eligibility::moment::Moment;

/// The deepest nesting of brackets, and of the parsed expression.
const MAX_DEPTH: usize = 24;
/// The parser recurses deeply for each bracket. [`MAX_EXPRESSION`] characters cannot exhaust a
/// stack of this size.
const PARSER_STACK: usize = 64 * 1024 * 1024;

/// CEL's grammar. Its construction also registers all of CEL's functions, so it is made once.
static GRAMMAR: LazyLock<cel::Env> = LazyLock::new(cel::Env::stdlib);

/// 2^53. From here on, binary floating-point numbers cannot represent every whole number.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Parses `source` without a type check. A stored rule was checked when it was written, by the
/// version of that time.
pub(super) fn parse(source: &str) -> Result<Expression, Vec<Fault>> {
    bounds(source).map_err(|fault| vec![fault])?;
    let owned = source.to_owned();
    // The parser's own recursion limit comes too late for some nestings. So the parser gets a
    // larger stack, and a panic of it becomes a fault.
    let parsed = std::thread::Builder::new()
        .stack_size(PARSER_STACK)
        .spawn(move || read(&owned))
        .map_err(|error| vec![Fault::at(source, 0, format_args!("start the parser: {error}"))])?
        .join();
    parsed.unwrap_or_else(|_| Err(vec![Fault::at(source, 0, "this cannot be read")]))
}

/// Checks before parsing: the length, and the nesting of brackets.
fn bounds(source: &str) -> Result<(), Fault> {
    if source.trim().is_empty() {
        return Err(Fault::at(source, 0, "an expression is needed"));
    }
    if source.chars().count() > MAX_EXPRESSION {
        return Err(Fault::at(
            source,
            0,
            format_args!("an expression has at most {MAX_EXPRESSION} characters"),
        ));
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

fn read(source: &str) -> Result<Expression, Vec<Fault>> {
    let (root, positions) = GRAMMAR.parser().parse_with_source_info(source).map_err(|errors| {
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

/// The parser's message, in words for organisers.
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

/// Walks over a parsed expression. It refuses what rules must not do, and collects what they read.
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

    /// Adds a fault. Returns `None`, so that a caller can return it.
    fn fault<T>(&mut self, id: u64, detail: impl fmt::Display) -> Option<T> {
        self.faults.push(Fault::at(self.source, self.at(id), detail));
        None
    }

    fn node(&mut self, node: &IdedExpr, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            // Report this for one place only.
            let detail = format!("an expression nests at most {MAX_DEPTH} deep");
            if !self.faults.iter().any(|fault| fault.detail == detail) {
                self.fault::<()>(node.id, detail);
            }
            return None;
        }
        let kind = match &node.expr {
            Expr::Literal(literal) => self.literal(node.id, literal)?,
            Expr::Ident(name) if name == "now" => Kind::Read(self.reads(Read::Now)),
            Expr::Ident(name) if ["member", "declared", "drive"].contains(&name.as_str()) => {
                return self.fault(node.id, format_args!("name what of {name} is meant: {name}.something"));
            }
            Expr::Ident(name) => {
                let detail = format!("there is no {name}; rules read member.*, declared.*, drive.* and now");
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
            Expr::Ident(name) if name == "declared" => Read::Declared(select.field.clone()),
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
        let before = self.faults.len();
        let parts = call.target.as_deref().into_iter().chain(&call.args);
        let all: Vec<_> = parts.filter_map(|part| self.node(part, depth + 1)).collect();
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
            // A date in the rule is checked here, once.
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

    /// `x == null` and `x != null`, which ask whether a value is known. `None` if the call is
    /// something else.
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

/// An operator or a function with its operands. `None` if their number is wrong.
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

/// The exact number of an attribute. `None` for a binary floating-point number so large that it may
/// have lost digits.
pub(super) fn exact(number: &serde_json::Number) -> Option<Decimal> {
    let may_have_lost = number.is_f64() && number.as_f64().is_some_and(|number| number.abs() >= MOST_EXACT);
    if may_have_lost { None } else { decimal(&number.to_string()) }
}

/// The exact number of a text in decimal or scientific notation, if it has at most 28 digits.
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
