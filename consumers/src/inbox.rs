//! Fills the members' inboxes from the drives' logs.

use domain::clock::Timestamp;
use domain::drive::event::Event;
use domain::drive::message::Audience;
use domain::drive::reminder::Beginning;
use domain::id::SlotId;
use sea_orm::DatabaseTransaction;
use shared::bus::{CloudEvent, Notice};
use shared::failure::Failure;
use shared::inbox::New;
use shared::mail;
use shared::store::{accounts, inbox as inboxes, registrations};

use crate::follow::{Follower, LoggedEvent};
use crate::mail::make;

/// Fills the inboxes.
#[derive(Debug)]
pub struct Inbox {
    /// Whether new messages are also sent by mail.
    pub mails: bool,
}

impl Follower for Inbox {
    const NAME: &'static str = "inbox";
    type Event = Event;

    async fn take(
        &self,
        tx: &DatabaseTransaction,
        now: Timestamp,
        entries: &[LoggedEvent],
    ) -> Result<Notice, Failure> {
        let mut messages = Vec::with_capacity(entries.len());
        // The digests of many drives come at the same time of day, so read the admins once for all.
        let digested = |entry: &LoggedEvent| matches!(entry.event.event, Event::DriveDigested(_));
        let admins = if entries.iter().any(digested) { accounts::admins(tx).await? } else { Vec::new() };
        for entry in entries {
            let message = |member_id| New {
                member_id,
                drive_id: entry.drive_id(),
                sequence: entry.sequence,
                at: entry.event.time,
            };
            let event = &entry.event.event;
            if let Some(member_id) = entry.event.subject {
                messages.push(message(member_id));
            } else if digested(entry) {
                messages.extend(admins.iter().copied().map(message));
            } else if let Some(audience) = audience(event) {
                let members = registrations::members_in(tx, entry.drive_id(), audience.states()).await?;
                let concerned = members.into_iter().filter(|(_, slot_id)| concerns(event, *slot_id));
                messages.extend(concerned.map(|(member_id, _)| message(member_id)));
            }
        }
        let ends = inboxes::put(tx, &messages).await?;
        if self.mails {
            let kinds = entries.iter().filter_map(|entry| {
                Some(((entry.drive_id(), entry.sequence), mail::Kind::of(&entry.event.event)?))
            });
            make(tx, now, &kinds.collect(), &messages).await?;
        }
        Ok(Notice { logs: Vec::new(), inboxes: ends.into_iter().collect() })
    }

    fn is_large(event: &CloudEvent) -> bool {
        audience(&event.event).is_some()
    }
}

/// The members whom an event about a whole drive concerns. `None` for other events.
fn audience(event: &Event) -> Option<Audience> {
    match event {
        Event::DriveCancelled(_) => Some(Audience::All),
        Event::DriveReminded(event) => (event.kind == Beginning::Start).then_some(Audience::Confirmed),
        Event::DriveMessaged(event) => Some(event.to),
        Event::DriveUpdated(event) => (!event.changed.is_empty()).then_some(Audience::All),
        // An event about one member goes to that member. Members see the others on the drive.
        Event::DriveCreated(_)
        | Event::DrivePublished(_)
        | Event::DriveOpened(_)
        | Event::DriveClosed(_)
        | Event::DriveReopened(_)
        | Event::DriveDigested(_)
        | Event::DriveRefused(_)
        | Event::RegistrationConfirmed(_)
        | Event::RegistrationWaitlisted(_)
        | Event::RegistrationPromoted(_)
        | Event::RegistrationMoved(_)
        | Event::RegistrationAnswersChanged(_)
        | Event::RegistrationWithdrawn(_)
        | Event::RegistrationRemoved(_)
        | Event::RegistrationCheckedIn(_)
        | Event::RegistrationCheckInUndone(_)
        | Event::RegistrationRefused(_) => None,
    }
}

/// Whether the event concerns the members of this slot.
fn concerns(event: &Event, slot_id: SlotId) -> bool {
    match event {
        Event::DriveReminded(event) => event.concerns(slot_id),
        Event::DriveUpdated(event) => event.concerns(slot_id),
        _ => true,
    }
}
