//! What of an expression is the same for everybody is computed once, when the rule is written.

use super::expression::{Kind, Node};
use super::{DriveFacts, evaluate};
use crate::clock;
use crate::member::Attributes;

/// The expression with its constant parts computed; or where one of them fails, and why.
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
    if !is_constant(&node) {
        return Ok(node);
    }
    constant(&node).map_err(|detail| (at, detail))
}

fn all<const N: usize>(nodes: [Node; N]) -> Result<[Node; N], (usize, String)> {
    let folded = nodes.into_iter().map(folded).collect::<Result<Vec<_>, _>>()?;
    Ok(<[Node; N]>::try_from(folded).expect("as many come out as go in"))
}

/// `&&` or `||`: one side may decide alone, and one that decides nothing goes.
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

fn is_literal(node: &Node) -> bool {
    matches!(node.kind, Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) | Kind::Duration(_))
}

/// Whether it has parts, and all of them are literals. (What is a date depends on the drive's zone.)
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
    // Literals read nothing of these.
    let (member, drive) = (Attributes::default(), DriveFacts::nowhere());
    let world = evaluate::World { member: &member, drive: &drive, now: clock::from_ms(0) };
    let value = world.value(node).map_err(|stop| stop.wrong.unwrap_or_default())?;
    Ok(Node { at: node.at, kind: value.into_literal().unwrap_or_else(|| node.kind.clone()) })
}
