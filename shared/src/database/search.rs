//! Searches texts by a folded form that is stored beside them.
//!
//! A table with a searched text has two more columns: `search` is the folded text, `search_of` the
//! text that was folded. Every writer sets both. A version of Muster that does not know the columns
//! leaves them behind when it changes the text. `search_of` shows this. A search finds such a row
//! by its lower case, as before, until [`refill`] has folded its text.

use domain::text::folded;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, ExprTrait as _, Func, LikeExpr};
use sea_orm::{Condition, ConnectionTrait, DbErr, QueryOrder as _, QuerySelect as _, Value};

use super::rows;
use crate::database::rows::ROWS_PER_INSERT;

/// The columns of a searched text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Searched<C> {
    /// The text itself.
    pub(crate) text: C,
    /// Its folded form.
    pub(crate) search: C,
    /// The text that was folded.
    pub(crate) search_of: C,
}

impl<C: ColumnTrait> Searched<C> {
    /// The condition that the folded form is missing, or is that of another text.
    fn is_behind(self) -> Condition {
        let other = Expr::col(self.search_of.as_column_ref()).not_equals(self.text.as_column_ref());
        Condition::any().add(self.search_of.is_null()).add(other)
    }
}

/// A search term.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    folded: LikeExpr,
    lower: LikeExpr,
}

impl Pattern {
    /// A pattern for texts that contain `text`. `None` if nothing of it can be searched for, such
    /// as an accent alone.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let folded = folded(text);
        let is_something = !folded.is_empty();
        is_something.then(|| Self { folded: contains(&folded), lower: contains(&text.to_lowercase()) })
    }

    /// The condition that a row's text contains it.
    pub(crate) fn is_in<C: ColumnTrait>(&self, columns: Searched<C>) -> Condition {
        let Searched { text, search, search_of } = columns;
        let is_folded = Expr::col(search_of.as_column_ref()).equals(text.as_column_ref());
        let lower = Expr::expr(Func::lower(Expr::col(text.as_column_ref())));
        let new =
            Condition::all().add(is_folded).add(Expr::col(search.as_column_ref()).like(self.folded.clone()));
        let old = Condition::all().add(columns.is_behind()).add(lower.like(self.lower.clone()));
        Condition::any().add(new).add(old)
    }
}

/// A pattern that matches texts which contain `text`. The wildcards of `text` are escaped.
fn contains(text: &str) -> LikeExpr {
    let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    LikeExpr::new(format!("%{escaped}%")).escape('\\')
}

/// Folds texts whose folded form is missing or stale, in a thousand rows after `after`, by id.
/// Returns the last id, or `None` at the end. Repeating it from the start changes nothing.
pub(crate) async fn refill<E: EntityTrait>(
    db: &impl ConnectionTrait,
    id: E::Column,
    columns: Searched<E::Column>,
    fold: impl Fn(&str) -> String,
    after: Option<Uuid>,
) -> Result<Option<Uuid>, DbErr> {
    let Searched { text, search, search_of } = columns;
    let mut select = E::find()
        .select_only()
        .columns([id, text])
        .filter(columns.is_behind())
        .order_by_asc(id)
        .limit(ROWS_PER_INSERT as u64);
    if let Some(after) = after {
        select = select.filter(id.gt(after));
    }
    let found = select.into_tuple::<(Uuid, String)>().all(db).await?;
    let last = found.last().map(|(id, _)| *id);
    let rows: Vec<Vec<Value>> =
        found.into_iter().map(|(id, text)| vec![id.into(), fold(&text).into(), text.into()]).collect();
    rows::update::<E>(db, &[id], &[search, search_of], rows).await?;
    Ok(last)
}
