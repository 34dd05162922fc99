//! Mails, as organisers see them: their templates, and what came of them. The API's own rows; the mails are made by the inbox
//! follower and sent by the mail sender.

use domain::clock;
use domain::id::MailId;
use domain::refusal::FieldError;
use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};
use shared::mail::template::{Facts, LANGUAGES, Template};
use shared::mail::{self, Kind, Language};
use shared::store::mails::settings::{self, Written};
use shared::store::mails::{self};
use uuid::Uuid;

use crate::at::At;
use crate::auth::{Admin, Owner};
use crate::body::JsonBody;
use crate::context::Context;
use crate::page;
use crate::problem::Problem;
use crate::read::{Reading, Tagged, fresh};

/// The longest reason for a bounce, in bytes.
const MAX_REASON: usize = 500;

/// The text of mails.
#[derive(Debug, Object)]
#[oai(rename = "MailText", deny_unknown_fields)]
struct TextBody {
    /// One line.
    subject: String,
    /// Plain text.
    text: String,
    /// The same as HTML; left out, it is made of the text. What is filled in is escaped.
    html: Option<String>,
}

impl From<TextBody> for Template {
    fn from(body: TextBody) -> Self {
        Self { subject: body.subject, text: body.text, html: body.html }
    }
}

impl TextBody {
    /// The template, if nothing is wrong with it.
    fn checked(self) -> Result<Template, Problem> {
        let template = Template::from(self);
        let faults = template.faults();
        if faults.is_empty() { Ok(template) } else { Err(Problem::invalid_template().errors(faults)) }
    }
}

/// The template for one kind of mail in one language.
#[derive(Debug, Object)]
struct MailTemplate {
    /// `confirmed`, `waitlisted`, …
    kind: String,
    language: String,
    subject: String,
    text: String,
    /// Null: it is made of the text.
    html: Option<String>,
    /// When an organiser has written it; null: it is the one that Muster brings along.
    updated_at: Option<At>,
}

impl MailTemplate {
    fn new(kind: Kind, language: &Language, template: Template, updated_at: Option<At>) -> Self {
        let Template { subject, text, html } = template;
        let (kind, language) = (kind.as_str().to_owned(), language.to_string());
        Self { kind, language, subject, text, html, updated_at }
    }
}

/// All templates.
#[derive(Debug, Object)]
struct MailTemplateList {
    items: Vec<MailTemplate>,
    /// What templates may name: `{{ title }}`.
    names: Vec<String>,
    next_cursor: Option<String>,
}

/// A mail as somebody would get it.
#[derive(Debug, Object)]
struct MailPreview {
    subject: String,
    text: String,
    html: String,
}

/// Where a mail is.
#[derive(Debug, Clone, Copy, Enum)]
#[oai(rename_all = "snake_case")]
enum MailState {
    Pending,
    Sent,
    Bounced,
    Failed,
    Dropped,
}

impl From<mail::State> for MailState {
    fn from(state: mail::State) -> Self {
        match state {
            mail::State::Pending => Self::Pending,
            mail::State::Sent => Self::Sent,
            mail::State::Bounced => Self::Bounced,
            mail::State::Failed => Self::Failed,
            mail::State::Dropped => Self::Dropped,
        }
    }
}

/// A mail.
#[derive(Debug, Object)]
#[oai(rename = "Mail")]
struct MailObject {
    mail_id: Uuid,
    member_id: Uuid,
    /// The drive that it is about, if it is about one.
    drive_id: Option<Uuid>,
    /// The number of the event in the drive's log.
    sequence: Option<u64>,
    /// The webhook that it is about, if it is about one.
    webhook_id: Option<Uuid>,
    /// What it tells.
    kind: String,
    state: MailState,
    attempts: u32,
    created_at: At,
    /// When it is tried next, if it is pending; else since when it is as it is.
    at: At,
    /// What the mail server said, if it did not take it.
    error: Option<String>,
}

impl From<mail::Mail> for MailObject {
    fn from(mail: mail::Mail) -> Self {
        Self {
            mail_id: mail.id.0,
            member_id: mail.member_id.0,
            drive_id: mail.place().map(|(drive_id, _)| drive_id.0),
            sequence: mail.place().map(|(_, sequence)| sequence),
            webhook_id: match mail.source {
                mail::Source::Webhook(id) => Some(id.0),
                mail::Source::Entry(..) => None,
            },
            kind: mail.kind.as_str().to_owned(),
            state: mail.state.into(),
            attempts: mail.attempts,
            created_at: At(mail.created_at),
            at: At(mail.due_at),
            error: mail.error,
        }
    }
}

/// A page of mails.
#[derive(Debug, Object)]
struct MailList {
    /// Newest first.
    items: Vec<MailObject>,
    next_cursor: Option<String>,
}

/// A mail came back.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct BounceBody {
    /// What the report said.
    reason: String,
}

/// It is done.
#[derive(Debug, ApiResponse)]
enum Done {
    #[oai(status = 204)]
    Done,
}

fn kind_and_language(kind: &str, language: &str) -> Result<(Kind, Language), Problem> {
    let kind = Kind::from_word(kind).ok_or_else(|| {
        let words: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        Problem::parameter("kind", &format!("it needs to be one of {}", words.join(", ")))
    })?;
    let language = language.parse::<Language>();
    Ok((kind, language.map_err(|error| Problem::parameter("language", &error.to_string()))?))
}

/// Mails.
#[derive(Debug)]
pub struct MailRoutes;

#[OpenApi]
impl MailRoutes {
    /// List the templates of mails
    ///
    /// Of every kind and language: those that organisers have written, and those that Muster brings along. A member gets the
    /// one in their language, in that language without its region, or in English.
    #[oai(path = "/mail-templates", method = "get", operation_id = "list-mail-templates")]
    async fn templates(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        reading: Reading,
    ) -> Result<Tagged<MailTemplateList>, Problem> {
        let written = settings::templates(&cx.db.read).await?;
        let built_in = LANGUAGES.iter().flat_map(|language| {
            let language: Language = language.parse().expect("a test reads them");
            Kind::ALL.iter().filter_map(move |kind| {
                Some((*kind, language.clone(), Template::built_in(*kind, &language)?))
            })
        });
        let is_written = |kind: Kind, language: &Language| {
            written.iter().any(|one| one.kind == kind && one.language == *language)
        };
        let mut items: Vec<_> = built_in
            .filter(|(kind, language, _)| !is_written(*kind, language))
            .map(|(kind, language, template)| MailTemplate::new(kind, &language, template, None))
            .collect();
        items.extend(written.iter().map(|one| {
            MailTemplate::new(one.kind, &one.language, one.template.clone(), Some(At(one.updated_at)))
        }));
        items.sort_by(|one, other| (&one.language, &one.kind).cmp(&(&other.language, &other.kind)));
        let names = Facts::NAMES.map(ToOwned::to_owned).to_vec();
        Ok(Tagged::page(fresh(&MailTemplateList { items, names, next_cursor: None }), reading))
    }

    /// Write a template
    ///
    /// In the language of [Jinja](https://jinja.palletsprojects.com/en/stable/templates/). It is checked: what it names must
    /// be there, and it must come to something with everything and with as little as there can be.
    #[oai(path = "/mail-templates/:kind/:language", method = "put", operation_id = "save-mail-template")]
    async fn put(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        kind: Path<String>,
        language: Path<String>,
        body: JsonBody<TextBody>,
    ) -> Result<Json<MailTemplate>, Problem> {
        let (kind, language) = kind_and_language(&kind.0, &language.0)?;
        let template = body.value.checked()?;
        let written = Written { kind, language, template, updated_at: clock::now() };
        settings::put_template(cx.db.writer(), &written).await?;
        let Written { kind, language, template, updated_at } = written;
        Ok(Json(MailTemplate::new(kind, &language, template, Some(At(updated_at)))))
    }

    /// Delete a template
    ///
    /// The one that Muster brings along is used again, or the next best language.
    #[oai(path = "/mail-templates/:kind/:language", method = "delete", operation_id = "delete-mail-template")]
    async fn delete(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        kind: Path<String>,
        language: Path<String>,
    ) -> Result<Done, Problem> {
        let (kind, language) = kind_and_language(&kind.0, &language.0)?;
        if settings::delete_template(cx.db.writer(), kind, &language).await? {
            Ok(Done::Done)
        } else {
            Err(Problem::template_not_found())
        }
    }

    /// See what a template makes of a made-up person
    ///
    /// It is checked as if it were saved, and not saved.
    #[oai(path = "/mail-templates/preview", method = "post", operation_id = "preview-mail-template")]
    #[allow(clippy::unused_async, reason = "a route is")]
    async fn preview(&self, _admin: Admin, body: JsonBody<TextBody>) -> Result<Json<MailPreview>, Problem> {
        let template = body.value.checked()?;
        let [facts, _] = Facts::samples();
        let rendered =
            template.render(&facts).map_err(|fault| Problem::invalid_template().errors(vec![fault]))?;
        Ok(Json(MailPreview { subject: rendered.subject, text: rendered.text, html: rendered.html }))
    }

    /// List mails
    ///
    /// Newest first. Kept for 90 days.
    #[oai(path = "/mails", method = "get", operation_id = "list-mails")]
    async fn list(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        reading: Reading,
        state: Query<Option<MailState>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<MailList>, Problem> {
        let limit = page::limit(limit.0)?;
        let states = match state.0 {
            None => mail::State::ALL.to_vec(),
            Some(state) => {
                let is = |one: &mail::State| MailState::from(*one) as u8 == state as u8;
                mail::State::ALL.iter().copied().filter(is).collect()
            }
        };
        let words: Vec<_> = states.iter().map(|state| state.as_str()).collect();
        let pages = page::List::new(&cx.key, "mails", &words);
        let before = pages.position::<MailId>(cursor.0.as_deref())?;
        // Each state is read by itself; a mail must not change its state between two of them.
        let tx = cx.db.snapshot().await?;
        let mut found = mails::list(&tx, &states, before, limit + 1).await?;
        tx.commit().await?;
        let more = page::cut(&mut found, limit);
        let next_cursor = found.last().filter(|_| more).map(|last| pages.cursor(&last.id));
        let items = found.into_iter().map(Into::into).collect();
        Ok(Tagged::page(fresh(&MailList { items, next_cursor }), reading))
    }

    /// Report that a mail came back
    ///
    /// For whoever reads the answers to the address that mails are from (an admin or a service account): nothing more is sent
    /// to the member until they save their preferences. The id is in the mail's `Message-ID`.
    #[oai(path = "/mails/:mail_id/bounce", method = "post", operation_id = "report-bounce")]
    async fn bounce(
        &self,
        cx: Data<&Context>,
        _owner: Owner,
        mail_id: Path<Uuid>,
        body: JsonBody<BounceBody>,
    ) -> Result<Done, Problem> {
        let reason = body.value.reason;
        if reason.is_empty() || reason.len() > MAX_REASON {
            let fault = FieldError::new("reason", format!("it has 1 to {MAX_REASON} bytes"));
            return Err(Problem::invalid_body().errors(vec![fault]));
        }
        let id = MailId(mail_id.0);
        let mail = mails::find(&cx.db.read, id).await?.ok_or_else(Problem::mail_not_found)?;
        // A report that comes again must not undo what the member has said since.
        if mail.state == mail::State::Bounced {
            return Ok(Done::Done);
        }
        let now = clock::now();
        mails::bounce(cx.db.writer(), id, now, &reason).await?;
        settings::mailbox_is_gone(cx.db.writer(), mail.member_id, now).await?;
        Ok(Done::Done)
    }
}
