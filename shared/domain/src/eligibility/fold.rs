//! Constant folding: the constant parts of a rule are computed once, when the rule is written.

use rust_decimal::Decimal;

use super::{DriveFacts, evaluate};
use crate::attribute::Known;
use crate::clock;
use crate::eligibility::expression::{Comparison, Function, Kind, Node, Operator, Part};

/// Computes the constant parts of an expression.
///
/// # Errors
/// If a part always fails or is always false: its place, and why.
pub(super) fn folded(node: Node) -> Result<Node, (usize, String)> {
    let Node { at, kind } = node;
    let boxed = |node: Box<Node>| folded(*node).map(Box::new);
    let kind = match kind {
        Kind::Not(operand) => Kind::Not(boxed(operand)?),
        Kind::Negate(operand) => Kind::Negate(boxed(operand)?),
        Kind::And(two) => return Ok(logical(at, all(*two)?, false)),
        Kind::Or(two) => return Ok(logical(at, all(*two)?, true)),
        Kind::If(three) => {
            let [condition, yes, no] = all(*three)?;
            match condition.kind {
                Kind::Bool(true) => return Ok(yes),
                Kind::Bool(false) => return Ok(no),
                _ => Kind::If(Box::new([condition, yes, no])),
            }
        }
        Kind::Compare(comparison, two) => Kind::Compare(comparison, Box::new(all(*two)?)),
        Kind::Arithmetic(operator, two) => Kind::Arithmetic(operator, Box::new(all(*two)?)),
        Kind::In(item, list) => {
            Kind::In(boxed(item)?, list.into_iter().map(folded).collect::<Result<_, _>>()?)
        }
        Kind::Call(function, args) => {
            Kind::Call(function, args.into_iter().map(folded).collect::<Result<_, _>>()?)
        }
        Kind::Part(part, date, zone) => Kind::Part(part, boxed(date)?, zone),
        constant => constant,
    };
    let node = Node { at, kind };
    if let Some(detail) = senseless(&node) {
        return Err((at, detail));
    }
    if !is_constant(&node) {
        return Ok(node);
    }
    constant(&node).map_err(|detail| (at, detail))
}

fn all<const N: usize>(nodes: [Node; N]) -> Result<[Node; N], (usize, String)> {
    let folded = nodes.into_iter().map(folded).collect::<Result<Vec<_>, _>>()?;
    Ok(<[Node; N]>::try_from(folded).expect("as many come out as go in"))
}

/// Folds `&&` or `||`. One constant side may decide alone. A constant side that decides nothing is
/// dropped.
fn logical(at: usize, two: [Node; 2], decisive: bool) -> Node {
    let is = |node: &Node, flag| node.kind == Kind::Bool(flag);
    if two.iter().any(|side| is(side, decisive)) {
        return Node { at, kind: Kind::Bool(decisive) };
    }
    let [one, other] = two;
    if is(&one, !decisive) {
        other
    } else if is(&other, !decisive) {
        one
    } else if decisive {
        Node { at, kind: Kind::Or(Box::new([one, other])) }
    } else {
        Node { at, kind: Kind::And(Box::new([one, other])) }
    }
}

/// What is wrong with a node that fails or is false for every member.
fn senseless(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Arithmetic(Operator::Divide | Operator::Remainder, two) => {
            (two[1].kind == Kind::Number(Decimal::ZERO)).then(|| "the rule divides by 0".to_owned())
        }
        Kind::Compare(comparison, two) => {
            let [one, other] = &**two;
            beyond(one, *comparison, other).or_else(|| beyond(other, comparison.turned(), one))
        }
        Kind::In(item, list) => list.iter().find_map(|one| beyond(item, Comparison::Equal, one)),
        _ => None,
    }
}

/// What is wrong with a comparison of a bounded value with a number outside its bounds, such as a
/// month with 12.
fn beyond(bounded: &Node, comparison: Comparison, number: &Node) -> Option<String> {
    let Kind::Number(number) = number.kind else { return None };
    let (name, least, most) = match &bounded.kind {
        Kind::Call(Function::Size, _) => ("size", 0, None),
        Kind::Part(Part::Month, ..) => ("getMonth", 0, Some(11)),
        Kind::Part(Part::Date, ..) => ("getDate", 1, Some(31)),
        Kind::Part(Part::DayOfMonth, ..) => ("getDayOfMonth", 0, Some(30)),
        Kind::Part(Part::DayOfWeek, ..) => ("getDayOfWeek", 0, Some(6)),
        Kind::Part(Part::DayOfYear, ..) => ("getDayOfYear", 0, Some(365)),
        _ => return None,
    };
    let is_over = |least: Decimal| most.is_some_and(|most| least > Decimal::from(most));
    let one = Decimal::ONE;
    let is_never = match comparison {
        Comparison::Equal => number < least.into() || is_over(number) || !number.is_integer(),
        Comparison::Unequal => false,
        Comparison::Less => number <= least.into(),
        Comparison::LessOrEqual => number < least.into(),
        Comparison::Greater => is_over(number.floor() + one),
        Comparison::GreaterOrEqual => is_over(number),
    };
    is_never.then(|| match most {
        Some(most) => format!("this can never be true: {name} counts from {least} to {most}"),
        None => format!("this can never be true: {name} counts from {least}"),
    })
}

fn is_literal(node: &Node) -> bool {
    matches!(node.kind, Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) | Kind::Duration(_))
}

/// Whether a node has parts and all of them are literals. Dates do not count, because they depend
/// on the drive's zone.
fn is_constant(node: &Node) -> bool {
    match &node.kind {
        Kind::Not(operand) | Kind::Negate(operand) => is_literal(operand),
        Kind::Compare(_, two) | Kind::Arithmetic(_, two) => two.iter().all(is_literal),
        Kind::In(item, list) => is_literal(item) && list.iter().all(is_literal),
        Kind::Call(_, args) => args.iter().all(is_literal),
        _ => false,
    }
}

fn constant(node: &Node) -> Result<Node, String> {
    // Literals do not read these.
    let (person, drive) = (Known::default(), DriveFacts::nowhere());
    let world = evaluate::World { person: &person, drive: &drive, now: clock::from_ms(0) };
    let value = world.value(node).map_err(|stop| stop.wrong.unwrap_or_default())?;
    Ok(Node { at: node.at, kind: value.into_literal().unwrap_or_else(|| node.kind.clone()) })
}
