//! Streams: nouns with a log of their own.
//!
//! A stream is the unit of order. Its commands are decided one after another, its events are
//! numbered without gaps and hash-chained. A noun gets commands, a log, `verify`, followers and a
//! live feed by declaring a kind here.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::id::{DriveId, MemberId};

crate::words! {
    /// The nouns that have logs.
    pub enum StreamKind {
        /// A drive: everything that is decided about it and its registrations.
        Drive = "drive",
        /// A person: changes of their profile, and the imports that they ran as an organiser.
        Member = "member",
    }
}

impl StreamKind {
    /// The collection in addresses, with its slash: `/drives`.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Drive => "/drives",
            Self::Member => "/members",
        }
    }
}

/// One log's owner. Its text is the `source` of its events: `/drives/{id}`.
///
/// The id alone names the stream in tables: ids are UUIDs, so no two nouns share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// What kind of noun it is.
    pub kind: StreamKind,
    /// The noun's id.
    pub id: Uuid,
}

impl Stream {
    /// The drive, if this is a drive's stream.
    #[must_use]
    pub fn drive(self) -> Option<DriveId> {
        (self.kind == StreamKind::Drive).then_some(DriveId(self.id))
    }

    /// The member, if this is a member's stream.
    #[must_use]
    pub fn member(self) -> Option<MemberId> {
        (self.kind == StreamKind::Member).then_some(MemberId(self.id))
    }
}

impl From<DriveId> for Stream {
    fn from(id: DriveId) -> Self {
        Self { kind: StreamKind::Drive, id: id.0 }
    }
}

impl From<MemberId> for Stream {
    fn from(id: MemberId) -> Self {
        Self { kind: StreamKind::Member, id: id.0 }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.path(), self.id)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that names no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stream is written like /drives/0190…, with the id of the drive")]
pub struct NoStream;

impl FromStr for Stream {
    type Err = NoStream;

    fn from_str(text: &str) -> Result<Self, NoStream> {
        let (path, id) = text.rsplit_once('/').ok_or(NoStream)?;
        let kind = StreamKind::ALL.into_iter().find(|kind| kind.path() == path).ok_or(NoStream)?;
        Ok(Self { kind, id: id.parse().map_err(|_| NoStream)? })
    }
}

impl Serialize for Stream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Stream {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Stream".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "`/drives/{id}` or `/members/{id}`" })
    }
}

/// For `#[serde(flatten, with = "stream::fields")]`. A drive is written as `drive_id`, because
/// older versions read and write that field. Any other stream is written as `stream`. Without a
/// stream there is neither field.
pub mod fields {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Stream;
    use crate::id::DriveId;

    #[derive(Serialize, Deserialize)]
    struct Fields {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drive_id: Option<DriveId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stream: Option<Stream>,
    }

    /// Writes the field of the stream.
    pub fn serialize<S: Serializer>(stream: &Option<Stream>, serializer: S) -> Result<S::Ok, S::Error> {
        let drive_id = stream.and_then(Stream::drive);
        Fields { drive_id, stream: stream.filter(|_| drive_id.is_none()) }.serialize(serializer)
    }

    /// Reads either field.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Stream>, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        Ok(fields.drive_id.map(Stream::from).or(fields.stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct About {
        kind: String,
        #[serde(flatten, with = "fields")]
        stream: Option<Stream>,
    }

    #[test]
    fn a_stream_is_the_source_of_its_events() {
        for stream in [Stream::from(DriveId::new()), MemberId::new().into()] {
            assert_eq!(stream.to_string().parse(), Ok(stream));
            assert_eq!(
                serde_json::from_value::<Stream>(serde_json::to_value(stream).unwrap()).unwrap(),
                stream
            );
        }
        for text in ["", "/members", "/drives/", "/drives/1", "drives/00000000-0000-0000-0000-000000000000"] {
            assert_eq!(text.parse::<Stream>(), Err(NoStream), "{text}");
        }
    }

    #[test]
    fn a_drive_keeps_the_field_that_older_versions_know() {
        let id = "0190163d-8694-739b-aea5-966c26f8ad91";
        let drive: DriveId = id.parse().unwrap();
        for (stream, text) in [
            (None, r#"{"kind":"x"}"#.to_owned()),
            (Some(drive.into()), format!(r#"{{"kind":"x","drive_id":"{id}"}}"#)),
            (Some(MemberId(drive.0).into()), format!(r#"{{"kind":"x","stream":"/members/{id}"}}"#)),
        ] {
            let about = About { kind: "x".to_owned(), stream };
            assert_eq!(serde_json::to_string(&about).unwrap(), text);
            assert_eq!(serde_json::from_str::<About>(&text).unwrap(), about);
        }
        let old = r#"{"kind":"x","drive_id":null}"#;
        assert_eq!(serde_json::from_str::<About>(old).unwrap().stream, None);
    }
}
