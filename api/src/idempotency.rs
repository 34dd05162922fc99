//! The options of a write, which a client sends as headers.

use std::time::Duration;

use poem::http::HeaderMap;
use poem::{FromRequest, Request, RequestBody};

use crate::problem::Problem;

/// The longest idempotency key, in bytes.
pub(crate) const MAX_KEY: usize = 255;
/// The longest wait for a decision.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30);

/// The options of a write: `Idempotency-Key`
/// ([draft](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/)) and
/// `Prefer: wait` (RFC 7240).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Method, path and `Idempotency-Key`. The command's id is a function of these and the actor.
    pub(crate) key: Option<String>,
    /// How long to wait for the decision.
    pub(crate) wait: Option<Duration>,
}

impl WriteOptions {
    /// The options of a request that differs from others with its path and body by `what`.
    pub(crate) fn of_another(mut self, what: &str) -> Self {
        self.key = self.key.map(|key| format!("{what} {key}"));
        self
    }

    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let key = match headers.get("idempotency-key") {
            None => None,
            Some(value) => {
                let unusable = |why| Problem::idempotency_key_invalid().detail(why);
                let key = value.to_str().map_err(|_| unusable("it is not visible ASCII text"))?;
                if key.is_empty() || key.len() > MAX_KEY {
                    return Err(unusable("it is 1 to 255 characters long"));
                }
                Some(key.to_owned())
            }
        };
        // A preference that cannot be read is ignored (RFC 7240 §2).
        let preferences = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
        let wait = preferences.flat_map(|text| text.split([',', ';'])).find_map(|preference| {
            let (name, value) = preference.split_once('=')?;
            let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
            name.trim().eq_ignore_ascii_case("wait").then(|| Duration::from_secs(seconds).min(MAX_WAIT))
        });
        Ok(Self { key, wait })
    }
}

impl<'a> FromRequest<'a> for WriteOptions {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        let mut asked = Self::read(request.headers())?;
        // A key names one request: the same key on another path is another command.
        let path = request.original_uri().path();
        asked.key = asked.key.map(|key| format!("{} {path} {key}", request.method()));
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&str, &str)]) -> Result<WriteOptions, Problem> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(poem::http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        WriteOptions::read(&map)
    }

    #[test]
    fn a_preference_to_wait_is_understood_and_bounded() {
        let wait = |text| asked(&[("prefer", text)]).unwrap().wait.map(|wait| wait.as_secs());
        assert_eq!(wait("wait=5"), Some(5));
        assert_eq!(wait("respond-async, wait=7"), Some(7));
        assert_eq!(wait("Wait = \"3\""), Some(3));
        assert_eq!(wait("wait=99999"), Some(30));
        assert_eq!(wait("wait=-1"), None);
        assert_eq!(wait("wait"), None);
        assert_eq!(wait("return=minimal"), None);
    }

    #[test]
    fn an_idempotency_key_is_bounded() {
        assert_eq!(asked(&[]).unwrap(), WriteOptions::default());
        assert_eq!(asked(&[("idempotency-key", "click-1")]).unwrap().key.as_deref(), Some("click-1"));
        assert!(asked(&[("idempotency-key", "")]).is_err());
        assert!(asked(&[("idempotency-key", &"k".repeat(256))]).is_err());
        assert!(asked(&[("idempotency-key", &"k".repeat(255))]).is_ok());
    }
}
