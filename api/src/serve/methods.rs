//! The methods of each address, for the answer to OPTIONS and for `Allow` in a 405 (RFC 9110
//! §15.5.6).

use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse as _, Response};
use serde_json::Value as Json;

use crate::problem::Problem;

/// The methods of every address.
#[derive(Debug, Default)]
pub(super) struct Methods(Vec<(String, Vec<&'static str>)>);

/// All methods that an address can have, in the order of `Allow`.
const KNOWN: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

impl Methods {
    /// Adds an address that has only GET.
    pub(super) fn read(&mut self, path: &str) {
        self.0.push((path.to_owned(), vec!["GET"]));
    }

    /// Adds the addresses of an OpenAPI document, which begin with `prefix`.
    pub(super) fn documented(&mut self, prefix: &str, document: &str) {
        let document: Json = serde_json::from_str(document).expect("the document is JSON");
        for (path, operations) in document["paths"].as_object().into_iter().flatten() {
            let has = |method: &&str| operations.get(method.to_ascii_lowercase()).is_some();
            self.0.push((format!("{prefix}{path}"), KNOWN.into_iter().filter(has).collect()));
        }
    }

    /// The value of `Allow` for this address; none if the address does not exist.
    pub(super) fn allowed(&self, path: &str) -> Option<HeaderValue> {
        let mut found: Vec<_> = self
            .0
            .iter()
            .filter(|(pattern, _)| fits(pattern, path))
            .flat_map(|(_, methods)| methods)
            .collect();
        if found.is_empty() {
            return None;
        }
        found.sort_by_key(|method| KNOWN.iter().position(|known| known == *method));
        found.dedup();
        let mut text: Vec<&str> = found.into_iter().copied().collect();
        if text.contains(&"GET") {
            text.insert(1, "HEAD");
        }
        text.push("OPTIONS");
        HeaderValue::from_str(&text.join(", ")).ok()
    }

    /// The answer to OPTIONS.
    pub(super) fn options(&self, path: &str) -> Response {
        let allowed = if path == "*" {
            Some(HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
        } else {
            self.allowed(path)
        };
        match allowed {
            Some(methods) => {
                Response::builder().status(StatusCode::NO_CONTENT).header(header::ALLOW, methods).finish()
            }
            None => Problem::not_found().into_response(),
        }
    }
}

/// Whether a path matches a pattern. A part in braces matches any text except an empty one.
fn fits(pattern: &str, path: &str) -> bool {
    let (mut parts, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (parts.next(), given.next()) {
            (None, None) => return true,
            (Some(part), Some(given)) if part == given || part.starts_with('{') && !given.is_empty() => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_methods_of_its_pattern() {
        let mut methods = Methods::default();
        methods.read("/health");
        let document = r#"{"paths":{"/drives":{"get":{},"post":{}},"/drives/{id}":{"get":{},"patch":{}},"/x":{"delete":{}}}}"#;
        methods.documented("/admin/v1", document);
        let allowed = |path: &str| methods.allowed(path).map(|text| text.to_str().unwrap().to_owned());
        assert_eq!(allowed("/health").as_deref(), Some("GET, HEAD, OPTIONS"));
        assert_eq!(allowed("/admin/v1/drives").as_deref(), Some("GET, HEAD, POST, OPTIONS"));
        assert_eq!(allowed("/admin/v1/drives/7").as_deref(), Some("GET, HEAD, PATCH, OPTIONS"));
        assert_eq!(allowed("/admin/v1/x").as_deref(), Some("DELETE, OPTIONS"));
        for nothing in ["/admin/v1/drives/", "/admin/v1/drives/7/8", "/drives", ""] {
            assert_eq!(allowed(nothing), None, "{nothing}");
        }
    }
}
