//! The mail preferences of a member, and the unsubscribe link in mails. The API writes these rows
//! itself, like accounts.

use chrono::NaiveTime;
use chrono_tz::Tz;
use domain::id::{MailId, MemberId};
use domain::refusal::FieldError;
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::payload::Html;
use poem_openapi::{ApiResponse, OpenApi};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::mail::preferences::{Preferences, QuietHours};
use shared::mail::{Language, Topic};
use shared::store::mails::{self, settings};
use uuid::Uuid;

use super::Tags;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::context::Context;
use crate::html;
use crate::payload::Json;
use crate::problem::Problem;
use crate::timestamp::At;

/// The format of a time of day.
const TIME: &str = "%H:%M";

/// The time of day when mails that can wait are held back.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "QuietHours")]
struct QuietBody {
    /// The start, such as `22:00`.
    from: String,
    /// The end, such as `07:00`. It may be on the next day.
    until: String,
    /// An IANA time zone.
    time_zone: String,
}

/// The topics of mails that a member wants. Mails about what others do to a registration always
/// come: a place from the waiting list, a removal, a cancelled drive.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct MailTopics {
    /// The results of the member's own clicks. Absent means true.
    outcomes: Option<bool>,
    /// Reminders of something that begins soon. Absent means true.
    reminders: Option<bool>,
    /// Messages from organisers to the participants of a drive. Absent means true.
    messages: Option<bool>,
    /// For admins: the daily digest of a drive. Absent means true.
    digests: Option<bool>,
}

/// The mail preferences to save.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({
    "language": "hi",
    "mail": { "outcomes": true, "reminders": true, "messages": false, "digests": true },
    "quiet_hours": { "from": "22:00", "until": "07:00", "time_zone": "Asia/Kolkata" },
}))]
struct PreferencesRequest {
    /// `en`, `hi`, or another language in which organisers have written templates. Absent means
    /// `en`.
    language: Option<String>,
    mail: Option<MailTopics>,
    quiet_hours: Option<QuietBody>,
}

/// The mail preferences of a member.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Preferences")]
struct PreferencesObject {
    language: String,
    mail: MailTopics,
    quiet_hours: Option<QuietBody>,
    /// Since when mail servers have said that the mailbox does not exist. Muster sends nothing to
    /// it. Saving the preferences lets Muster try again.
    bounced_at: Option<At>,
}

impl From<Preferences> for PreferencesObject {
    fn from(wanted: Preferences) -> Self {
        let is_wanted = |topic| Some(!wanted.unwanted.contains(&topic));
        Self {
            mail: MailTopics {
                outcomes: is_wanted(Topic::Outcomes),
                reminders: is_wanted(Topic::Reminders),
                messages: is_wanted(Topic::Messages),
                digests: is_wanted(Topic::Digests),
            },
            quiet_hours: wanted.quiet_hours.map(|quiet| QuietBody {
                from: quiet.from.format(TIME).to_string(),
                until: quiet.until.format(TIME).to_string(),
                time_zone: quiet.zone.name().to_owned(),
            }),
            bounced_at: wanted.bounced_at.map(At),
            language: wanted.language.into(),
        }
    }
}

impl PreferencesRequest {
    fn read(self) -> Result<Preferences, Vec<FieldError>> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, detail: String| faults.push(FieldError::new(field, detail));
        let language = match self.language.map(|text| text.parse::<Language>()) {
            None => Language::default(),
            Some(Ok(language)) => language,
            Some(Err(error)) => {
                fault("language", error.to_string());
                Language::default()
            }
        };
        let quiet_hours = self.quiet_hours.and_then(|quiet| {
            let mut time = |field: &str, text: &str| {
                let time = NaiveTime::parse_from_str(text, TIME).ok();
                if time.is_none() {
                    fault(field, "a time of the day is written 22:00".to_owned());
                }
                time
            };
            let from = time("quiet_hours.from", &quiet.from);
            let until = time("quiet_hours.until", &quiet.until);
            let Ok(zone) = quiet.time_zone.parse::<Tz>() else {
                fault("quiet_hours.time_zone", "there is no such IANA zone".to_owned());
                return None;
            };
            Some(QuietHours { from: from?, until: until?, zone })
        });
        let said = |mail: MailTopics| [mail.outcomes, mail.reminders, mail.messages, mail.digests];
        let said = self.mail.map_or([None; 4], said);
        let topics =
            [Topic::Outcomes, Topic::Reminders, Topic::Messages, Topic::Digests].into_iter().zip(said);
        let unwanted = topics.filter(|(_, wanted)| *wanted == Some(false)).map(|(topic, _)| topic).collect();
        if faults.is_empty() {
            Ok(Preferences { language, unwanted, quiet_hours, bounced_at: None })
        } else {
            Err(faults)
        }
    }
}

/// A page for a person's browser.
#[derive(Debug, ApiResponse)]
enum Page {
    /// The page says what the link does, or what it did.
    #[oai(status = 200)]
    Page(Html<String>),
}

impl Page {
    fn new(text: &str) -> Self {
        Self::Page(Html(html::page(text)))
    }
}

/// Preferences.
#[derive(Debug)]
pub struct PreferencesRoutes;

#[OpenApi(tag = "Tags::Preferences")]
impl PreferencesRoutes {
    /// Read my mail preferences
    #[oai(path = "/me/preferences", method = "get", operation_id = "read-preferences")]
    async fn read(&self, cx: Data<&Context>, caller: Caller) -> Result<Json<PreferencesObject>, Problem> {
        Ok(Json(settings::of_member(&cx.db.read, caller.person()?).await?.into()))
    }

    /// Save my mail preferences
    ///
    /// Replaces all preferences: an absent field gets its default. The inbox gets every message,
    /// regardless of the preferences.
    #[oai(path = "/me/preferences", method = "put", operation_id = "save-preferences")]
    async fn save(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        body: JsonBody<PreferencesRequest>,
    ) -> Result<Json<PreferencesObject>, Problem> {
        let member_id = caller.person()?;
        let wanted = body.value.read().map_err(|faults| Problem::invalid_body().errors(faults))?;
        settings::save(cx.db.writer(), member_id, &wanted).await?;
        Ok(Json(wanted.into()))
    }

    /// Show what an unsubscribe link does
    ///
    /// A page for people. It changes nothing, because programs that check links open it too (RFC
    /// 8058). The link works for 90 days.
    #[oai(path = "/unsubscribe/:mail_id", method = "get", operation_id = "show-unsubscribe")]
    async fn ask(&self, cx: Data<&Context>, mail_id: Path<Uuid>) -> Result<Page, Problem> {
        let (_, topic) = cx.unsubscribing(mail_id.0).await?;
        Ok(Page::new(&format!(
            "<h1>No more mails?</h1><p>Mails about <b>{}</b> will not come any more. What others change about your \
             registrations still comes.</p><form method=\"post\"><button>Unsubscribe</button></form>",
            topic.as_str()
        )))
    }

    /// Unsubscribe from mails of this topic
    ///
    /// One click (RFC 8058): the mail's header `List-Unsubscribe` leads here. No login is needed.
    #[oai(path = "/unsubscribe/:mail_id", method = "post", operation_id = "unsubscribe")]
    async fn unsubscribe(&self, cx: Data<&Context>, mail_id: Path<Uuid>) -> Result<Page, Problem> {
        let (member_id, topic) = cx.unsubscribing(mail_id.0).await?;
        settings::unsubscribe(cx.db.writer(), member_id, topic).await?;
        Ok(Page::new(&format!(
            "<h1>Done</h1><p>Mails about <b>{}</b> will not come any more. Your preferences can bring them back.</p>",
            topic.as_str()
        )))
    }
}

impl Context {
    /// The member who got the mail, and the topic of the mail.
    async fn unsubscribing(&self, mail_id: Uuid) -> Result<(MemberId, Topic), Problem> {
        let mail = mails::find(&self.db.read, MailId(mail_id)).await?.ok_or_else(Problem::mail_not_found)?;
        let topic = mail.kind.topic().ok_or_else(Problem::mail_is_essential)?;
        Ok((mail.member_id, topic))
    }
}
