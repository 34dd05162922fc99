//! Events: what was decided. Each noun that has them declares its own with [`events!`](crate::events).
//!
//! No personal data stands in them: ids, states, rule versions, names of rules, and what organisers write for many to read
//! (definitions, why a drive was called off, messages, names of gates). What a decision rested on (marks, answers, reasons) is kept with the
//! command, where it can be erased; the event has a salted hash of it.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::MemberId;
use crate::stream::StreamKind;

/// All the events of one noun.
pub trait EventSet: Serialize + DeserializeOwned + JsonSchema {
    /// The kind of stream in whose log they stand.
    const STREAM: StreamKind;
    /// The types of all of them, as subscribers see them: `muster.registration.confirmed`.
    const KINDS: &'static [&'static str];

    /// The type of this one.
    fn kind(&self) -> &'static str;

    /// The member it is about, if it is about one.
    fn member_id(&self) -> Option<MemberId>;

    /// The salted hash of the facts that the decision rested on, if it carries one.
    fn facts(&self) -> Option<&str>;
}

/// Declares the events of one noun: an enum with a variant per event, its types, and [`EventSet`] for it.
///
/// After its data stands which of two fields an event has that are read from any event: `member` (`member_id`; `perhaps_member` if
/// it may be absent) and `facts`.
#[macro_export]
macro_rules! events {
    (
        $(#[$doc:meta])*
        pub enum $set:ident of $stream:ident;
        $($(#[$event_doc:meta])* $kind:literal => $name:ident($data:ty) $([$($has:ident)+])?,)+
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(tag = "type", content = "data")]
        pub enum $set {
            $($(#[$event_doc])* #[serde(rename = $kind)] $name($data),)+
        }

        impl $crate::event::EventSet for $set {
            const STREAM: $crate::stream::StreamKind = $crate::stream::StreamKind::$stream;
            const KINDS: &'static [&'static str] = &[$($kind),+];

            fn kind(&self) -> &'static str {
                match self { $(Self::$name(_) => $kind,)+ }
            }

            fn member_id(&self) -> Option<$crate::id::MemberId> {
                match self { $(Self::$name(_event) => $crate::events!(@member _event $($($has)+)?),)+ }
            }

            fn facts(&self) -> Option<&str> {
                match self { $(Self::$name(_event) => $crate::events!(@facts _event $($($has)+)?),)+ }
            }
        }

        #[cfg(test)]
        impl $set {
            /// What is said above of each event.
            pub(crate) const HAS: &[(&str, &[&str])] = &[$(($kind, &[$($(stringify!($has)),+)?])),+];
        }
    };
    (@member $event:ident member $($rest:ident)*) => { Some($event.member_id) };
    (@member $event:ident perhaps_member $($rest:ident)*) => { $event.member_id };
    (@member $event:ident $($rest:ident)*) => { None };
    (@facts $event:ident facts) => { $event.facts.as_deref() };
    (@facts $event:ident $member:ident facts) => { $event.facts.as_deref() };
    (@facts $event:ident $($rest:ident)*) => { None };
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;
    use crate::{drive, member};

    /// Fails unless what is said of each event is what its data has.
    fn says_what_it_has<E: EventSet>(says: &[(&str, &[&str])]) {
        let schema = schemars::schema_for!(E).to_value();
        let kinds = schema["oneOf"].as_array().unwrap();
        assert_eq!(kinds.len(), says.len());
        for (kind, says) in says {
            let of_kind = kinds.iter().find(|one| one["properties"]["type"]["const"] == *kind).unwrap();
            let name = of_kind["properties"]["data"]["$ref"].as_str().unwrap().trim_start_matches("#/$defs/");
            let data = &schema["$defs"][name];
            let has = |field: &str| data["properties"].get(field).is_some();
            let needs =
                |field: &str| data["required"].as_array().is_some_and(|all| all.contains(&Json::from(field)));
            assert_eq!(says.contains(&"member"), needs("member_id"), "{kind}");
            assert_eq!(says.contains(&"perhaps_member"), has("member_id") && !needs("member_id"), "{kind}");
            assert_eq!(says.contains(&"facts"), has("facts"), "{kind}");
        }
    }

    #[test]
    fn every_event_says_what_it_has() {
        says_what_it_has::<drive::event::Event>(drive::event::Event::HAS);
        says_what_it_has::<member::event::MemberEvent>(member::event::MemberEvent::HAS);
    }
}
