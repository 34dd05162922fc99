//! Gives each address one spelling before routes, caches and idempotency keys use it.
//!
//! Clients write one path in many ways (RFC 3986 §6.2.2): `%2D` for `-`, an id in capitals, without
//! hyphens, in braces. All of them name the same resource. An empty part (`//`, a slash at the end)
//! is not another spelling: no resource has such an address.

use std::borrow::Cow;

use poem::http::Uri;
use poem::http::uri::PathAndQuery;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// Rewrites the path of an address to its normal form.
pub(super) fn normalise(address: &mut Uri) {
    let Some(path) = normal(address.path()) else { return };
    let mut parts = std::mem::take(address).into_parts();
    let query = parts.path_and_query.as_ref().and_then(PathAndQuery::query);
    let written = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    // The result is a valid path: only longer spellings were replaced, by letters, digits, hyphens
    // and the like.
    if let Ok(written) = PathAndQuery::try_from(written) {
        parts.path_and_query = Some(written);
    }
    *address = Uri::from_parts(parts).unwrap_or_default();
}

/// The normal form of a path; none if the path has that form already, as nearly every one does.
fn normal(path: &str) -> Option<String> {
    if path.split('/').all(|part| matches!(part_of(part), Cow::Borrowed(_))) {
        return None;
    }
    Some(path.split('/').map(part_of).collect::<Vec<_>>().join("/"))
}

/// Characters besides letters and digits that need no escape in a path (RFC 3986 §2.3).
const UNRESERVED: &str = "-._~";
/// The same, and the characters in other spellings of ids.
const OF_IDS: &str = "-._~:{}";

/// The normal form of one part of a path.
fn part_of(part: &str) -> Cow<'_, str> {
    let id = decoded(part, OF_IDS);
    // An id has 32 characters alone, 36 with hyphens, 38 with braces and 45 as a URN.
    if matches!(id.len(), 32 | 36 | 38 | 45)
        && let Ok(id) = Uuid::try_parse(&id)
    {
        let mut buffer = [0; Hyphenated::LENGTH];
        let written = &*id.hyphenated().encode_lower(&mut buffer);
        return if written == part { Cow::Borrowed(part) } else { Cow::Owned(written.to_owned()) };
    }
    decoded(part, UNRESERVED)
}

/// Decodes the escapes of letters, digits and the characters in `plain`. Writes the others in
/// capitals.
fn decoded<'a>(part: &'a str, plain: &str) -> Cow<'a, str> {
    if !part.contains('%') {
        return Cow::Borrowed(part);
    }
    let mut written = String::with_capacity(part.len());
    let mut rest = part;
    while let Some((before, after)) = rest.split_once('%') {
        written.push_str(before);
        let hex = after.get(..2).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(hex) = hex else {
            written.push('%');
            rest = after;
            continue;
        };
        match u8::from_str_radix(hex, 16).map(char::from) {
            Ok(c) if c.is_ascii_alphanumeric() || plain.contains(c) => written.push(c),
            // An escape means the same in upper and lower case.
            _ => written.extend(["%", &hex.to_ascii_uppercase()]),
        }
        rest = &after[2..];
    }
    written.push_str(rest);
    if written == part { Cow::Borrowed(part) } else { Cow::Owned(written) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(address: &str) -> String {
        let mut address = address.parse().unwrap();
        normalise(&mut address);
        address.to_string()
    }

    #[test]
    fn spellings_of_one_path_become_one() {
        let usual = "/api/v1/drives/019ab000-0000-7000-8000-00000000d001/registrations/mine";
        for spelling in [
            usual.to_owned(),
            usual.replace("019ab000", "019AB000").replace("d001", "D001"),
            usual
                .replace("019ab000-0000-7000-8000-00000000d001", "019ab000000070008000 00000000d001")
                .replace(' ', ""),
            "/api/v1/drives/%7B019ab000-0000-7000-8000-00000000d001%7d/registrations/mine".to_owned(),
            "/api/v1/drives/urn:uuid:019ab000-0000-7000-8000-00000000d001/registrations/mine".to_owned(),
            "/api/v1/drives/urn%3Auuid%3a019ab000-0000-7000-8000-00000000d001/registrations/mine".to_owned(),
            "/api/v1/drives/019ab000%2D0000-7000%2d8000-00000000d001/registrations/mine".to_owned(),
            "/%61pi/v1/driv%65s/%30%31%39%61%62000-0000-7000-8000-00000000%4400%31/registrations/min%65"
                .to_owned(),
        ] {
            assert_eq!(normalised(&spelling), usual, "{spelling}");
        }
        assert_eq!(
            normalised("http://x.org/a/%62?q=%62"),
            "http://x.org/a/b?q=%62",
            "questions stay as they are"
        );
    }

    #[test]
    fn anything_else_stays_as_it_is() {
        for address in [
            "/",
            "/api/v1/drives",
            "/api/v1/drives/",
            "/api//v1",
            "/a%2Fb",
            "/%00",
            "/%FF",
            "/%",
            "/%2",
            "/%G1",
            "/a%20b?c=%2D",
            "/%7Bx%7D",
            "/a%3Ab",
            "/..%2F..",
            "*",
        ] {
            assert_eq!(normalised(address), address);
        }
        assert_eq!(normalised("/a%2fb"), "/a%2Fb");
    }
}
