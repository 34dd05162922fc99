//! Instants in answers: RFC 3339 with milliseconds and `Z`, the same text everywhere.

use std::borrow::Cow;

use domain::clock::{Instant, rfc3339};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};

/// An instant in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct At(pub Instant);

impl From<Instant> for At {
    fn from(instant: Instant) -> Self {
        Self(instant)
    }
}

impl JsonSchema for At {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Instant::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Instant::json_schema(generator)
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339(self.0))
    }
}
