//! The OpenAPI and AsyncAPI documents, and the pages that show OpenAPI documents.

use std::sync::{Arc, LazyLock};

use poem::endpoint::make_sync;
use poem::http::{HeaderValue, header};
use poem::{Response, Route, RouteMethod, get};
use poem_openapi::OpenApiService;

use super::methods::Methods;
use crate::html;

/// Adds a document, and the page that shows it.
pub(super) fn documented(
    route: Route,
    document: Arc<str>,
    [page, file]: [&'static str; 2],
    methods: &mut Methods,
) -> Route {
    methods.read(page);
    methods.read(file);
    let shown = document.clone();
    let answer = move |_| {
        let page = Response::builder().content_type("text/html; charset=utf-8");
        page.header(header::CONTENT_SECURITY_POLICY, &*POLICY).body(page_of(&shown))
    };
    route.at(page, get(make_sync(answer))).at(file, json_file(document))
}

/// Answers with a document.
pub(super) fn json_file(document: impl Into<Arc<str>>) -> RouteMethod {
    let document = document.into();
    get(make_sync(move |_| Response::builder().content_type("application/json").body(document.to_string())))
}

/// The page that shows a document. Its script has 3 MB and few clients ask for it, so it is built
/// for each request and not kept.
fn page_of(document: &str) -> String {
    let empty = OpenApiService::new((), "", "");
    empty.scalar_html().replace(&empty.spec(), document)
}

/// The policy of the page. Its one script adds styles, draws icons, and sends requests to this
/// server.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let page = page_of("");
    let rest = page.split_once("<script charset=\"UTF-8\">").expect("the page has a script").1;
    let script = html::source(rest.rsplit_once("</script>").expect("the script has an end").0);
    html::policy(&format!(
        "script-src '{script}'; style-src 'unsafe-inline'; img-src 'self' data: blob:; font-src data:; \
         connect-src 'self'"
    ))
});
