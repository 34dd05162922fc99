//! The ends of streams' logs. A drive's row has the end of the drive's log. Every other stream has
//! a row in the table `streams`.

use std::collections::{BTreeMap, BTreeSet};

use domain::stream::{Stream, StreamKind};
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, DbErr, QueryOrder as _, QuerySelect as _, Set};

use crate::database::rows;
use crate::failure::Failure;
use crate::log::{self, Head};
use crate::store::drives;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "streams")]
#[allow(missing_docs, reason = "the columns are the fields of `Stream` and `Head`")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub kind: String,
    pub sequence: i64,
    pub head: Vec<u8>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
#[allow(missing_docs, reason = "there are none")]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The ends of these streams' logs. None of the streams may be a drive's. Streams without a log are
/// left out.
pub async fn heads(
    db: &impl ConnectionTrait,
    streams: &BTreeSet<Stream>,
) -> Result<BTreeMap<Stream, Head>, DbErr> {
    let these = rows::is_one_of(db, Column::Id, streams.iter().map(|stream| stream.id));
    let rows = Entity::find().filter(these).all(db).await?;
    rows.into_iter()
        .map(|row| Ok((log::stream(&row.kind, row.id)?, Head::stored(row.sequence, &row.head))))
        .collect()
}

/// Advances the ends of logs from where they were read. It fails if another process has advanced
/// one of them meanwhile. Then one of the two processes has lost its lane without knowing, and the
/// transaction must be rolled back.
pub async fn advance(
    db: &impl ConnectionTrait,
    before: &BTreeMap<Stream, Head>,
    after: &BTreeMap<Stream, Head>,
) -> Result<(), Failure> {
    let (mut new, mut moved) = (Vec::new(), Vec::new());
    for (stream, head) in after {
        match before.get(stream) {
            None => new.push(ActiveModel {
                id: Set(stream.id),
                kind: Set(stream.kind.as_str().to_owned()),
                sequence: Set(head.stored_sequence()),
                head: Set(head.hash.to_vec()),
            }),
            Some(from) => moved.push(vec![
                stream.id.into(),
                from.stored_sequence().into(),
                head.stored_sequence().into(),
                head.hash.to_vec().into(),
            ]),
        }
    }
    rows::insert(db, new, |_| 0).await?;
    let count = moved.len() as u64;
    let (keys, sets) = ([Column::Id, Column::Sequence], [Column::Sequence, Column::Head]);
    if rows::update::<Entity>(db, &keys, &sets, moved).await? == count {
        Ok(())
    } else {
        Err(Failure::retry("another process has decided commands of this lane meanwhile"))
    }
}

/// The numbers of the last entries in these streams' logs. Streams without a log are left out.
pub async fn ends(
    db: &impl ConnectionTrait,
    streams: impl IntoIterator<Item = Stream>,
) -> Result<Vec<(Stream, u64)>, DbErr> {
    let (mut in_drives, mut others) = (Vec::new(), BTreeSet::new());
    for stream in streams {
        match stream.drive() {
            Some(drive_id) => in_drives.push(drive_id),
            None => drop(others.insert(stream)),
        }
    }
    let mut ends = Vec::new();
    if !in_drives.is_empty() {
        let found = drives::ends(db, in_drives).await?;
        ends.extend(found.into_iter().map(|(drive_id, end)| (Stream::from(drive_id), end)));
    }
    if !others.is_empty() {
        let found = heads(db, &others).await?;
        ends.extend(found.into_iter().map(|(stream, head)| (stream, head.sequence)));
    }
    Ok(ends)
}

/// The ends of at most `limit` logs of streams of this kind, by stream id after `after`. Drives
/// have no rows here.
pub async fn page(
    db: &impl ConnectionTrait,
    kind: StreamKind,
    after: Option<Stream>,
    limit: u64,
) -> Result<Vec<(Stream, Head)>, DbErr> {
    let mut select =
        Entity::find().filter(Column::Kind.eq(kind.as_str())).order_by_asc(Column::Id).limit(limit);
    if let Some(after) = after {
        select = select.filter(Column::Id.gt(after.id));
    }
    let rows = select.all(db).await?;
    Ok(rows
        .into_iter()
        .map(|row| (Stream { kind, id: row.id }, Head::stored(row.sequence, &row.head)))
        .collect())
}
