//! Schemas of JSON bodies, which schemars makes from the types that serde reads and writes.
//!
//! poem-openapi describes routes, and refers to a schema by its name. Each type has two schemas: as
//! it is read and as it is written. `components` puts them into a document.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromParameter, ParseResult, Type};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde::de::value::{Error as Unread, StrDeserializer};
use serde_json::{Map, Value, json};

/// Where a document keeps its schemas.
pub(crate) const SCHEMAS: &str = "#/components/schemas/";

/// The direction of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From a client: a field with a default may be absent.
    In,
    /// To a client: a field with a default is always present.
    Out,
}

impl Way {
    const ALL: [Self; 2] = [Self::In, Self::Out];

    fn name(self, base: &str) -> String {
        match self {
            Self::In => format!("In.{base}"),
            Self::Out => format!("Out.{base}"),
        }
    }

    /// The generator of schemas for this direction.
    pub(crate) fn generator(self) -> SchemaGenerator {
        let settings = match self {
            Self::In => SchemaSettings::draft2020_12().for_deserialize(),
            Self::Out => SchemaSettings::draft2020_12().for_serialize(),
        };
        settings
            .with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
            .with_transform(RecursiveTransform(for_clients))
            .into_generator()
    }
}

/// The schemas described so far, for each direction.
static KNOWN: LazyLock<Mutex<[SchemaGenerator; 2]>> =
    LazyLock::new(|| Mutex::new(Way::ALL.map(Way::generator)));

fn known() -> MutexGuard<'static, [SchemaGenerator; 2]> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A reference to the schema of `T`, for the description of a route.
pub(crate) fn reference<T: JsonSchema>(way: Way) -> MetaSchemaRef {
    named(way, &T::schema_name())
}

/// The same for a schema that is described together with others.
pub(crate) fn named(way: Way, name: &str) -> MetaSchemaRef {
    MetaSchemaRef::Reference(way.name(name))
}

/// Describes `T`, so that routes can refer to it.
pub(crate) fn register<T: JsonSchema>(way: Way, registry: &mut Registry) {
    assert!(!T::inline_schema(), "{} has no name of its own", T::schema_name());
    known()[way as usize].subschema_for::<T>();
    register_named(way, &T::schema_name(), registry);
}

/// The same for a schema that was described together with others.
pub(crate) fn register_named(way: Way, name: &str, registry: &mut Registry) {
    registry.schemas.entry(way.name(name)).or_insert(MetaSchema::ANY);
}

/// Adds the schemas to which a document refers. A schema has the name of its type. If the two
/// directions of a type differ, the one that is read is called `…Input`.
pub(crate) fn components(document: &mut Value) {
    let described = described();
    let mut reached = BTreeSet::new();
    let mut open: Vec<_> = references(document).into_iter().collect();
    while let Some(name) = open.pop() {
        if let Some(schema) = described.get(&name)
            && reached.insert(name)
        {
            open.extend(references(schema));
        }
    }
    let base = |name: &str| name.split_once('.').map_or(name, |(_, base)| base).to_owned();
    let has_both = |base: &String| Way::ALL.iter().all(|way| reached.contains(&way.name(base)));
    let both: BTreeSet<_> = reached.iter().map(|name| base(name)).filter(has_both).collect();
    // A type is the same in both directions if its two schemas are equal after renaming. Assume
    // this of all types, then remove the types that differ until none does.
    let mut same = both.clone();
    let rename = |same: &BTreeSet<String>, name: &str| match name.split_once('.') {
        Some(("In", base)) if both.contains(base) && !same.contains(base) => format!("{base}Input"),
        Some((_, base)) => base.to_owned(),
        None => name.to_owned(),
    };
    loop {
        let renamed = |way: Way, base: &str| {
            let mut schema = described[&way.name(base)].clone();
            rewrite(&mut schema, &|name| rename(&same, name));
            schema
        };
        let differs = |base: &&String| renamed(Way::In, base) != renamed(Way::Out, base);
        let Some(other) = same.iter().find(differs).cloned() else { break };
        same.remove(&other);
    }
    let mut schemas = Map::new();
    for name in &reached {
        let mut schema = described[name].clone();
        rewrite(&mut schema, &|name| rename(&same, name));
        schemas.insert(rename(&same, name), schema);
    }
    rewrite(document, &|name| rename(&same, name));
    document["components"]["schemas"] = schemas.into();
}

/// Every schema that was described, by its name and direction.
fn described() -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (way, generator) in Way::ALL.into_iter().zip(known().iter()) {
        for (name, mut schema) in generator.clone().take_definitions(true) {
            rewrite(&mut schema, &|name| way.name(name));
            if way == Way::Out {
                never_null_where_absent(&mut schema);
            }
            all.insert(way.name(&name), schema);
        }
    }
    all
}

/// In an answer, a field that may be absent is never null. Removes null from the schemas of such
/// fields.
fn never_null_where_absent(schema: &mut Value) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let fields = schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten();
    for (_, field) in fields.filter(|(name, _)| !required.contains(&Value::from(name.as_str()))) {
        if let Some(types) = field.get_mut("type").and_then(Value::as_array_mut) {
            types.retain(|one| one != "null");
            if let [only] = types.as_slice() {
                field["type"] = only.clone();
            }
        }
        let parts = field.get_mut("anyOf").and_then(Value::as_array_mut);
        let only = parts.and_then(|parts| {
            parts.retain(|part| part["type"] != "null");
            (parts.len() == 1).then(|| parts.remove(0))
        });
        if let (Some(Value::Object(only)), Value::Object(field)) = (only, field) {
            field.remove("anyOf");
            field.extend(only);
        }
    }
}

/// The names that a part of a document refers to.
fn references(part: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![part];
    while let Some(part) = open.pop() {
        match part {
            Value::Object(fields) => {
                let name = fields.get("$ref").and_then(Value::as_str);
                found.extend(name.and_then(|name| name.strip_prefix(SCHEMAS)).map(ToOwned::to_owned));
                open.extend(fields.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    found
}

/// Renames the schemas to which a part of a document refers.
fn rewrite(part: &mut Value, rename: &impl Fn(&str) -> String) {
    match part {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "$ref" => {
                        if let Some(name) = text.strip_prefix(SCHEMAS) {
                            *text = format!("{SCHEMAS}{}", rename(name));
                        }
                    }
                    value => rewrite(value, rename),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite(item, rename)),
        _ => {}
    }
}

/// Descriptions come from the types' documentation, so links become plain words. A choice of words
/// becomes an enumeration, and its description says what each word means. Defaults are removed:
/// some generators take a field with a default for one that a request must have.
fn for_clients(schema: &mut Schema) {
    schema.remove("default");
    if let Some(text) = schema.get("description").and_then(Value::as_str) {
        let text = text.replace("[`", "`").replace("`]", "`");
        schema.insert("description".to_owned(), text.into());
    }
    let Some(Value::Array(choices)) = schema.get("oneOf") else { return };
    let word = |choice: &Value| {
        let words = match (&choice["const"], &choice["enum"]) {
            (Value::String(_), _) => vec![choice["const"].clone()],
            (_, Value::Array(words)) if choice["type"] == "string" => words.clone(),
            _ => return None,
        };
        Some((words, choice["description"].as_str().map(ToOwned::to_owned)))
    };
    let Some(choices) = choices.iter().map(word).collect::<Option<Vec<_>>>() else { return };
    let meanings = choices.iter().filter_map(|(words, about)| {
        let [word] = words.as_slice() else { return None };
        Some(format!("- `{}`: {}", word.as_str()?, about.as_deref()?))
    });
    let about = schema.get("description").and_then(Value::as_str).map(|about| format!("{about}\n"));
    let text = about.into_iter().chain(meanings).collect::<Vec<_>>().join("\n");
    let words: Vec<_> = choices.into_iter().flat_map(|(words, _)| words).collect();
    *schema = json!({ "type": "string", "enum": words }).try_into().unwrap_or_default();
    if !text.is_empty() {
        schema.insert("description".to_owned(), text.into());
    }
}

/// One of a closed set of words, as a parameter.
#[derive(Debug, Clone, Copy)]
pub struct Word<T>(pub T);

impl<T: JsonSchema + Send + Sync> Type for Word<T> {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_ref() -> MetaSchemaRef {
        reference::<T>(Way::In)
    }

    fn register(registry: &mut Registry) {
        register::<T>(Way::In, registry);
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl<T: JsonSchema + DeserializeOwned + Send + Sync> ParseFromParameter for Word<T> {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        T::deserialize(StrDeserializer::<Unread>::new(value)).map(Self).map_err(ParseError::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    domain::words! {
        /// A colour.
        pub enum ColourForSchema {
            /// Like blood.
            Red = "red",
            /// Like grass.
            Green = "green",
        }
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct PartForSchema {
        colour: ColourForSchema,
        #[serde(default)]
        size: u32,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct WholeForSchema {
        part: Option<PartForSchema>,
        #[serde(skip_serializing_if = "Option::is_none")]
        other: Option<PartForSchema>,
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    }

    #[test]
    fn a_type_that_is_read_otherwise_than_it_is_written_has_two_names() {
        let mut registry = Registry::new();
        register::<WholeForSchema>(Way::In, &mut registry);
        register::<WholeForSchema>(Way::Out, &mut registry);
        let reference = |name: &str| json!({ "$ref": format!("{SCHEMAS}{name}") });
        let mut document =
            json!({ "paths": [reference("In.WholeForSchema"), reference("Out.WholeForSchema")] });
        components(&mut document);
        let names: Vec<_> = document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            names,
            [
                "ColourForSchema",
                "PartForSchema",
                "PartForSchemaInput",
                "WholeForSchema",
                "WholeForSchemaInput"
            ]
        );
        assert_eq!(document["paths"], json!([reference("WholeForSchemaInput"), reference("WholeForSchema")]));
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["PartForSchema"]["required"], json!(["colour", "size"]));
        assert_eq!(schemas["PartForSchemaInput"]["required"], json!(["colour"]));
        assert_eq!(schemas["ColourForSchema"]["enum"], json!(["red", "green"]));
        let whole = &schemas["WholeForSchema"]["properties"];
        assert_eq!(
            (&whole["other"], &whole["note"]["type"]),
            (&reference("PartForSchema"), &json!("string"))
        );
        assert!(whole["part"]["anyOf"].is_array(), "it is null if there is none");
        let about = schemas["ColourForSchema"]["description"].as_str().unwrap();
        assert_eq!(about, "A colour.\n\n- `red`: Like blood.\n- `green`: Like grass.");
    }
}
