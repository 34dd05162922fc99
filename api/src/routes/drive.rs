//! Drives: public reading for members, the whole life for organisers.

use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{Enum, Object, OpenApi};
use serde::{Deserialize, Serialize};
use shared::bus::envelope::base64url;
use shared::clock::Instant;
use shared::drive::definition::{self, Admission, Changes, Draft, SlotDraft};
use shared::drive::table::{self, DriveView};
use shared::drive::when::When;
use shared::drive::{
    self as drives, CancelDrive, CloseDrive, CreateDrive, PublishDrive, ReopenDrive, UpdateDrive,
};
use shared::eligibility::Rule;
use shared::id::{DriveId, SlotId};
use shared::log;
use shared::refusal::{Code, FieldError, Refusal};
use shared::registration::questions::{AnswerKind, Question};
use uuid::Uuid;

use super::registration::checked_reason;
use crate::at::At;
use crate::auth::Admin;
use crate::body::JsonBody;
use crate::context::Context;
use crate::page;
use crate::problem::Problem;
use crate::read::{self, Known, Tagged, fresh};
use crate::submit::{Asked, Submission, Submitted};

/// What a drive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "DriveKind", rename_all = "snake_case", remote = "drives::Kind")]
enum Kind {
    Placement,
    Donation,
    Vaccination,
    Competition,
    Volunteering,
    Other,
}

/// Where a drive is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "DriveStatus", rename_all = "snake_case", remote = "drives::Status")]
enum Status {
    Draft,
    Published,
    Open,
    Closed,
    Cancelled,
}

/// How people get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "Admission", rename_all = "snake_case", remote = "Admission")]
enum AdmissionKind {
    /// Whoever comes first.
    FirstCome,
}

/// What kind of answer a question wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "AnswerKind", rename_all = "snake_case", remote = "AnswerKind")]
enum Answer {
    Text,
    Number,
    Boolean,
    Choice,
}

/// A condition on those who register.
#[derive(Debug, Clone, Object)]
#[oai(rename = "Rule", deny_unknown_fields)]
struct RuleObject {
    /// Unique in the drive: `minimum_marks`.
    name: String,
    /// CEL over `member.*`, `drive.*` and `now`; must be true: `member.degree_p >= 60`.
    when: String,
    /// What a member reads when it is not.
    message: String,
}

impl From<RuleObject> for Rule {
    fn from(rule: RuleObject) -> Self {
        Self { name: rule.name, when: rule.when, message: rule.message }
    }
}

impl From<Rule> for RuleObject {
    fn from(rule: Rule) -> Self {
        Self { name: rule.name, when: rule.when, message: rule.message }
    }
}

/// A question to those who register.
#[derive(Debug, Clone, Object)]
#[oai(rename = "Question", deny_unknown_fields)]
struct QuestionObject {
    /// Unique in the drive: `shirt_size`.
    name: String,
    /// What is asked.
    text: String,
    /// What kind of answer it wants.
    kind: Answer,
    /// Whether it must be answered.
    #[oai(default)]
    required: bool,
    /// For `choice`: what can be chosen.
    #[oai(default)]
    choices: Vec<String>,
}

impl From<QuestionObject> for Question {
    fn from(question: QuestionObject) -> Self {
        let QuestionObject { name, text, kind, required, choices } = question;
        Self { name, text, kind: kind.into(), required, choices }
    }
}

impl From<Question> for QuestionObject {
    fn from(question: Question) -> Self {
        let Question { name, text, kind, required, choices } = question;
        Self { name, text, kind: kind.into(), required, choices }
    }
}

/// A slot with places of its own, as an organiser writes it.
#[derive(Debug, Clone, Object)]
#[oai(rename = "SlotDraft", deny_unknown_fields)]
struct SlotBody {
    /// When changing a drive: the slot that is meant; left out for a new one.
    slot_id: Option<Uuid>,
    /// Unique in the drive.
    name: String,
    starts_at: Option<String>,
    ends_at: Option<String>,
    /// Left out: as many as come.
    capacity: Option<u32>,
    /// Left out: nobody waits.
    waitlist_capacity: Option<u32>,
}

/// A drive as an organiser writes it. Instants are RFC 3339 with an offset, or local times in `time_zone` without one
/// (`2026-12-01T09:00`).
#[derive(Debug, Object)]
#[oai(rename = "DriveDraft", deny_unknown_fields)]
struct DriveBody {
    title: String,
    kind: Kind,
    #[oai(default)]
    description: String,
    #[oai(default)]
    venue: String,
    /// An IANA zone: `Asia/Kolkata`.
    time_zone: String,
    /// Registration begins.
    opens_at: String,
    /// Registration ends.
    closes_at: String,
    starts_at: Option<String>,
    ends_at: Option<String>,
    /// Left out: as many as come. Drives with slots have their places there.
    capacity: Option<u32>,
    /// Left out: nobody waits.
    waitlist_capacity: Option<u32>,
    #[oai(default)]
    slots: Vec<SlotBody>,
    /// All must hold.
    #[oai(default)]
    rules: Vec<RuleObject>,
    #[oai(default)]
    questions: Vec<QuestionObject>,
    admission: Option<AdmissionKind>,
}

/// What changes of a drive. What is left out stays; null takes away what may be absent.
#[derive(Debug, Object)]
#[oai(rename = "DriveChanges", deny_unknown_fields)]
struct ChangesBody {
    title: Option<String>,
    kind: Option<Kind>,
    description: Option<String>,
    venue: Option<String>,
    time_zone: Option<String>,
    opens_at: Option<String>,
    closes_at: Option<String>,
    starts_at: MaybeUndefined<String>,
    ends_at: MaybeUndefined<String>,
    capacity: MaybeUndefined<u32>,
    waitlist_capacity: MaybeUndefined<u32>,
    /// All of them: those with an id stay, those without are new, those not named go.
    slots: Option<Vec<SlotBody>>,
    /// All of them.
    rules: Option<Vec<RuleObject>>,
    /// All of them.
    questions: Option<Vec<QuestionObject>>,
}

/// The new end of registration.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Reopening {
    /// Needed when the old one is over.
    closes_at: Option<String>,
}

/// Why a drive is called off.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Cancelling {
    /// For everyone to read.
    reason: String,
}

/// Nothing more to say.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Nothing {}

/// Reads instants and remembers those that are none.
#[derive(Default)]
struct Times(Vec<FieldError>);

impl Times {
    fn read(&mut self, field: impl Into<String>, text: &str) -> When {
        text.parse().unwrap_or_else(|detail: String| {
            self.0.push(FieldError::new(field, detail));
            When::Instant(Instant::default())
        })
    }

    fn read_any(&mut self, field: impl Into<String>, text: Option<String>) -> Option<When> {
        text.map(|text| self.read(field, &text))
    }

    fn slots(&mut self, slots: Vec<SlotBody>) -> Vec<SlotDraft> {
        let mut read = |(index, slot): (usize, SlotBody)| SlotDraft {
            slot_id: slot.slot_id.map(SlotId),
            name: slot.name,
            starts_at: self.read_any(format!("slots[{index}].starts_at"), slot.starts_at),
            ends_at: self.read_any(format!("slots[{index}].ends_at"), slot.ends_at),
            capacity: slot.capacity,
            waitlist_capacity: slot.waitlist_capacity,
        };
        slots.into_iter().enumerate().map(&mut read).collect()
    }

    fn finish<T>(self, value: T) -> Result<T, Problem> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(Refusal::new(Code::InvalidDrive).with_errors(self.0).into())
        }
    }
}

impl TryFrom<DriveBody> for Draft {
    type Error = Problem;

    fn try_from(body: DriveBody) -> Result<Self, Problem> {
        let mut times = Times::default();
        let draft = Self {
            title: body.title,
            kind: body.kind.into(),
            description: body.description,
            venue: body.venue,
            time_zone: body.time_zone,
            opens_at: times.read("opens_at", &body.opens_at),
            closes_at: times.read("closes_at", &body.closes_at),
            starts_at: times.read_any("starts_at", body.starts_at),
            ends_at: times.read_any("ends_at", body.ends_at),
            capacity: body.capacity,
            waitlist_capacity: body.waitlist_capacity,
            slots: times.slots(body.slots),
            rules: body.rules.into_iter().map(Into::into).collect(),
            questions: body.questions.into_iter().map(Into::into).collect(),
            admission: body.admission.map_or(Admission::FirstCome, Into::into),
        };
        times.finish(draft)
    }
}

fn nullable<T>(value: MaybeUndefined<T>) -> Option<Option<T>> {
    match value {
        MaybeUndefined::Undefined => None,
        MaybeUndefined::Null => Some(None),
        MaybeUndefined::Value(value) => Some(Some(value)),
    }
}

impl TryFrom<ChangesBody> for Changes {
    type Error = Problem;

    fn try_from(body: ChangesBody) -> Result<Self, Problem> {
        let mut times = Times::default();
        let changes = Self {
            title: body.title,
            kind: body.kind.map(Into::into),
            description: body.description,
            venue: body.venue,
            time_zone: body.time_zone,
            opens_at: times.read_any("opens_at", body.opens_at),
            closes_at: times.read_any("closes_at", body.closes_at),
            starts_at: nullable(body.starts_at).map(|text| times.read_any("starts_at", text)),
            ends_at: nullable(body.ends_at).map(|text| times.read_any("ends_at", text)),
            capacity: nullable(body.capacity),
            waitlist_capacity: nullable(body.waitlist_capacity),
            slots: body.slots.map(|slots| times.slots(slots)),
            rules: body.rules.map(|rules| rules.into_iter().map(Into::into).collect()),
            questions: body.questions.map(|questions| questions.into_iter().map(Into::into).collect()),
        };
        times.finish(changes)
    }
}

/// A slot, and how its places stand.
#[derive(Debug, Object)]
struct Slot {
    slot_id: Uuid,
    name: String,
    starts_at: Option<At>,
    ends_at: Option<At>,
    /// Null: as many as come.
    capacity: Option<u32>,
    /// Null: as many as come.
    places_left: Option<u32>,
    confirmed: u32,
    waitlist_capacity: u32,
    waitlisted: u32,
}

/// A drive, at most one second old.
#[derive(Debug, Object)]
struct Drive {
    drive_id: Uuid,
    title: String,
    kind: Kind,
    description: String,
    venue: String,
    status: Status,
    /// The IANA zone in which the organisers think.
    time_zone: String,
    /// Registration begins.
    opens_at: At,
    /// Registration ends.
    closes_at: At,
    starts_at: Option<At>,
    ends_at: Option<At>,
    /// Of all slots together; null: as many as come.
    capacity: Option<u32>,
    /// In all slots together; null: as many as come.
    places_left: Option<u32>,
    confirmed: u32,
    waitlist_capacity: u32,
    waitlisted: u32,
    slots: Vec<Slot>,
    rules: Vec<RuleObject>,
    /// Grows by one when the rules change.
    rules_version: u32,
    questions: Vec<QuestionObject>,
    admission: AdmissionKind,
    /// Why it was called off, if it was.
    cancel_reason: Option<String>,
}

impl From<DriveView> for Drive {
    fn from(view: DriveView) -> Self {
        let DriveView { id, drive, places, .. } = view;
        let definition = drive.definition;
        let slot = |slot: &definition::Slot| {
            let places = places.get(&slot.slot_id).copied().unwrap_or_default();
            Slot {
                slot_id: slot.slot_id.0,
                name: slot.name.clone(),
                starts_at: slot.starts_at.map(At),
                ends_at: slot.ends_at.map(At),
                capacity: slot.capacity,
                places_left: slot.capacity.map(|capacity| capacity.saturating_sub(places.confirmed)),
                confirmed: places.confirmed,
                waitlist_capacity: slot.waitlist_capacity,
                waitlisted: places.waitlisted,
            }
        };
        let slots: Vec<_> = definition.slots.iter().map(slot).collect();
        Self {
            drive_id: id.0,
            title: definition.title,
            kind: definition.kind.into(),
            description: definition.description,
            venue: definition.venue,
            status: drive.status.into(),
            time_zone: definition.time_zone.name().to_owned(),
            opens_at: At(definition.opens_at),
            closes_at: At(definition.closes_at),
            starts_at: definition.starts_at.map(At),
            ends_at: definition.ends_at.map(At),
            capacity: slots.iter().map(|slot| slot.capacity).sum(),
            places_left: slots.iter().map(|slot| slot.places_left).sum(),
            confirmed: slots.iter().map(|slot| slot.confirmed).sum(),
            waitlist_capacity: slots.iter().map(|slot| slot.waitlist_capacity).sum(),
            waitlisted: slots.iter().map(|slot| slot.waitlisted).sum(),
            slots,
            rules: definition.rules.into_iter().map(Into::into).collect(),
            rules_version: drive.rules_version,
            questions: definition.questions.into_iter().map(Into::into).collect(),
            admission: definition.admission.into(),
            cancel_reason: drive.cancel_reason,
        }
    }
}

/// A page of drives.
#[derive(Debug, Object)]
struct DriveList {
    items: Vec<Drive>,
    /// For the parameter `cursor`; null at the end.
    next_cursor: Option<String>,
}

/// What a list of drives was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Wanted {
    status: Option<drives::Status>,
    kind: Option<drives::Kind>,
    q: Option<String>,
    after: Option<(Instant, DriveId)>,
    limit: u64,
}

impl Wanted {
    fn read(
        status: Option<Status>,
        kind: Option<Kind>,
        q: Option<String>,
        cursor: Option<&str>,
        limit: Option<u64>,
    ) -> Result<Self, Problem> {
        Ok(Self {
            status: status.map(Into::into),
            kind: kind.map(Into::into),
            q: page::search_text(q)?,
            after: page::position(cursor)?,
            limit: page::limit(limit)?,
        })
    }

    /// The list, among drives in these states.
    async fn list(&self, cx: &Context, visible: &[drives::Status]) -> Result<DriveList, Problem> {
        let statuses = match self.status {
            Some(status) => visible.iter().copied().filter(|visible| *visible == status).collect(),
            None => visible.to_vec(),
        };
        if statuses.is_empty() {
            return Ok(DriveList { items: Vec::new(), next_cursor: None });
        }
        let query = table::Query {
            statuses,
            kind: self.kind,
            text: self.q.clone(),
            after: self.after,
            limit: self.limit + 1,
        };
        let mut found = table::list(&cx.db.read, &query).await?;
        let more = page::cut(&mut found, self.limit);
        let next_cursor = found.last().filter(|_| more).map(|last| page::cursor(&(last.created_at, last.id)));
        Ok(DriveList { items: found.into_iter().map(Drive::from).collect(), next_cursor })
    }
}

/// The states that members see.
const PUBLIC: [drives::Status; 4] =
    [drives::Status::Published, drives::Status::Open, drives::Status::Closed, drives::Status::Cancelled];

async fn find(cx: &Context, id: DriveId, visible: &[drives::Status]) -> Result<Drive, Problem> {
    let found = table::find(&cx.db.read, id).await?;
    let seen = found.filter(|view| visible.contains(&view.drive.status));
    seen.map(Drive::from).ok_or_else(|| Refusal::new(Code::DriveNotFound).into())
}

/// Drives, as everyone sees them.
#[derive(Debug)]
pub struct DriveRoutes;

#[OpenApi]
impl DriveRoutes {
    /// List drives
    #[oai(path = "/drives", method = "get", operation_id = "list-drives")]
    async fn list(
        &self,
        cx: Data<&Context>,
        known: Known,
        status: Query<Option<Status>>,
        kind: Query<Option<Kind>>,
        /// In the title.
        q: Query<Option<String>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<DriveList>, Problem> {
        let wanted = Wanted::read(status.0, kind.0, q.0, cursor.0.as_deref(), limit.0)?;
        let key = format!("drives:{}", page::cursor(&wanted));
        let cached = read::through(&cx.cache, &key, wanted.list(&cx, &PUBLIC)).await?;
        let next = next_link(&cached.body);
        Ok(Tagged::new(cached, &known).with_next(next))
    }

    /// Read a drive
    #[oai(path = "/drives/:drive_id", method = "get", operation_id = "read-drive")]
    async fn read(
        &self,
        cx: Data<&Context>,
        known: Known,
        drive_id: Path<Uuid>,
    ) -> Result<Tagged<Drive>, Problem> {
        let key = read::drive_key(drive_id.0);
        let cached = read::through(&cx.cache, &key, find(&cx, DriveId(drive_id.0), &PUBLIC)).await?;
        Ok(Tagged::new(cached, &known))
    }
}

/// The next page of a cached list.
fn next_link(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct End {
        next_cursor: Option<String>,
    }
    let cursor = serde_json::from_slice::<End>(body).ok()?.next_cursor?;
    Some(format!("</api/v1/drives?cursor={cursor}>; rel=\"next\""))
}

/// An entry of a drive's log.
#[derive(Debug, Object)]
struct LogEntry {
    /// Its number, from 1, without gaps.
    sequence: u64,
    /// SHA-256 of the hash before it and its exact bytes, in unpadded URL-safe base64.
    hash: String,
    /// The event, a CloudEvent: exactly the bytes that were hashed, as text.
    event: String,
}

/// A part of a drive's log.
#[derive(Debug, Object)]
struct LogPage {
    items: Vec<LogEntry>,
    /// For the parameter `after`; null at the end.
    next_after: Option<u64>,
}

/// Drives, as organisers run them.
#[derive(Debug)]
pub struct AdminDriveRoutes;

#[OpenApi]
impl AdminDriveRoutes {
    /// List drives, drafts included
    #[oai(path = "/drives", method = "get", operation_id = "list-all-drives")]
    async fn list(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        known: Known,
        status: Query<Option<Status>>,
        kind: Query<Option<Kind>>,
        /// In the title.
        q: Query<Option<String>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<DriveList>, Problem> {
        let wanted = Wanted::read(status.0, kind.0, q.0, cursor.0.as_deref(), limit.0)?;
        let list = wanted.list(&cx, &drives::Status::ALL).await?;
        let link = list
            .next_cursor
            .as_ref()
            .map(|cursor| format!("</admin/v1/drives?cursor={cursor}>; rel=\"next\""));
        Ok(Tagged::new(fresh(&list), &known).with_next(link))
    }

    /// Read a drive, a draft or not
    #[oai(path = "/drives/:drive_id", method = "get", operation_id = "read-any-drive")]
    async fn read(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        known: Known,
        drive_id: Path<Uuid>,
    ) -> Result<Tagged<Drive>, Problem> {
        let drive = find(&cx, DriveId(drive_id.0), &drives::Status::ALL).await?;
        Ok(Tagged::new(fresh(&drive), &known))
    }

    /// Create a drive
    ///
    /// Command `create-drive`; the receipt has the new `drive_id`. A rule that cannot be used is refused here, with its
    /// line and column.
    #[oai(path = "/drives", method = "post", operation_id = "create-drive")]
    async fn create(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        body: JsonBody<DriveBody>,
    ) -> Result<Submitted, Problem> {
        let draft = Draft::try_from(body.value)?;
        definition::check(&draft)?;
        let submission = Submission { actor: admin.0, asked, body_hash: body.hash };
        cx.submit(submission, |id| CreateDrive { drive_id: DriveId(id.0), draft }).await
    }

    /// Change a drive
    ///
    /// Command `update-drive`. Nobody who is registered loses their place: a capacity below the confirmed is refused.
    #[oai(path = "/drives/:drive_id", method = "patch", operation_id = "update-drive")]
    async fn update(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<ChangesBody>,
    ) -> Result<Submitted, Problem> {
        let changes = Changes::try_from(body.value)?;
        definition::check_changes(&changes)?;
        let command = UpdateDrive { drive_id: DriveId(drive_id.0), changes };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Publish a drive
    ///
    /// Command `publish-drive`: everyone sees it; registration opens and closes at its instants.
    #[oai(path = "/drives/:drive_id/publish", method = "post", operation_id = "publish-drive")]
    async fn publish(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Nothing>,
    ) -> Result<Submitted, Problem> {
        let command = PublishDrive { drive_id: DriveId(drive_id.0) };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Close registration before its time
    ///
    /// Command `close-drive`.
    #[oai(path = "/drives/:drive_id/close", method = "post", operation_id = "close-drive")]
    async fn close(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Nothing>,
    ) -> Result<Submitted, Problem> {
        let command = CloseDrive { drive_id: DriveId(drive_id.0) };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Open registration again
    ///
    /// Command `reopen-drive`.
    #[oai(path = "/drives/:drive_id/reopen", method = "post", operation_id = "reopen-drive")]
    async fn reopen(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Reopening>,
    ) -> Result<Submitted, Problem> {
        let mut times = Times::default();
        let closes_at = times.read_any("closes_at", body.value.closes_at);
        let command = times.finish(ReopenDrive { drive_id: DriveId(drive_id.0), closes_at })?;
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Call a drive off
    ///
    /// Command `cancel-drive`.
    #[oai(path = "/drives/:drive_id/cancel", method = "post", operation_id = "cancel-drive")]
    async fn cancel(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Cancelling>,
    ) -> Result<Submitted, Problem> {
        let command =
            CancelDrive { drive_id: DriveId(drive_id.0), reason: checked_reason(body.value.reason)? };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Read a drive's log
    ///
    /// Every decision about the drive, in order, hash-chained: anyone who has the entries can recompute the hashes.
    #[oai(path = "/drives/:drive_id/log", method = "get", operation_id = "read-log")]
    async fn log(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        drive_id: Path<Uuid>,
        /// The number of the last entry that is known already.
        after: Query<Option<u64>>,
        limit: Query<Option<u64>>,
    ) -> Result<Json<LogPage>, Problem> {
        let (drive_id, limit) = (DriveId(drive_id.0), page::limit(limit.0)?);
        let mut entries = log::read(&cx.db.read, drive_id, after.0.unwrap_or(0), limit + 1).await?;
        if entries.is_empty() && table::find(&cx.db.read, drive_id).await?.is_none() {
            return Err(Refusal::new(Code::DriveNotFound).into());
        }
        let more = page::cut(&mut entries, limit);
        let next_after = entries.last().filter(|_| more).map(|last| last.head.sequence);
        let item = |entry: log::Entry| LogEntry {
            sequence: entry.head.sequence,
            hash: base64url(&entry.head.hash),
            event: String::from_utf8_lossy(&entry.bytes).into_owned(),
        };
        Ok(Json(LogPage { items: entries.into_iter().map(item).collect(), next_after }))
    }
}
