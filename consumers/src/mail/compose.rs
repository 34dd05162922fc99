//! Composes mails from the event, the drive and the member. This is pure.

use chrono_tz::Tz;
use domain::actor::Role;
use domain::clock::Timestamp;
use domain::drive::Status;
use domain::drive::change::Change;
use domain::drive::definition::{Definition, Slot};
use domain::drive::event::Event;
use domain::drive::registration::{Registration, RegistrationState};
use domain::drive::state::Drive;
use domain::id::SlotId;
use domain::text;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, Message, MultiPart, SinglePart};
use reqwest::Url;
use shared::mail::template::{Facts, Rendered, Template};
use shared::mail::{Kind, Language, Mail};
use shared::store::mails::settings::Written;
use shared::store::members::Listed;
use shared::webhook::{Disabled, Webhook};

use super::calendar::{Entry, Method};
use super::recipient::{self, NoRecipient};

/// The sender of mails, and the base of their links.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The sender.
    pub from: Mailbox,
    /// The URL of the members' API, without a slash at its end.
    pub public_url: String,
}

/// The template for a kind of mail in a language, or the nearest language.
#[must_use]
pub fn template(kind: Kind, language: &Language, written: &[Written]) -> Template {
    let own = |language: &Language| {
        let same = |one: &&Written| one.kind == kind && one.language == *language;
        written.iter().find(same).map(|one| one.template.clone())
    };
    language
        .fallbacks()
        .find_map(|language| own(&language).or_else(|| Template::built_in(kind, &language)))
        .expect("every kind is built in in English")
}

/// What a mail is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// What happened.
    pub event: &'a Event,
    /// The drive as it is now.
    pub drive: &'a Drive,
    /// The recipient.
    pub member: &'a Listed,
    /// Their registration as it is now, if they have or had one.
    pub registration: Option<&'a Registration>,
}

impl About<'_> {
    /// The slot of the event, or else of the member.
    fn slot(&self) -> Option<&Slot> {
        let own = || self.registration.map(|registration| registration.slot_id);
        let id = slot_of(self.event).or_else(own)?;
        self.drive.definition.slots.iter().find(|slot| slot.slot_id == id)
    }

    fn has_a_place(&self) -> bool {
        self.registration.is_some_and(|registration| registration.state == RegistrationState::Confirmed)
    }

    /// Whether the mail is still true. It may have waited, and a later mail may have told the
    /// member what changed.
    #[must_use]
    pub fn holds(&self, kind: Kind, now: Timestamp) -> bool {
        let state = self.registration.map(|registration| registration.state);
        let has_a_place = self.has_a_place();
        let takes_place = self.drive.status != Status::Cancelled;
        match (kind, self.event) {
            (Kind::Confirmed | Kind::Promoted, _) => takes_place && has_a_place,
            (Kind::Changed, _) => takes_place && state.is_some_and(RegistrationState::is_active),
            (Kind::Digested, _) => takes_place && self.member.role == Role::Admin,
            (Kind::Waitlisted, _) => takes_place && state == Some(RegistrationState::Waitlisted),
            (Kind::Reminded, Event::DriveReminded(reminded)) => {
                let (starts, _) = self.drive.definition.time_of(self.slot());
                takes_place && has_a_place && reminded.starts_at > now && starts == Some(reminded.starts_at)
            }
            _ => true,
        }
    }
}

/// The facts of a mail, before it is put into words.
#[derive(Debug)]
pub struct Said {
    facts: Facts,
    /// What changes in the member's calendar.
    calendar: Option<Entry>,
}

impl Said {
    /// About an entry of a drive's log.
    #[must_use]
    pub fn of_entry(about: &About<'_>, mail: &Mail) -> Self {
        Self { facts: facts(about), calendar: entry(mail, about) }
    }

    /// About a webhook that was switched off. `None` if it is on again.
    #[must_use]
    pub fn of_webhook(webhook: &Webhook, member: &Listed) -> Option<Self> {
        let why = webhook.disabled?.1;
        // For other reasons an organiser switched it off, and knows.
        if !matches!(why, Disabled::Failing | Disabled::Gone) {
            return None;
        }
        let title = if webhook.description.is_empty() {
            // Show only the host. The rest of the address may be a secret.
            Url::parse(&webhook.url).ok()?.host_str()?.to_owned()
        } else {
            line(&webhook.description)
        };
        let (name, reason) = (name(member), Some(why.as_str().to_owned()));
        let facts = Facts { name, title, reason, ..Facts::default() };
        Some(Self { facts, calendar: None })
    }
}

/// The facts about an entry.
fn facts(about: &About<'_>) -> Facts {
    let About { event, drive, member, .. } = about;
    let Drive { definition, .. } = drive;
    let zone = definition.time_zone;
    let slot = about.slot();
    let (starts, ends) = definition.time_of(slot);
    let (mut position, mut reason, mut rules) = (None, None, Vec::new());
    let (mut subject, mut message, mut digest, mut changed) = (None, None, None, Vec::new());
    match event {
        Event::RegistrationWaitlisted(waitlisted) => position = Some(waitlisted.position),
        Event::RegistrationRefused(refused) => {
            reason = Some(refused.code.title().to_owned());
            rules.extend(refused.failed.iter().map(|name| rule(definition, name)));
        }
        Event::DriveMessaged(messaged) => {
            subject = Some(line(&messaged.subject));
            message = Some(messaged.text.clone());
        }
        Event::DriveDigested(digested) => digest = Some(digested),
        Event::DriveCancelled(cancelled) => reason = Some(line(&cancelled.reason)),
        Event::DriveUpdated(updated) => {
            changed.extend(updated.changed.iter().map(|change| change.as_str().to_owned()));
        }
        _ => {}
    }
    Facts {
        name: name(member),
        title: line(&definition.title),
        venue: line(&definition.venue),
        slot: slot.map(|slot| line(&slot.name)).filter(|name| !name.is_empty()),
        starts: starts.map(|at| local(at, zone)),
        ends: ends.map(|at| local(at, zone)),
        time_zone: zone.name().to_owned(),
        position,
        reason,
        rules,
        subject,
        message,
        changed,
        confirmed: digest.map_or(0, |digest| digest.confirmed),
        waitlisted: digest.map_or(0, |digest| digest.waitlisted),
        confirmed_before: digest.map_or(0, |digest| digest.confirmed_before),
        waitlisted_before: digest.map_or(0, |digest| digest.waitlisted_before),
        unsubscribe: None,
    }
}

/// The message of a failed rule, as long as the drive has the rule.
fn rule(definition: &Definition, name: &str) -> String {
    let found = definition.rules.iter().find(|rule| rule.name == name);
    line(found.map_or(name, |rule| &rule.message))
}

/// Why a mail cannot be composed.
#[derive(Debug, thiserror::Error)]
pub enum NotComposed {
    /// The recipient's address cannot get mail.
    #[error(transparent)]
    Recipient(#[from] NoRecipient),
    /// Its parts do not make a message.
    #[error(transparent)]
    Message(#[from] lettre::error::Error),
}

/// The finished mail.
///
/// # Errors
/// If the member's address cannot get mail, or the parts do not make a message.
pub fn message(
    sender: &Sender,
    mail: &Mail,
    member: &Listed,
    Said { facts, calendar }: Said,
    template: &Template,
) -> Result<Message, NotComposed> {
    let address = recipient::address(&member.email)?;
    let envelope = recipient::envelope(&sender.from, address.clone());
    let calendar = calendar.map(|entry| (entry.method, entry.calendar(&sender.from, &address)));
    let to = Mailbox::new(Some(name(member)).filter(|name| !name.is_empty()), address);
    let unsubscribe =
        mail.kind.topic().map(|_| format!("{}/api/v1/unsubscribe/{}", sender.public_url, mail.id));
    let facts = Facts { unsubscribe: unsubscribe.clone(), ..facts };
    // The API checked it when it was saved. A template from another version of Muster may still
    // fail.
    let rendered = template.render(&facts).unwrap_or_else(|fault| {
        tracing::warn!(kind = mail.kind.as_str(), %fault.detail, "a template cannot be used; using the built-in one");
        let built_in = Template::built_in(mail.kind, &Language::default());
        built_in.and_then(|built_in| built_in.render(&facts).ok()).expect("a test renders it")
    });
    let Rendered { subject, text, html } = rendered;
    let mut builder = Message::builder()
        .envelope(envelope)
        .from(sender.from.clone())
        .to(to)
        .subject(subject)
        .date(mail.created_at.into())
        // Every attempt has the same id.
        .message_id(Some(format!("<{}@{}>", mail.id, sender.from.email.domain())))
        // https://www.rfc-editor.org/rfc/rfc3834: vacation responders must not answer a machine.
        .raw_header(header("Auto-Submitted", "auto-generated"));
    if let Some(unsubscribe) = unsubscribe {
        // https://www.rfc-editor.org/rfc/rfc8058
        builder = builder
            .raw_header(header("List-Unsubscribe", &format!("<{unsubscribe}>")))
            .raw_header(header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"));
    }
    let texts = MultiPart::alternative_plain_html(text, html);
    let composed = match calendar {
        Some((method, calendar)) => {
            let kind = format!("text/calendar; charset=utf-8; method={}", method.as_str());
            let kind = ContentType::parse(&kind).expect("it is one");
            // Mail programs offer the inline part themselves. Any recipient can open the
            // attachment.
            let inline = SinglePart::builder().header(kind.clone()).body(calendar.clone());
            let attached = Attachment::new("muster.ics".to_owned()).body(calendar, kind);
            builder.multipart(MultiPart::mixed().multipart(texts.singlepart(inline)).singlepart(attached))
        }
        None => builder.multipart(texts),
    };
    Ok(composed?)
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

/// The registration as an entry of a calendar. `None` if there is no date, or nothing changes.
fn entry(mail: &Mail, about: &About<'_>) -> Option<Entry> {
    let takes_place = mail.kind.calendar()?;
    let definition = &about.drive.definition;
    let (drive_id, sequence) = mail.place()?;
    let (starts, ends) = definition.time_of(about.slot());
    let method = match about.event {
        // A member on the waiting list has no entry.
        Event::DriveUpdated(_) if !about.has_a_place() => return None,
        // An entry needs a date.
        Event::DriveUpdated(updated) if starts.is_none() && updated.changed.contains(&Change::StartsAt) => {
            Method::Cancel
        }
        _ if starts.is_none() => return None,
        _ if takes_place => Method::Request,
        _ => Method::Cancel,
    };
    Some(Entry {
        method,
        of: (drive_id, mail.member_id),
        sequence,
        made_at: mail.created_at,
        starts,
        ends,
        title: definition.title.clone(),
        venue: definition.venue.clone(),
    })
}

fn slot_of(event: &Event) -> Option<SlotId> {
    match event {
        Event::RegistrationConfirmed(event) => Some(event.slot_id),
        Event::RegistrationWaitlisted(event) => Some(event.slot_id),
        Event::RegistrationPromoted(event) => Some(event.slot_id),
        Event::RegistrationWithdrawn(event) | Event::RegistrationRemoved(event) => Some(event.slot_id),
        _ => None,
    }
}

/// A stored text as one line. A text from before texts were checked may have any character.
fn line(text: &str) -> String {
    text::as_line(text).into_owned()
}

/// A person's name. Empty if it has no visible character.
fn name(member: &Listed) -> String {
    let name = line(&member.profile.name);
    if text::is_blank(&name) { String::new() } else { name }
}

fn local(at: Timestamp, zone: Tz) -> String {
    at.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string()
}

#[cfg(test)]
mod tests;
