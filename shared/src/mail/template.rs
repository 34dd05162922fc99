//! The texts of mails: templates in the language of
//! [Jinja](https://jinja.palletsprojects.com/en/stable/templates/). They are checked when they are
//! saved, so that none fails when it is sent.

use domain::refusal::FieldError;
use domain::text;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, filters, tests};
use serde::Serialize;

use super::{Kind, Language};

/// The longest subject, in characters.
pub const MAX_SUBJECT: usize = 300;
/// The longest text, and the longest HTML, in characters. Both together fit in one JSON body,
/// unless most of their characters have four bytes or are escaped.
pub const MAX_TEXT: usize = 20_000;
/// The largest output of a template, in bytes. A template can have loops.
const MAX_RENDERED: usize = 200_000;
/// The most steps of a template's run.
const FUEL: u64 = 100_000;

/// The text of a mail of one kind in one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// One line.
    pub subject: String,
    /// Plain text.
    pub text: String,
    /// The same as HTML. Without it, Muster makes it from the text.
    pub html: Option<String>,
}

/// A mail's rendered text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// One line.
    pub subject: String,
    /// Plain text.
    pub text: String,
    /// HTML.
    pub html: String,
}

/// The variables of templates. Those that do not apply to a mail are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The member's name.
    pub name: String,
    /// The drive's title; for `webhook_disabled` the webhook's description, or its host.
    pub title: String,
    /// Where it is.
    pub venue: String,
    /// The name of the slot, if the drive has slots.
    pub slot: Option<String>,
    /// When it begins, in the drive's time zone: `2026-11-21 09:30`.
    pub starts: Option<String>,
    /// When it ends.
    pub ends: Option<String>,
    /// The drive's time zone.
    pub time_zone: String,
    /// For `waitlisted`: how many waited then, with this member.
    pub position: Option<u32>,
    /// For `refused` and `cancelled`: why. For `webhook_disabled`: `failing` or `gone`.
    pub reason: Option<String>,
    /// For `refused`: the messages of the rules that were not met.
    pub rules: Vec<String>,
    /// For `messaged`: what the message is about.
    pub subject: Option<String>,
    /// For `messaged`: what it says.
    pub message: Option<String>,
    /// For `changed`: what changed, of `starts_at`, `ends_at` and `venue`.
    pub changed: Vec<String>,
    /// For `digested`: how many hold a place.
    pub confirmed: u32,
    /// For `digested`: how many wait for one.
    pub waitlisted: u32,
    /// For `digested`: how many held a place by the digest before.
    pub confirmed_before: u32,
    /// For `digested`: how many waited for one by the digest before.
    pub waitlisted_before: u32,
    /// The link to unsubscribe from this kind of mail, if that is possible.
    pub unsubscribe: Option<String>,
}

impl Facts {
    /// The names that templates may use.
    pub const NAMES: [&str; 18] = [
        "name",
        "title",
        "venue",
        "slot",
        "starts",
        "ends",
        "time_zone",
        "position",
        "reason",
        "rules",
        "subject",
        "message",
        "changed",
        "confirmed",
        "waitlisted",
        "confirmed_before",
        "waitlisted_before",
        "unsubscribe",
    ];

    /// Two sample mails: one with all variables, and one with as few as possible.
    #[must_use]
    pub fn samples() -> [Self; 2] {
        let full = Self {
            name: "Asha Rao".to_owned(),
            title: "Blood drive at the town hall".to_owned(),
            venue: "Town hall, ground floor".to_owned(),
            slot: Some("Morning".to_owned()),
            starts: Some("2026-12-05 09:00".to_owned()),
            ends: Some("2026-12-05 12:30".to_owned()),
            time_zone: "Asia/Kolkata".to_owned(),
            position: Some(7),
            reason: Some("The member does not meet the drive's rules".to_owned()),
            rules: vec!["at least 18 years old".to_owned()],
            subject: Some("Bring your card".to_owned()),
            message: Some("Doors open at nine.".to_owned()),
            changed: ["starts_at", "ends_at", "venue"].map(ToOwned::to_owned).to_vec(),
            confirmed: 40,
            waitlisted: 7,
            confirmed_before: 32,
            waitlisted_before: 0,
            unsubscribe: Some("https://muster.example/api/v1/unsubscribe/0".to_owned()),
        };
        [full, Self { time_zone: "UTC".to_owned(), ..Self::default() }]
    }
}

macro_rules! built_in {
    ($($language:literal: $($kind:ident = $file:literal)*;)*) => {
        /// The languages of the built-in templates.
        pub const LANGUAGES: &[&str] = &[$($language,)*];

        fn file(kind: Kind, language: &str) -> Option<&'static str> {
            match (kind, language) {
                $($((Kind::$kind, $language) =>
                    Some(include_str!(concat!("templates/", $language, "/", $file, ".txt"))),)*)*
                _ => None,
            }
        }
    };
}

built_in! {
    "en":
        Confirmed = "confirmed" Waitlisted = "waitlisted" Refused = "refused" Promoted = "promoted"
        Withdrawn = "withdrawn" Removed = "removed" Cancelled = "cancelled"
        Changed = "changed" Reminded = "reminded" Digested = "digested" Messaged = "messaged"
        WebhookDisabled = "webhook_disabled";
    "hi":
        Confirmed = "confirmed" Waitlisted = "waitlisted" Refused = "refused" Promoted = "promoted"
        Withdrawn = "withdrawn" Removed = "removed" Cancelled = "cancelled"
        Changed = "changed" Reminded = "reminded" Digested = "digested" Messaged = "messaged"
        WebhookDisabled = "webhook_disabled";
}

impl Template {
    /// The built-in template: its subject on the first line, its text after an empty one.
    #[must_use]
    pub fn built_in(kind: Kind, language: &Language) -> Option<Self> {
        let (subject, text) = file(kind, language.as_str())?.split_once("\n\n")?;
        Some(Self { subject: subject.to_owned(), text: text.to_owned(), html: None })
    }

    /// All faults: it is too long, cannot be parsed, uses an unknown variable, or fails.
    #[must_use]
    pub fn faults(&self) -> Vec<FieldError> {
        let parts = [
            ("subject", Some(&self.subject), MAX_SUBJECT),
            ("text", Some(&self.text), MAX_TEXT),
            ("html", self.html.as_ref(), MAX_TEXT),
        ];
        let mut faults = Vec::new();
        for (field, source, most) in parts {
            let Some(source) = source else { continue };
            if text::is_blank(source) {
                faults.push(FieldError::new(field, "it is empty"));
            } else if text::is_longer(source, most) {
                faults.push(FieldError::new(field, format!("it has more than {most} characters")));
            } else if let Some(detail) =
                text::optional_line_fault(source, most).filter(|_| field == "subject")
            {
                faults.push(FieldError::new(field, detail));
            } else if let Err(fault) = check(field, source) {
                faults.push(fault);
            }
        }
        faults
    }

    /// Renders it.
    pub fn render(&self, facts: &Facts) -> Result<Rendered, FieldError> {
        let text = fill("text", &self.text, facts)?;
        let subject = fill("subject", &self.subject, facts)?;
        let html = match &self.html {
            Some(html) => fill("html", html, facts)?,
            None => as_html(&text),
        };
        // A subject is one line, whatever the variables hold.
        let subject = text::as_line(&subject);
        let subject = subject.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Rendered { subject, text, html })
    }
}

/// A template has the name of its field, and the values in `html` are escaped. There are only the
/// filters that texts need, and none with a large output.
fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(
        |name| {
            if name == "html" { AutoEscape::Html } else { AutoEscape::None }
        },
    );
    environment.add_filter("capitalize", filters::capitalize);
    environment.add_filter("default", filters::default);
    environment.add_filter("first", filters::first);
    environment.add_filter("join", filters::join);
    environment.add_filter("last", filters::last);
    environment.add_filter("length", filters::length);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("title", filters::title);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("upper", filters::upper);
    environment.add_test("defined", tests::is_defined);
    environment
}

fn check(field: &str, source: &str) -> Result<(), FieldError> {
    let environment = environment();
    let template =
        environment.template_from_named_str(field, source).map_err(|error| fault(field, &error))?;
    let mut unknown: Vec<_> = template
        .undeclared_variables(false)
        .into_iter()
        .filter(|name| !Facts::NAMES.contains(&name.as_str()))
        .collect();
    unknown.sort_unstable();
    if !unknown.is_empty() {
        let known = Facts::NAMES.join(", ");
        let detail = format!("there is no {}; there are {known}", unknown.join(", "));
        return Err(FieldError::new(field, detail));
    }
    Facts::samples().iter().try_for_each(|facts| fill(field, source, facts).map(drop))
}

fn fill(field: &str, source: &str, facts: &Facts) -> Result<String, FieldError> {
    let environment = environment();
    let mut out = Bounded { bytes: Vec::new(), field };
    let filled = environment
        .template_from_named_str(field, source)
        .and_then(|template| template.render_captured_to(Serde(facts), &mut out).map(drop));
    filled.map_err(|error| fault(field, &error))?;
    Ok(String::from_utf8_lossy(&out.bytes).into_owned())
}

/// A template's output, with a size limit.
struct Bounded<'a> {
    bytes: Vec<u8>,
    field: &'a str,
}

impl std::io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_RENDERED {
            let message = format!("{} comes to more than {MAX_RENDERED} bytes", self.field);
            return Err(std::io::Error::other(message));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn fault(field: &str, error: &Error) -> FieldError {
    let mut detail = error.kind().to_string();
    let more =
        [error.detail().map(ToOwned::to_owned), std::error::Error::source(error).map(ToString::to_string)];
    for part in more.into_iter().flatten() {
        detail = format!("{detail}: {part}");
    }
    let line = error.line().and_then(|line| u32::try_from(line).ok());
    FieldError { line, ..FieldError::new(field, detail) }
}

/// Paragraphs of a text as HTML.
fn as_html(text: &str) -> String {
    let mut html = String::from("<!doctype html>\n<html><head><meta charset=\"utf-8\"></head><body>\n");
    for paragraph in text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        let escaped = paragraph.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        html.push_str("<p>");
        html.push_str(&escaped.replace('\n', "<br>\n"));
        html.push_str("</p>\n");
    }
    html.push_str("</body></html>\n");
    html
}
