//! The logs of streams. There is one for each drive and each member, gapless and hash-chained.
//!
//! Each entry is a [`CloudEvent`], stored byte for byte as it was published.
//! `hash(n) = SHA-256(hash(n-1) ‖ bytes(n))`, and `hash(0)` is 32 zero bytes. So anyone who has the
//! events can recompute every hash.

use std::collections::BTreeMap;

use bytes::Bytes;
use domain::clock::Timestamp;
use domain::drive::event::Event;
use domain::event::EventSet;
use domain::hash::Digest256;
use domain::id::CommandId;
use domain::stream::{Stream, StreamKind};
use sea_orm::entity::prelude::*;
use sea_orm::{Condition, ConnectionTrait, DbErr, QueryOrder, QuerySelect, Set};
use sha2::{Digest as _, Sha256};

use crate::bus::CloudEvent;
use crate::database::rows;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "drive_log")]
#[allow(missing_docs, reason = "the columns are the fields of `Entry`; `drive_id` is the id of any stream")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub drive_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub sequence: i64,
    pub hash: Vec<u8>,
    #[sea_orm(column_type = "Text")]
    pub event: String,
    pub stream_kind: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
#[allow(missing_docs, reason = "there are none")]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// The number of the last entry; 0 for an empty log.
    pub sequence: u64,
    /// Its hash; zeros for an empty log.
    pub hash: Digest256,
}

impl Head {
    /// Makes it from the columns of a row.
    #[must_use]
    pub fn stored(sequence: i64, hash: &[u8]) -> Self {
        Self { sequence: sequence.unsigned_abs(), hash: hash.try_into().unwrap_or_default() }
    }

    /// The number as a column stores it.
    #[must_use]
    pub fn stored_sequence(&self) -> i64 {
        i64::try_from(self.sequence).unwrap_or(i64::MAX)
    }

    /// The end of the log after one more entry with these bytes.
    #[must_use]
    pub fn extended(&self, bytes: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.hash);
        hasher.update(bytes);
        Self { sequence: self.sequence + 1, hash: hasher.finalize().into() }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The stream that owns the log.
    pub stream: Stream,
    /// Its number in the log, from 1, and its hash.
    pub head: Head,
    /// Its exact bytes.
    pub bytes: Bytes,
}

/// New entries of one batch, and the ends of the logs after them.
#[derive(Debug)]
pub struct Additions<E = Event> {
    /// The entries, in the order of their decisions.
    pub entries: Vec<(Entry, CloudEvent<E>)>,
    /// The new ends.
    pub heads: BTreeMap<Stream, Head>,
}

impl<E> Default for Additions<E> {
    fn default() -> Self {
        Self { entries: Vec::new(), heads: BTreeMap::new() }
    }
}

impl<E: EventSet> Additions<E> {
    /// Adds the events of one decision to a stream's log, which ended at `stored` before this
    /// batch. Returns the number of the first event.
    pub fn add(
        &mut self,
        stream: Stream,
        stored: Head,
        cause: CommandId,
        now: Timestamp,
        events: Vec<E>,
    ) -> Option<u64> {
        let mut first = None;
        for (index, event) in events.into_iter().enumerate() {
            let before = self.heads.get(&stream).copied().unwrap_or(stored);
            let sequence = before.sequence + 1;
            let event = CloudEvent::new(cause, index, (stream, sequence), now, event);
            let bytes = event.to_bytes();
            let head = before.extended(&bytes);
            self.heads.insert(stream, head);
            self.entries.push((Entry { stream, head, bytes }, event));
            first = first.or(Some(sequence));
        }
        first
    }
}

/// Appends entries. If another process has decided meanwhile, a number is taken, and the result is
/// a unique violation.
pub async fn append(db: &impl ConnectionTrait, entries: impl Iterator<Item = &Entry>) -> Result<(), DbErr> {
    let entries: Vec<_> = entries
        .map(|entry| ActiveModel {
            drive_id: Set(entry.stream.id),
            sequence: Set(entry.head.stored_sequence()),
            hash: Set(entry.head.hash.to_vec()),
            // The bytes are JSON, which is UTF-8.
            event: Set(String::from_utf8_lossy(&entry.bytes).into_owned()),
            stream_kind: Set(entry.stream.kind.as_str().to_owned()),
        })
        .collect();
    rows::insert(db, entries, |entry| entry.event.as_ref().len()).await
}

/// The stream that a row names.
pub(crate) fn stream(kind: &str, id: Uuid) -> Result<Stream, DbErr> {
    let kind = StreamKind::from_word(kind).ok_or_else(|| DbErr::Type(format!("stream kind {kind:?}")))?;
    Ok(Stream { kind, id })
}

fn entry(row: Model) -> Result<Entry, DbErr> {
    let stream = stream(&row.stream_kind, row.drive_id)?;
    Ok(Entry { stream, head: Head::stored(row.sequence, &row.hash), bytes: Bytes::from(row.event) })
}

/// At most `limit` entries of a stream's log after the number `after`, in order.
pub async fn read(
    db: &impl ConnectionTrait,
    stream: Stream,
    after: u64,
    limit: u64,
) -> Result<Vec<Entry>, DbErr> {
    let rows = Entity::find()
        .filter(Column::DriveId.eq(stream.id))
        .filter(Column::StreamKind.eq(stream.kind.as_str()))
        .filter(Column::Sequence.gt(i64::try_from(after).unwrap_or(i64::MAX)))
        .order_by_asc(Column::Sequence)
        .limit(limit)
        .all(db)
        .await?;
    rows.into_iter().map(entry).collect()
}

/// The entries with numbers in these ranges (first, count), ordered by stream id and number.
pub async fn ranges(
    db: &impl ConnectionTrait,
    ranges: impl Iterator<Item = (Stream, u64, u64)>,
) -> Result<Vec<Entry>, DbErr> {
    let mut wanted: BTreeMap<Stream, Vec<(i64, i64)>> = BTreeMap::new();
    for (stream, first, count) in ranges {
        let bound = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        wanted.entry(stream).or_default().push((bound(first), bound(first + count)));
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut any = Condition::any();
    for (stream, ranges) in &mut wanted {
        // Decisions of one batch are neighbours in the log, so neighbours become one range.
        ranges.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::new();
        for (first, end) in ranges.drain(..) {
            match merged.last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((first, end)),
            }
        }
        for (first, end) in merged {
            let within = Condition::all()
                .add(Column::DriveId.eq(stream.id))
                .add(Column::StreamKind.eq(stream.kind.as_str()))
                .add(Column::Sequence.gte(first))
                .add(Column::Sequence.lt(end));
            any = any.add(within);
        }
    }
    let rows = Entity::find()
        .filter(any)
        .order_by_asc(Column::DriveId)
        .order_by_asc(Column::Sequence)
        .all(db)
        .await?;
    rows.into_iter().map(entry).collect()
}

/// The number of entries in all logs of this kind.
pub async fn count(db: &impl ConnectionTrait, kind: StreamKind) -> Result<u64, DbErr> {
    Entity::find().filter(Column::StreamKind.eq(kind.as_str())).count(db).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::drive::event::Empty;
    use domain::id::DriveId;

    #[test]
    fn a_log_is_gapless_and_its_hashes_are_a_chain() {
        let (drive_id, now) = (Stream::from(DriveId::new()), domain::clock::from_ms(1_700_000_000_000));
        let mut additions = Additions::default();
        let opened = || Event::DriveOpened(Empty {});
        let stored = Head { sequence: 7, hash: [9; 32] };
        assert_eq!(additions.add(drive_id, stored, CommandId::new(), now, vec![opened(), opened()]), Some(8));
        assert_eq!(additions.add(drive_id, stored, CommandId::new(), now, vec![opened()]), Some(10));
        assert_eq!(additions.add(drive_id, stored, CommandId::new(), now, vec![]), None);
        let mut head = stored;
        for (entry, event) in &additions.entries {
            head = head.extended(&entry.bytes);
            assert_eq!(entry.head, head);
            assert_eq!(event.sequence.as_deref(), Some(head.sequence.to_string().as_str()));
            assert_eq!(serde_json::from_slice::<CloudEvent>(&entry.bytes).unwrap(), *event);
        }
        assert_eq!(additions.heads[&drive_id], head);
    }

    /// Computed with Python: `hashlib.sha256(bytes(32) + b'{"a":1}')`.
    #[test]
    fn a_hash_is_that_of_the_hash_before_and_the_bytes() {
        let head = Head::default().extended(br#"{"a":1}"#);
        let hex: Vec<_> = head.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.concat(), "b06a229070741292512e8760f470dd7a4c46ccfdf253df781d88dabe58c1ccb1");
    }
}
