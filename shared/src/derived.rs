//! Columns that follow from others: the folded forms of searched texts, and the normal forms of addresses.
//!
//! Whatever writes a row writes them, too. Here they are filled in for rows of a version that did not know them: when the
//! database is upgraded, and later by the house-keeping, since that version may still run while the next one is rolled out.

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

/// Fills in what is missing. Repeated, or ended at any point and begun again, it comes to the same.
///
/// A page has a thousand rows. Without a transaction each of them is a change of its own.
pub async fn fill(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    all_pages!(members::fill, db);
    all_pages!(drives::fill, db);
    all_pages!(accounts::fill, db);
    all_pages!(accounts::take_addresses, db);
    Ok(())
}
