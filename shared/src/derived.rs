//! Columns that follow from others: the folded forms of searched texts, and the normal forms of
//! addresses.
//!
//! Every writer of a row sets these columns, too. This module fills them in for rows of an older
//! version that did not know them. It runs when the database is upgraded, and again in the regular
//! clean-up, because the older version may still run during a rollout.

use sea_orm::{ConnectionTrait, DbErr};

use crate::store::{accounts, drives, members};

/// Calls a function page after page until there are no more rows.
macro_rules! all_pages {
    ($page:path, $db:expr) => {{
        let mut after = None;
        while let Some(last) = $page($db, after).await? {
            after = Some(last);
        }
    }};
}

/// Fills in missing values. It is idempotent, and can be interrupted and repeated.
///
/// A page has a thousand rows. Without a transaction, each page is a change of its own.
pub async fn fill(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    all_pages!(members::fill, db);
    all_pages!(drives::fill, db);
    all_pages!(accounts::fill, db);
    all_pages!(accounts::take_addresses, db);
    Ok(())
}
