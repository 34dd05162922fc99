//! The form of a body. It is read from the schema, once for each type.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::schema::{SCHEMAS, Way};

/// The form that a value must have.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) may_be_null: bool,
    pub(super) shape: Shape,
}

/// The shape of a value that is not null.
#[derive(Debug, Default)]
pub(super) enum Shape {
    #[default]
    Anything,
    Object {
        fields: Vec<Field>,
        /// The form of values with other names. `None` means that no other name is allowed.
        others: Option<Box<Form>>,
    },
    List {
        items: Box<Form>,
        most: u64,
    },
    Text {
        format: Option<String>,
        /// The allowed texts. Empty means any text.
        words: Vec<String>,
        /// In characters.
        least: u64,
        most: u64,
    },
    Whole {
        /// The range of the type.
        holds: (i128, i128),
        /// The part of this range that is allowed.
        allowed: (i128, i128),
    },
    Number,
    Truth,
    OneOf(Vec<Form>),
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) is_needed: bool,
    pub(super) form: Form,
}

/// The form of a `T`.
pub(super) fn of<T: JsonSchema + 'static>() -> &'static Form {
    static FORMS: LazyLock<RwLock<HashMap<TypeId, &'static Form>>> = LazyLock::new(RwLock::default);
    let id = TypeId::of::<T>();
    if let Some(form) = FORMS.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
        return form;
    }
    let mut generator = Way::In.generator();
    let schema = generator.subschema_for::<T>().to_value();
    let all = generator.take_definitions(true);
    // There is one for each type of body, and it is never dropped.
    let form = Box::leak(Box::new(read(&schema, &all)));
    FORMS.write().unwrap_or_else(PoisonError::into_inner).entry(id).or_insert(form)
}

/// Reads a schema. No type of a body contains itself, so this ends.
pub(super) fn read(schema: &Value, all: &Map<String, Value>) -> Form {
    let reference = schema["$ref"].as_str().and_then(|name| name.strip_prefix(SCHEMAS));
    if let Some(meant) = reference.and_then(|name| all.get(name)) {
        return read(meant, all);
    }
    let lists = ["anyOf", "oneOf", "allOf"].into_iter().find_map(|name| schema[name].as_array());
    if let Some(parts) = lists {
        let is_null = |part: &&Value| part["type"] == "null";
        let may_be_null = parts.iter().any(|part| is_null(&part));
        let mut forms: Vec<_> =
            parts.iter().filter(|part| !is_null(part)).map(|part| read(part, all)).collect();
        let may_be_null = may_be_null || forms.iter().any(|form| form.may_be_null);
        return match forms.len() {
            1 => Form { may_be_null, ..forms.remove(0) },
            _ => Form { may_be_null, shape: Shape::OneOf(forms) },
        };
    }
    let (types, single) = match &schema["type"] {
        Value::Array(types) => (types.as_slice(), None),
        one => (&[] as &[Value], one.as_str()),
    };
    let may_be_null = types.iter().any(|one| one == "null");
    let single = single.or_else(|| types.iter().filter_map(Value::as_str).find(|one| *one != "null"));
    let number = |name: &str, other: u64| schema[name].as_u64().unwrap_or(other);
    let shape = match single {
        Some("object") => object(schema, all),
        Some("array") => {
            Shape::List { items: Box::new(read(&schema["items"], all)), most: number("maxItems", u64::MAX) }
        }
        Some("string") => Shape::Text {
            format: schema["format"].as_str().map(ToOwned::to_owned),
            words: words(schema),
            least: number("minLength", 0),
            most: number("maxLength", u64::MAX),
        },
        Some("integer") => whole(schema),
        Some("number") => Shape::Number,
        Some("boolean") => Shape::Truth,
        _ => Shape::Anything,
    };
    Form { may_be_null, shape }
}

fn words(schema: &Value) -> Vec<String> {
    let words = schema["enum"].as_array().map_or(std::slice::from_ref(&schema["const"]), Vec::as_slice);
    words.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

fn object(schema: &Value, all: &Map<String, Value>) -> Shape {
    let needed = schema["required"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    let field = |(name, part): (&String, &Value)| Field {
        name: name.clone(),
        is_needed: needed.iter().any(|needed| needed == name),
        form: read(part, all),
    };
    let fields = schema["properties"].as_object().into_iter().flatten().map(field).collect();
    let others = schema.get("additionalProperties").filter(|others| **others != Value::Bool(false));
    Shape::Object { fields, others: others.map(|others| Box::new(read(others, all))) }
}

fn whole(schema: &Value) -> Shape {
    let holds = bounds(schema["format"].as_str());
    let number = |name: &str| schema[name].as_f64();
    #[allow(clippy::cast_possible_truncation, reason = "the bounds in schemas are small whole numbers")]
    let whole = |number: f64| number as i128;
    let least = number("minimum").map_or(holds.0, whole).max(holds.0);
    let most = number("maximum").map_or(holds.1, whole).min(holds.1);
    Shape::Whole { holds, allowed: (least, most) }
}

/// The integers of a format.
pub(super) fn bounds(format: Option<&str>) -> (i128, i128) {
    match format {
        Some("uint8") => (0, u8::MAX.into()),
        Some("uint16") => (0, u16::MAX.into()),
        Some("uint32") => (0, u32::MAX.into()),
        Some("uint64" | "uint") => (0, u64::MAX.into()),
        Some("int8") => (i8::MIN.into(), i8::MAX.into()),
        Some("int16") => (i16::MIN.into(), i16::MAX.into()),
        Some("int32") => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    }
}
