//! Lists: pages with opaque cursors, and the `Link` to the next one (RFC 8288).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::text::is_longer;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::keys::KeyRing;

use crate::problem::Problem;

/// The largest page that a client may ask for, in items.
pub const MAX_LIMIT: u64 = 200;
/// The default size of a page, in items.
const DEFAULT_LIMIT: u64 = 50;
/// The longest cursor that a client may send, in bytes.
pub(crate) const MAX_CURSOR: usize = 512;
/// The longest search text, in characters.
pub(crate) const MAX_SEARCH: usize = 200;

/// One page of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// The `cursor` of the next page; null on the last page.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page from `found`, which has one item more than `limit` if there is a next page.
    /// `cursor` returns the cursor that continues after an item.
    pub fn of<F>(
        mut found: Vec<F>,
        limit: u64,
        cursor: impl FnOnce(&F) -> String,
        item: impl FnMut(F) -> T,
    ) -> Self {
        let more = cut(&mut found, limit);
        let next_cursor = found.last().filter(|_| more).map(cursor);
        Self { items: found.into_iter().map(item).collect(), next_cursor }
    }

    /// A page with all items of a list.
    #[must_use]
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}

/// The size of a page: what the client asks for, or the default. Fails outside of 1 to
/// [`MAX_LIMIT`].
pub fn limit(asked: Option<u64>) -> Result<u64, Problem> {
    match asked {
        None => Ok(DEFAULT_LIMIT),
        Some(limit @ 1..=MAX_LIMIT) => Ok(limit),
        Some(_) => {
            Err(Problem::parameter("limit", &format!("it needs to be a whole number from 1 to {MAX_LIMIT}")))
        }
    }
}

/// The trimmed search text; none if it is empty. Fails if it is too long or contains U+0000.
pub fn search_text(asked: Option<String>) -> Result<Option<String>, Problem> {
    match asked.map(|text| text.trim().to_owned()) {
        Some(text) if is_longer(&text, MAX_SEARCH) => {
            Err(Problem::parameter("q", &format!("it has at most {MAX_SEARCH} characters")))
        }
        Some(text) if text.contains('\0') => {
            Err(Problem::parameter("q", "it must not contain the character U+0000"))
        }
        other => Ok(other.filter(|text| !text.is_empty())),
    }
}

/// A list with its filter, as a client asks for it. Its cursors are valid for this list and this
/// filter only.
#[derive(Debug)]
pub struct List<'a> {
    key: &'a KeyRing,
    /// The list's name and filter, serialised.
    question: Vec<u8>,
}

impl<'a> List<'a> {
    /// The list `name`; no two lists share a name. `filter` contains everything that selects or
    /// orders the items, such as the drive, the state and the search text. It does not contain the
    /// size of the page.
    #[must_use]
    pub fn new(key: &'a KeyRing, name: &'static str, filter: &impl Serialize) -> Self {
        let question = serde_json::to_vec(&(name, filter)).expect("a filter is plain data");
        Self { key, question }
    }

    /// The cursor that continues after the item at `position`.
    #[must_use]
    pub fn cursor(&self, position: &impl Serialize) -> String {
        let position = serde_json::to_vec(position).expect("a position is plain data");
        URL_SAFE_NO_PAD.encode([&self.code(&position)[..], &position].concat())
    }

    /// Reads a cursor that [`cursor`](Self::cursor) wrote. Refuses any other text: a cursor of
    /// another list or filter, a changed one, or one of another deployment.
    pub fn position<T: DeserializeOwned>(&self, cursor: Option<&str>) -> Result<Option<T>, Problem> {
        let Some(cursor) = cursor else { return Ok(None) };
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(cursor).ok().filter(|_| cursor.len() <= MAX_CURSOR)?;
            let (code, position) = bytes.split_first_chunk()?;
            (*code == self.code(position)).then(|| serde_json::from_slice(position).ok()).flatten()
        };
        read().map(Some).ok_or_else(Problem::invalid_cursor)
    }

    /// A code over the list, its filter and a position. Only this deployment can make it.
    fn code(&self, position: &[u8]) -> [u8; 12] {
        let code = self.key.code(&[b"cursor ", &self.question[..], b" ", position].concat());
        *code.first_chunk().expect("a code is longer")
    }
}

/// Cuts a list that was read with one item more than the page has. Returns whether there is a next
/// page.
pub fn cut<T>(items: &mut Vec<T>, limit: u64) -> bool {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";

    #[test]
    fn a_cursor_continues_the_list_and_filter_that_made_it_and_nothing_else() {
        let key = KeyRing::of_signing_key(KEY).unwrap();
        let list = List::new(&key, "drives", &("open", None::<&str>));
        let made = list.cursor(&("2026", 7));
        let read =
            |list: &List<'_>, cursor: &str| list.position::<(String, u32)>(Some(cursor)).ok().flatten();
        assert_eq!(read(&list, &made), Some(("2026".to_owned(), 7)));
        assert_eq!(list.position::<(String, u32)>(None).unwrap(), None);
        let others = [
            List::new(&key, "all-drives", &("open", None::<&str>)),
            List::new(&key, "drives", &("closed", None::<&str>)),
            List::new(&key, "drives", &("open", Some("blood"))),
        ];
        for other in &others {
            assert_eq!(read(other, &made), None, "{other:?}");
        }
        for (place, letter) in made.char_indices() {
            let mut changed = made.clone();
            changed.replace_range(place..=place, if letter == 'A' { "B" } else { "A" });
            assert_eq!(read(&list, &changed), None, "{changed}");
            assert_eq!(read(&list, &made[..place]), None);
        }
        for broken in ["", "?", "e30", "bnVsbA", &format!("{made}A"), &made.repeat(2), &"A".repeat(100_000)] {
            assert_eq!(read(&list, broken), None, "{broken}");
        }
        assert_eq!(read(&list, &list.cursor(&7)), None, "of an older version");
    }

    #[test]
    fn a_limit_is_bounded() {
        assert_eq!(limit(None).unwrap(), DEFAULT_LIMIT);
        assert_eq!(limit(Some(200)).unwrap(), 200);
        assert!(limit(Some(0)).is_err() && limit(Some(201)).is_err() && limit(Some(u64::MAX)).is_err());
    }
}
