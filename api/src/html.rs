//! Pages for people: one style, and a policy by which the browser loads and runs nothing else.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::hash::sha256;
use poem::http::HeaderValue;

/// The only style of these pages. They have no script.
const STYLE: &str = ":root{color-scheme:light dark;font:1rem/1.6 system-ui,sans-serif}\
body{max-width:40rem;margin:0 auto;padding:2rem 1rem}\
h1{margin-bottom:0}li{margin:.5rem 0}code{font-size:.95em;overflow-wrap:anywhere}";

/// A whole page with this content.
pub(crate) fn page(content: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Muster</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n{content}</body>\n</html>\n"
    )
}

/// The policy of these pages. It holds even if foreign markup got into a page.
pub(crate) static POLICY: LazyLock<HeaderValue> =
    LazyLock::new(|| policy(&format!("style-src '{}'; form-action 'self'", source(STYLE))));

/// A policy that allows no more than these directives. No page may be in a frame of another one.
pub(crate) fn policy(allowed: &str) -> HeaderValue {
    let text = format!("default-src 'none'; {allowed}; base-uri 'none'; frame-ancestors 'none'");
    HeaderValue::try_from(text).expect("a policy is ASCII")
}

/// The source of a policy that allows exactly this script or style.
pub(crate) fn source(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(sha256(text.as_bytes())))
}
