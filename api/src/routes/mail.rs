//! Mails, as organisers see them: their templates and their states. The API writes the templates
//! and bounces. The inbox follower makes the mails, and the mail sender sends them.

use domain::clock;
use domain::id::{DriveId, MailId, MemberId, WebhookId};
use domain::refusal::FieldError;
use domain::text::is_longer;
use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::{ApiResponse, OpenApi};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::mail::template::{Facts, LANGUAGES, MAX_SUBJECT, MAX_TEXT, Template};
use shared::mail::{self, Kind, Language, NoLanguage};
use shared::store::mails::settings::{self, Written};
use shared::store::mails::{self};
use uuid::Uuid;

use super::Tags;
use crate::auth::{Admin, Owner};
use crate::body::JsonBody;
use crate::context::Context;
use crate::page::{self, Page};
use crate::payload::Json;
use crate::problem::Problem;
use crate::read::{Reading, Tagged, fresh};
use crate::schema::Word;
use crate::timestamp::At;

/// The longest reason for a bounce, in characters.
const MAX_REASON: usize = 500;

/// The texts of a template.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({
    "subject": "{{ title }}: you have a place",
    "text": "Hello {{ name }},\n\nyour place is confirmed.",
}))]
struct MailText {
    /// One line.
    #[schemars(length(min = 1, max = MAX_SUBJECT))]
    subject: String,
    /// Plain text.
    #[schemars(length(min = 1, max = MAX_TEXT))]
    text: String,
    /// The same text as HTML. Absent means that it is made from the plain text. Values that are
    /// filled in are escaped.
    #[schemars(length(min = 1, max = MAX_TEXT))]
    html: Option<String>,
}

impl From<MailText> for Template {
    fn from(body: MailText) -> Self {
        Self { subject: body.subject, text: body.text, html: body.html }
    }
}

impl MailText {
    /// The template, if it has no faults.
    fn checked(self) -> Result<Template, Problem> {
        let template = Template::from(self);
        let faults = template.faults();
        if faults.is_empty() { Ok(template) } else { Err(Problem::invalid_template().errors(faults)) }
    }
}

/// The template for one kind of mail in one language.
#[derive(Debug, Serialize, JsonSchema)]
struct MailTemplate {
    kind: Kind,
    language: String,
    subject: String,
    text: String,
    /// The HTML text. Null means that it is made from the plain text.
    html: Option<String>,
    /// When an organiser wrote the template. Null means that it is one that comes with Muster.
    updated_at: Option<At>,
}

impl MailTemplate {
    fn new(kind: Kind, language: &Language, template: Template, updated_at: Option<At>) -> Self {
        let Template { subject, text, html } = template;
        let language = language.to_string();
        Self { kind, language, subject, text, html, updated_at }
    }
}

/// All templates.
#[derive(Debug, Serialize, JsonSchema)]
struct MailTemplateList {
    items: Vec<MailTemplate>,
    /// The names that a template may use, such as `{{ title }}`.
    names: Vec<String>,
    next_cursor: Option<String>,
}

/// A mail as a member would get it.
#[derive(Debug, Serialize, JsonSchema)]
struct MailPreview {
    subject: String,
    text: String,
    html: String,
}

/// A mail.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Mail")]
struct MailObject {
    mail_id: MailId,
    member_id: MemberId,
    /// The drive that the mail is about, if any.
    drive_id: Option<DriveId>,
    /// The number of the event in the drive's log.
    sequence: Option<u64>,
    /// The webhook that the mail is about, if any.
    webhook_id: Option<WebhookId>,
    kind: Kind,
    state: mail::State,
    attempts: u32,
    created_at: At,
    /// When the next attempt is due, if the mail is pending. Otherwise, when the mail got its
    /// state.
    at: At,
    /// What the mail server answered, if it did not accept the mail.
    error: Option<String>,
}

impl From<mail::Mail> for MailObject {
    fn from(mail: mail::Mail) -> Self {
        Self {
            mail_id: mail.id,
            member_id: mail.member_id,
            drive_id: mail.place().map(|(drive_id, _)| drive_id),
            sequence: mail.place().map(|(_, sequence)| sequence),
            webhook_id: match mail.source {
                mail::Source::Webhook(id) => Some(id),
                mail::Source::Entry(..) => None,
            },
            kind: mail.kind,
            state: mail.state,
            attempts: mail.attempts,
            created_at: At(mail.created_at),
            at: At(mail.due_at),
            error: mail.error,
        }
    }
}

/// A report that a mail bounced.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "reason": "550 5.1.1 no such user" }))]
struct BounceReport {
    /// What the report said.
    #[schemars(length(min = 1, max = MAX_REASON))]
    reason: String,
}

/// It is done.
#[derive(Debug, ApiResponse)]
enum Done {
    #[oai(status = 204)]
    Done,
}

fn parsed_language(language: &str) -> Result<Language, Problem> {
    language.parse().map_err(|error: NoLanguage| Problem::parameter("language", &error.to_string()))
}

/// Mails.
#[derive(Debug)]
pub struct MailRoutes;

#[OpenApi(tag = "Tags::Mails")]
impl MailRoutes {
    /// List mail templates
    ///
    /// The templates of every kind and language: those that organisers have written, and those that
    /// come with Muster. A member gets the template in their language, else in that language
    /// without its region, else in English.
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

    /// Save a template
    ///
    /// The language is [Jinja](https://jinja.palletsprojects.com/en/stable/templates/). Muster
    /// checks the template: every name must exist. It must render with all values, and with as few
    /// as there can be.
    #[oai(path = "/mail-templates/:kind/:language", method = "put", operation_id = "save-mail-template")]
    async fn put(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        kind: Path<Word<Kind>>,
        language: Path<String>,
        body: JsonBody<MailText>,
    ) -> Result<Json<MailTemplate>, Problem> {
        let (Word(kind), language) = (kind.0, parsed_language(&language.0)?);
        let template = body.value.checked()?;
        let written = Written { kind, language, template, updated_at: clock::now() };
        settings::put_template(cx.db.writer(), &written).await?;
        let Written { kind, language, template, updated_at } = written;
        Ok(Json(MailTemplate::new(kind, &language, template, Some(At(updated_at)))))
    }

    /// Delete a template
    ///
    /// Members then get the template that comes with Muster, or one in the next best language.
    #[oai(path = "/mail-templates/:kind/:language", method = "delete", operation_id = "delete-mail-template")]
    async fn delete(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        kind: Path<Word<Kind>>,
        language: Path<String>,
    ) -> Result<Done, Problem> {
        let (Word(kind), language) = (kind.0, parsed_language(&language.0)?);
        if settings::delete_template(cx.db.writer(), kind, &language).await? {
            Ok(Done::Done)
        } else {
            Err(Problem::template_not_found())
        }
    }

    /// Preview a template
    ///
    /// Renders a template for a fictitious member. Muster checks it as if it were saved, but does
    /// not save it.
    #[oai(path = "/mail-templates/preview", method = "post", operation_id = "preview-mail-template")]
    #[allow(clippy::unused_async, reason = "a route is")]
    async fn preview(&self, _admin: Admin, body: JsonBody<MailText>) -> Result<Json<MailPreview>, Problem> {
        let template = body.value.checked()?;
        let [facts, _] = Facts::samples();
        let rendered =
            template.render(&facts).map_err(|fault| Problem::invalid_template().errors(vec![fault]))?;
        Ok(Json(MailPreview { subject: rendered.subject, text: rendered.text, html: rendered.html }))
    }

    /// List mails
    ///
    /// Newest first. Mails are kept for 90 days.
    #[oai(path = "/mails", method = "get", operation_id = "list-mails")]
    async fn list(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        reading: Reading,
        state: Query<Option<Word<mail::State>>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<Page<MailObject>>, Problem> {
        let limit = page::limit(limit.0)?;
        let states = state.0.map_or_else(|| mail::State::ALL.to_vec(), |Word(state)| vec![state]);
        let words: Vec<_> = states.iter().map(|state| state.as_str()).collect();
        let pages = page::List::new(&cx.key, "mails", &words);
        let before = pages.position::<MailId>(cursor.0.as_deref())?;
        // A snapshot, because each state has a statement of its own, and a mail must not change its
        // state between two of them.
        let tx = cx.db.snapshot().await?;
        let found = mails::list(&tx, &states, before, limit + 1).await?;
        tx.commit().await?;
        let list = Page::of(found, limit, |last| pages.cursor(&last.id), MailObject::from);
        Ok(Tagged::page(fresh(&list), reading))
    }

    /// Report that a mail bounced
    ///
    /// For the program that reads the mailbox of the sender's address, as an admin or a service
    /// account. Muster sends nothing more to the member until they save their preferences. The id
    /// is in the mail's `Message-ID`.
    #[oai(path = "/mails/:mail_id/bounce", method = "post", operation_id = "report-bounce")]
    async fn bounce(
        &self,
        cx: Data<&Context>,
        _owner: Owner,
        mail_id: Path<Uuid>,
        body: JsonBody<BounceReport>,
    ) -> Result<Done, Problem> {
        let reason = body.value.reason;
        if reason.is_empty() || is_longer(&reason, MAX_REASON) {
            let fault = FieldError::new("reason", format!("it has 1 to {MAX_REASON} characters"));
            return Err(Problem::invalid_body().errors(vec![fault]));
        }
        let id = MailId(mail_id.0);
        let mail = mails::find(&cx.db.read, id).await?.ok_or_else(Problem::mail_not_found)?;
        // A repeated report must not overwrite what the member has saved since.
        if mail.state == mail::State::Bounced {
            return Ok(Done::Done);
        }
        let (now, tx) = (clock::now(), cx.db.begin().await?);
        mails::bounce(&tx, id, now, &reason).await?;
        settings::mailbox_is_gone(&tx, mail.member_id, now).await?;
        tx.commit().await?;
        Ok(Done::Done)
    }
}
