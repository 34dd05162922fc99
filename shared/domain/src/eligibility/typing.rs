//! The type check of an expression, before any member is judged by it.
//!
//! Attributes have no declared types. So a rule's use of an attribute gives its type, which must be
//! the same in all places.

use std::fmt;

use crate::eligibility::expression::{Comparison, Fault, Function, Kind, Node, Operator, Read};
use crate::eligibility::moment::Moment;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Number,
    Text,
    /// A date or an instant. An attribute of this type is a text that is one.
    Date,
    Duration,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Date => "a date",
            Self::Duration => "a duration",
        })
    }
}

/// What is known about the type of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Known(Type),
    /// A text in the rule that is a date.
    DateText,
    /// The type of an attribute, by its number.
    Attribute(usize),
}

/// Checks an expression, which must be true or false.
pub(super) fn check(source: &str, root: &Node) -> Result<(), Vec<Fault>> {
    let check = checked(source, root);
    if check.faults.is_empty() { Ok(()) } else { Err(check.faults) }
}

fn checked<'a>(source: &'a str, root: &Node) -> Check<'a> {
    let mut check = Check { source, faults: Vec::new(), attributes: Vec::new() };
    check.want(root, Type::Bool);
    check
}

/// The attributes that an expression reads, with the types that it expects, where these matter.
#[cfg(test)]
pub(super) fn expected(source: &str, root: &Node) -> Vec<(String, Option<Type>)> {
    let attributes = checked(source, root).attributes;
    let known = |number| attributes[group(&attributes, number)].known;
    attributes.iter().enumerate().map(|(number, one)| (one.name.clone(), known(number))).collect()
}

struct Attribute {
    name: String,
    /// The number of another attribute that has the same type, or its own number.
    same_as: usize,
    known: Option<Type>,
}

/// The attribute that stands for all that have the same type as this one.
fn group(attributes: &[Attribute], mut number: usize) -> usize {
    while attributes[number].same_as != number {
        number = attributes[number].same_as;
    }
    number
}

struct Check<'a> {
    source: &'a str,
    faults: Vec<Fault>,
    attributes: Vec<Attribute>,
}

impl Check<'_> {
    fn fault(&mut self, node: &Node, detail: impl fmt::Display) {
        self.faults.push(Fault::at(self.source, node.at, detail));
    }

    fn attribute(&mut self, name: &str) -> Shape {
        let number =
            self.attributes.iter().position(|attribute| attribute.name == name).unwrap_or_else(|| {
                let same_as = self.attributes.len();
                self.attributes.push(Attribute { name: name.to_owned(), same_as, known: None });
                same_as
            });
        Shape::Attribute(group(&self.attributes, number))
    }

    /// The type of a part, if it is known so far.
    fn known(&self, shape: Shape) -> Option<Type> {
        match shape {
            Shape::Known(known) => Some(known),
            Shape::DateText => Some(Type::Text),
            Shape::Attribute(number) => self.attributes[group(&self.attributes, number)].known,
        }
    }

    /// Requires a type of a part.
    fn want(&mut self, node: &Node, wanted: Type) {
        let before = self.faults.len();
        let shape = self.infer(node, Some(wanted));
        if self.faults.len() == before {
            self.fit(node, shape, wanted);
        }
    }

    fn fit(&mut self, node: &Node, shape: Shape, wanted: Type) {
        match shape {
            Shape::Known(known) if known == wanted => {}
            Shape::DateText if matches!(wanted, Type::Text | Type::Date) => {}
            Shape::Known(Type::Text) if wanted == Type::Date && matches!(node.kind, Kind::Text(_)) => {
                self.fault(node, "this is no date such as 2001-02-03, and no RFC 3339 instant");
            }
            Shape::Known(known) => {
                self.fault(node, format_args!("this is {known}; here it must be {wanted}"));
            }
            Shape::DateText => self.fault(node, format_args!("this is a text; here it must be {wanted}")),
            Shape::Attribute(number) => self.settle(node, number, wanted),
        }
    }

    /// Requires a type of an attribute.
    fn settle(&mut self, node: &Node, number: usize, wanted: Type) {
        let number = group(&self.attributes, number);
        match self.attributes[number].known {
            None if wanted == Type::Duration => {
                self.fault(node, "no attribute is a duration; subtract two dates, or write duration('48h')");
            }
            None => self.attributes[number].known = Some(wanted),
            Some(known) if known == wanted => {}
            // An attribute that is a date is also a text.
            Some(Type::Date | Type::Text) if matches!(wanted, Type::Text | Type::Date) => {
                self.attributes[number].known = Some(Type::Date);
            }
            Some(known) => {
                let name = self.attributes[number].name.clone();
                let detail = format!("{name} is used as {wanted} here, and as {known} before");
                self.fault(node, detail);
            }
        }
    }

    /// Infers the type of a part. `hint` is the type that it would have to be, for parts that do
    /// not say.
    fn infer(&mut self, node: &Node, hint: Option<Type>) -> Shape {
        match &node.kind {
            Kind::Bool(_) | Kind::Has(_) => Shape::Known(Type::Bool),
            Kind::Number(_) => Shape::Known(Type::Number),
            Kind::Text(text) if Moment::read(text).is_some() => Shape::DateText,
            Kind::Text(_) => Shape::Known(Type::Text),
            Kind::Duration(_) => Shape::Known(Type::Duration),
            Kind::Moment(_) | Kind::Read(Read::Now) => Shape::Known(Type::Date),
            Kind::Read(Read::Drive(field)) => {
                Shape::Known(if field.is_date() { Type::Date } else { Type::Text })
            }
            Kind::Read(read @ (Read::Member(_) | Read::Declared(_))) => self.attribute(&read.name()),
            Kind::Not(operand) => self.all(&[(operand, Type::Bool)], Type::Bool),
            Kind::Negate(operand) => {
                let wanted = hint.filter(|hint| *hint == Type::Duration).unwrap_or(Type::Number);
                self.all(&[(operand, wanted)], wanted)
            }
            Kind::And(two) | Kind::Or(two) => {
                self.all(&[(&two[0], Type::Bool), (&two[1], Type::Bool)], Type::Bool)
            }
            Kind::If(three) => {
                let [condition, yes, no] = three.as_ref();
                self.want(condition, Type::Bool);
                self.same(node, yes, no, hint)
            }
            Kind::Compare(comparison, two) => {
                self.compare(node, *comparison, &two[0], &two[1]);
                Shape::Known(Type::Bool)
            }
            Kind::Arithmetic(operator, two) => {
                Shape::Known(self.arithmetic(node, *operator, &two[0], &two[1], hint))
            }
            Kind::In(item, list) => {
                // Infer the item once, however long the list is. The item may contain lists itself.
                let shape = self.infer(item, None);
                for element in list {
                    let before = self.faults.len();
                    let other = self.infer(element, self.known(shape));
                    if self.faults.len() == before {
                        self.unify(element, (item, shape), (element, other));
                    }
                }
                if list.is_empty() {
                    self.fault(node, "the list is empty, so nothing is in it");
                }
                Shape::Known(Type::Bool)
            }
            Kind::Call(function, args) => self.call(*function, args),
            Kind::Part(part, date, _) => {
                let shape = self.infer(date, Some(Type::Date));
                let is_duration = self.known(shape) == Some(Type::Duration);
                if !(is_duration && part.is_of_durations()) {
                    self.fit(date, shape, Type::Date);
                }
                Shape::Known(Type::Number)
            }
        }
    }

    fn all(&mut self, wanted: &[(&Node, Type)], result: Type) -> Shape {
        for (node, wanted) in wanted {
            self.want(node, *wanted);
        }
        Shape::Known(result)
    }

    fn call(&mut self, function: Function, args: &[Node]) -> Shape {
        use Function as F;
        let (wanted, result) = match function {
            F::Size => (Type::Text, Type::Number),
            F::Contains | F::StartsWith | F::EndsWith => (Type::Text, Type::Bool),
            F::Days | F::Years => (Type::Date, Type::Number),
            F::Date => (Type::Date, Type::Date),
            F::Whole | F::Number => (Type::Number, Type::Number),
            F::Bool => (Type::Bool, Type::Bool),
            F::Text => {
                for arg in args {
                    self.infer(arg, None);
                }
                return Shape::Known(Type::Text);
            }
        };
        // An attribute may be a text that contains the number, date or truth value. The evaluation
        // checks that.
        for arg in args {
            self.want(arg, wanted);
        }
        Shape::Known(result)
    }

    /// Requires the same type of two parts, and returns it.
    fn same(&mut self, node: &Node, one: &Node, other: &Node, hint: Option<Type>) -> Shape {
        let before = self.faults.len();
        // Infer arithmetic last. With attributes alone, it says less of its type than the other
        // side does.
        let (first, second) =
            if matches!(one.kind, Kind::Arithmetic(..)) { (other, one) } else { (one, other) };
        let first_shape = self.infer(first, hint);
        let hint = self.known(first_shape).or(hint);
        let second_shape = self.infer(second, hint);
        if self.faults.len() > before {
            return second_shape;
        }
        self.unify(node, (first, first_shape), (second, second_shape))
    }

    /// Requires the same type of two parts with these shapes, and returns it.
    fn unify(
        &mut self,
        node: &Node,
        (first, first_shape): (&Node, Shape),
        (second, second_shape): (&Node, Shape),
    ) -> Shape {
        match (first_shape, second_shape) {
            (Shape::Attribute(one), Shape::Attribute(other)) => {
                let (one, other) = (group(&self.attributes, one), group(&self.attributes, other));
                match (self.attributes[one].known, self.attributes[other].known) {
                    (_, None) => self.attributes[other].same_as = one,
                    (None, Some(_)) => self.attributes[one].same_as = other,
                    (Some(_), Some(known)) => self.settle(first, one, known),
                }
                Shape::Attribute(one)
            }
            (Shape::Attribute(number), other) => self.meet(first, number, other),
            (one, Shape::Attribute(number)) => self.meet(second, number, one),
            (Shape::DateText, Shape::Known(Type::Date)) | (Shape::Known(Type::Date), Shape::DateText) => {
                Shape::Known(Type::Date)
            }
            (Shape::DateText, other) | (other, Shape::DateText)
                if matches!(other, Shape::DateText | Shape::Known(Type::Text)) =>
            {
                Shape::Known(Type::Text)
            }
            (one, other) => {
                let (one, other) = (self.known(one), self.known(other));
                if let (Some(one), Some(other)) = (one, other)
                    && one != other
                {
                    self.fault(node, format_args!("{one} and {other} do not go together"));
                }
                Shape::Known(one.unwrap_or(Type::Bool))
            }
        }
    }

    /// Gives an attribute the type of the part beside it.
    fn meet(&mut self, node: &Node, number: usize, other: Shape) -> Shape {
        match other {
            // The attribute is a text, and may be a date.
            Shape::DateText => self.settle(node, number, Type::Text),
            Shape::Known(known) => {
                self.settle(node, number, known);
                return other;
            }
            Shape::Attribute(_) => {}
        }
        Shape::Attribute(number)
    }

    fn compare(&mut self, node: &Node, comparison: Comparison, one: &Node, other: &Node) {
        let before = self.faults.len();
        let shape = self.same(node, one, other, None);
        if self.faults.len() > before || !comparison.orders() {
            return;
        }
        if self.known(shape) == Some(Type::Bool) {
            self.fault(node, "true and false are equal or not; none of them is larger");
        }
        // An attribute that is ordered against a date is a date.
        for (side, beside) in [(one, other), (other, one)] {
            let is_date = matches!(&beside.kind, Kind::Text(text) if Moment::read(text).is_some());
            if let (true, Kind::Read(read)) = (is_date, &side.kind)
                && read.is_attribute()
                && let Shape::Attribute(number) = self.attribute(&read.name())
            {
                self.settle(side, number, Type::Date);
            }
        }
    }

    fn arithmetic(
        &mut self,
        node: &Node,
        operator: Operator,
        one: &Node,
        other: &Node,
        hint: Option<Type>,
    ) -> Type {
        let before = self.faults.len();
        if !matches!(operator, Operator::Add | Operator::Subtract) {
            self.want(one, Type::Number);
            self.want(other, Type::Number);
            return Type::Number;
        }
        let (left, right) = (self.infer(one, None), self.infer(other, None));
        if self.faults.len() > before {
            return Type::Number;
        }
        let adds = operator == Operator::Add;
        // The types of both sides: known, or required by the type of the result.
        let as_date = |shape: Shape, known| if shape == Shape::DateText { Some(Type::Date) } else { known };
        let (known_left, known_right) = (self.known(left), self.known(right));
        let (wanted_left, wanted_right, result) = match (known_left, known_right) {
            (_, Some(Type::Duration)) if as_date(left, known_left) != Some(Type::Duration) => {
                (Type::Date, Type::Duration, Type::Date)
            }
            (Some(Type::Duration), Some(Type::Duration)) => (Type::Duration, Type::Duration, Type::Duration),
            (Some(Type::Duration), _) if adds => (Type::Duration, Type::Date, Type::Date),
            (Some(Type::Date), _) | (_, Some(Type::Date)) if !adds => {
                (Type::Date, Type::Date, Type::Duration)
            }
            (None | Some(Type::Text), None | Some(Type::Text)) if !adds && hint == Some(Type::Duration) => {
                (Type::Date, Type::Date, Type::Duration)
            }
            (Some(Type::Text), _) | (_, Some(Type::Text)) if adds => (Type::Text, Type::Text, Type::Text),
            (None, None) if adds && hint == Some(Type::Text) => (Type::Text, Type::Text, Type::Text),
            _ => (Type::Number, Type::Number, Type::Number),
        };
        self.fit(one, left, wanted_left);
        self.fit(other, right, wanted_right);
        if self.faults.len() > before {
            // One fault for both sides says more than one for each.
            self.faults.truncate(before);
            let word = |known: Option<Type>| known.map_or("something".to_owned(), |known| known.to_string());
            let verb = if adds { "add" } else { "subtract" };
            let (one, other) = (word(known_left), word(known_right));
            self.fault(node, format_args!("{one} and {other} cannot be used together to {verb}"));
        }
        result
    }
}
