//! Mail: [`make`] turns new messages of inboxes into mails, in the same transaction. The [`sender`]
//! claims due mails, writes their text ([`compose`]), and hands them to a mail server or a folder
//! ([`post`]). Several senders may run.

pub mod calendar;
pub mod compose;
pub mod post;
pub mod recipient;
pub mod sender;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use domain::clock::Timestamp;
use domain::id::DriveId;
use process::part::Environment;
use sea_orm::{DatabaseTransaction, DbErr};
use shared::config::{Mailing, Outlet, OutletArguments, PublicArguments, SenderArguments};
use shared::guard::caught_at_once;
use shared::inbox::New;
use shared::mail::{Kind, MOST_LATE, Mail, Source};
use shared::store::mails::{self, settings};
use shared::{failpoint, private};

use post::Post;
use sender::Sender;

/// Makes mails of new messages of inboxes, if their kind goes by mail and the member wants it.
/// `kinds` has the kind of each entry.
pub async fn make(
    tx: &DatabaseTransaction,
    now: Timestamp,
    kinds: &BTreeMap<(DriveId, u64), Kind>,
    messages: &[New],
) -> Result<(), DbErr> {
    let told: Vec<_> = messages
        .iter()
        .filter(|message| now - message.at <= MOST_LATE)
        .filter_map(|message| Some((message, *kinds.get(&(message.drive_id, message.sequence))?)))
        .collect();
    let members: BTreeSet<_> = told.iter().map(|(message, _)| message.member_id).collect();
    let preferences = settings::of_members(tx, &members).await?;
    let wanted = |message: &New, kind| {
        let Some(preferences) = preferences.get(&message.member_id) else { return Some(now) };
        let due = caught_at_once(|| {
            failpoint::hit_about("mail-making", &message.member_id);
            preferences.due(kind, now)
        });
        due.unwrap_or_else(|panic| {
            // A mail at a bad time is better than none.
            let member_id = message.member_id;
            tracing::error!(%member_id, %panic, "could not compute when a member wants mail; the mail is due now");
            Some(now)
        })
    };
    let mails: Vec<_> = told
        .into_iter()
        .filter_map(|(message, kind)| {
            let source = Source::Entry(message.drive_id, message.sequence);
            Some(Mail::new(message.member_id, source, kind, now, wanted(message, kind)?))
        })
        .collect();
    mails::insert(tx, &mails).await
}

/// Opens the configured outlet for mails. `None` if no mail is to be sent.
///
/// # Errors
/// If the configuration cannot be used.
pub fn open(
    data_dir: &Path,
    outlet: &OutletArguments,
    sender: &SenderArguments,
    public: &PublicArguments,
) -> anyhow::Result<Option<Post>> {
    let outlet = outlet.outlet(data_dir)?;
    if matches!(outlet, Outlet::Folder(_)) {
        private::check_folder("DATA_DIR", data_dir)?;
    }
    let public_url = public.url()?.unwrap_or("http://localhost:8000").to_owned();
    Post::open(&Mailing { outlet, from: sender.mail_from.clone(), public_url })
}

/// Sends mails until shutdown, unless `MAIL_URL` says `none:`.
pub async fn run(post: Option<Post>, environment: Environment) {
    let Environment { connections, shutdown, .. } = environment;
    match post {
        Some(post) => Sender::new(connections.db, post).run(&connections.parts, &shutdown).await,
        // Without an outlet, followers make no mails either.
        None => shutdown.cancelled().await,
    }
}
