//! The page at `/`, for people who open the address in a browser. It says what Muster is, what to
//! do first, and where to read on.

use poem::endpoint::make_sync;
use poem::http::header;
use poem::{Endpoint, Response};

use super::{Audience, Surfaces};
use crate::html;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Answers with the page.
pub(super) fn endpoint(surfaces: Surfaces, audience: Audience) -> impl Endpoint<Output = Response> + 'static {
    let page = page(surfaces, audience);
    make_sync(move |_| {
        Response::builder()
            .content_type("text/html; charset=utf-8")
            .header(header::CACHE_CONTROL, "no-cache")
            .body(page.clone())
    })
}

fn page(surfaces: Surfaces, audience: Audience) -> String {
    let members = surfaces != Surfaces::Admins;
    let admins = surfaces != Surfaces::Members;
    let mut first = Vec::new();
    let mut links = Vec::new();
    if members {
        first.push(
            "<strong>Log in.</strong> Send the e-mail address and the password to \
             <code>POST /api/v1/auth/login</code>. The first start made an admin: its log says which address that is, \
             and in which file the password is.",
        );
        links.push("<a href=\"/docs\">The API for members</a>: sign up, register, withdraw, follow");
    } else {
        first.push(
            "<strong>Log in.</strong> The API for members does that: send the e-mail address and the password to its \
             <code>POST /api/v1/auth/login</code>. The first start made an admin: its log says which address that is, \
             and in which file the password is.",
        );
    }
    if admins {
        first.push(
            "<strong>Make a drive.</strong> Create it with <code>POST /admin/v1/drives</code> and publish it with \
             <code>POST /admin/v1/drives/{drive_id}/publish</code>.",
        );
    } else {
        first.push(
            "<strong>Make a drive.</strong> The API for organisers does that; another process serves it.",
        );
    }
    if admins && audience.has_operators() {
        links.push("<a href=\"/admin/docs\">The API for organisers</a>: drives, members, webhooks, mails");
    }
    if members {
        first.push(
            "<strong>Register.</strong> Members do so with \
             <code>POST /api/v1/drives/{drive_id}/registrations</code>. The receipt comes at once, and the decision \
             soon after.",
        );
    }
    if audience.has_operators() {
        links.extend([
            "<a href=\"/asyncapi.json\">The events</a>, for programs that follow what is decided",
            "<a href=\"/health/full\">Health</a> of this process and of what it needs",
        ]);
    }
    links.push(
        "More documentation is in the folder <code>docs</code> of the source code; begin with <code>README.md</code>",
    );
    html::page(&format!(
        "<h1>Muster</h1>\n<p>Version {VERSION}</p>\n\
         <p>Many people sign up for few places here. Every click gets a receipt, and every receipt gets exactly one \
         decision.</p>\n<h2>What to do first</h2>\n<ol>\n{}</ol>\n<h2>Read on</h2>\n<ul>\n{}</ul>\n",
        items(&first),
        items(&links),
    ))
}

fn items(texts: &[&str]) -> String {
    texts.iter().flat_map(|text| ["<li>", text, "</li>\n"]).collect()
}
