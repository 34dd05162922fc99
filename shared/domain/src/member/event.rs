//! The events of members' logs.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attribute::Source;
use crate::id::MemberId;

crate::events! {
    /// An event of a member's log.
    pub enum MemberEvent of Member;
    /// A member's profile was changed.
    "muster.member.updated" => MemberUpdated(MemberUpdated) [member],
    /// An organiser imported members.
    "muster.members.imported" => MembersImported(MembersImported),
}

/// See [`MemberEvent::MemberUpdated`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberUpdated {
    /// Whose profile.
    pub member_id: MemberId,
    /// Who vouches for the change. Absent if the member made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The attributes that the change is about, without their values.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub attributes: BTreeSet<String>,
}

/// See [`MemberEvent::MembersImported`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MembersImported {
    /// How many people were new.
    pub imported: u64,
    /// How many people were known and got new data.
    pub updated: u64,
}
