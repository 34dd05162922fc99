//! Lists: pages with opaque cursors, and the `Link` to the next one (RFC 8288).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The most items of a page.
pub const MAX_LIMIT: u64 = 200;
/// The items of a page unless the client says otherwise.
const DEFAULT_LIMIT: u64 = 50;

/// The number of items that a client asks for.
pub fn limit(asked: Option<u64>) -> Result<u64, Problem> {
    match asked {
        None => Ok(DEFAULT_LIMIT),
        Some(limit @ 1..=MAX_LIMIT) => Ok(limit),
        Some(_) => Err(Problem::invalid_parameter().detail(format!("limit is 1 to {MAX_LIMIT}"))),
    }
}

/// A text to look for: bounded, and nothing if it is empty.
pub fn search_text(asked: Option<String>) -> Result<Option<String>, Problem> {
    match asked.map(|text| text.trim().to_owned()) {
        Some(text) if text.len() > 200 => Err(Problem::invalid_parameter().detail("q has at most 200 bytes")),
        Some(text) if text.contains('\0') => {
            Err(Problem::invalid_parameter().detail("q must not contain the character U+0000"))
        }
        other => Ok(other.filter(|text| !text.is_empty())),
    }
}

/// Where a list goes on, as a text that means something to this list only.
#[must_use]
pub fn cursor(position: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(position).expect("a position is plain data"))
}

/// Reads what [`cursor`] wrote.
pub fn position<T: DeserializeOwned>(cursor: Option<&str>) -> Result<Option<T>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| Problem::invalid_cursor())?;
    serde_json::from_slice(&bytes).map(Some).map_err(|_| Problem::invalid_cursor())
}

/// Cuts a list that was asked for one item more than the page has. Returns whether there is more.
pub fn cut<T>(items: &mut Vec<T>, limit: u64) -> bool {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_by_the_list_that_made_it() {
        let made = cursor(&("2026", 7));
        assert_eq!(position::<(String, u32)>(Some(&made)).unwrap(), Some(("2026".to_owned(), 7)));
        assert_eq!(position::<(String, u32)>(None).unwrap(), None);
        for broken in ["", "?", "e30", &cursor(&7)] {
            assert!(position::<(String, u32)>(Some(broken)).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_limit_is_bounded() {
        assert_eq!(limit(None).unwrap(), DEFAULT_LIMIT);
        assert_eq!(limit(Some(200)).unwrap(), 200);
        assert!(limit(Some(0)).is_err() && limit(Some(201)).is_err() && limit(Some(u64::MAX)).is_err());
    }
}
