//! The events of members' logs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
}

/// See [`MemberEvent::MembersImported`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MembersImported {
    /// How many people were new.
    pub imported: u64,
    /// How many people were known and got new data.
    pub updated: u64,
}
