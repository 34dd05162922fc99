//! Events: the facts that decisions produce. Each noun with a log declares its events with
//! [`events!`](crate::events).
//!
//! Events contain no personal data. They have ids, states, rule versions, names of rules, and texts
//! that organisers publish: definitions, reasons of a cancellation, messages, names of gates. The
//! facts behind a decision (marks, answers, reasons) stay with the command, where they can be
//! erased. The event has a salted hash of them.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::MemberId;
use crate::stream::StreamKind;

/// All events of one noun.
pub trait EventSet: Serialize + DeserializeOwned + JsonSchema {
    /// The kind of stream whose logs have these events.
    const STREAM: StreamKind;
    /// The types of all events, as subscribers see them: `muster.registration.confirmed`.
    const KINDS: &'static [&'static str];

    /// The type of this event.
    fn kind(&self) -> &'static str;

    /// The member it is about, if it is about one.
    fn member_id(&self) -> Option<MemberId>;

    /// The salted hash of the decision's facts, if the event has one.
    fn facts(&self) -> Option<&str>;
}

/// Declares the events of one noun: an enum with a variant per event, its types, and [`EventSet`]
/// for it.
///
/// Brackets after an event's data list its common fields. `member` is a `member_id`,
/// `perhaps_member` is a `member_id` that may be absent, and `facts` is the hash.
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
            /// The common fields that each event declares.
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

    /// Fails unless each event declares exactly the common fields that its data has.
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
