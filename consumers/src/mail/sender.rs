//! Sends due mails in rounds. Several senders may run.
//!
//! A sender claims a mail by an update that makes it due again only after the lease. So no other
//! sender takes it meanwhile. If the sender dies, the mail is sent again with the same
//! `Message-ID`. The sender writes the result only while the lease holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;
use std::time::Duration;

use domain::clock::{self, Timestamp};
use domain::id::MailId;
use domain::text::with_causes;
use shared::store::{drives, members, webhooks};

use futures_util::StreamExt as _;
use lettre::message::Message;
use process::parts::{Parts, supervise};
use sea_orm::DbErr;
use shared::backoff::{Backoff, Outage};
use shared::bus::CloudEvent;
use shared::cause::Cause;
use shared::database::Database;
use shared::failure::{Failure, Reject};
use shared::guard::{Panicked, caught, caught_at_once};
use shared::mail::{MOST_LATE, Mail, Source, State, next_attempt};
use shared::store::mails::{self, settings};
use shared::store::registrations;
use shared::{failpoint, log};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::compose::{self, About, Said};
use super::post::{self, Post, Refused};

/// Rounds at a time. A server that is slow with one mail delays only its round.
const ROUNDS: usize = 4;
/// Mails of a round. Each has a connection of its own.
const TOGETHER: usize = 8;
/// The lease: longer than a whole round and the writing of its results can take.
const LEASE: Duration = post::PATIENCE.saturating_add(Duration::from_mins(5));
/// How long to wait before the next look when nothing was due.
const LOOK: Duration = Duration::from_secs(1);
/// Timeout of a step on the database.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most attempts to write a round's results. They take some minutes, as long as the lease.
const WRITES: u32 = 30;
/// How long to wait at shutdown for mails on their way.
const FAREWELL: Duration = Duration::from_secs(5);

/// Sends due mails.
#[derive(Debug)]
pub struct Sender {
    db: Database,
    post: Post,
    /// Rounds that claim at the same time would claim the same mails.
    claiming: Mutex<()>,
    /// The present outage of the mail server.
    outage: std::sync::Mutex<Outage>,
}

/// What happens to a claimed mail.
#[derive(Debug)]
enum Next {
    Send(Box<Message>),
    /// It is settled without sending.
    Settled,
}

impl Sender {
    /// A sender.
    #[must_use]
    pub fn new(db: Database, post: Post) -> Self {
        Self { db, post, claiming: Mutex::new(()), outage: std::sync::Mutex::default() }
    }

    /// Sends until shutdown. A bug in one round does not stop the others.
    pub async fn run(&self, parts: &Parts, shutdown: &CancellationToken) {
        let rounds = (0..ROUNDS).map(|_| supervise("mail-sender", parts, shutdown, || self.rounds(shutdown)));
        futures_util::future::join_all(rounds).await;
    }

    async fn rounds(&self, shutdown: &CancellationToken) {
        let (mut backoff, mut clock) = (Backoff::default(), clock::SetBack::watch(clock::now()));
        let mut is_back = false;
        while !shutdown.is_cancelled() {
            failpoint::hit("mail-looking");
            let now = clock::now();
            is_back |= clock.is_noticed(now);
            if is_back {
                let forward = mails::bring_forward(self.db.writer(), now, now, now + LEASE).await;
                match forward {
                    Ok(mails) => {
                        is_back = false;
                        tracing::warn!(mails, "the clock was set back; mails are due by the new time");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "could not reschedule mails after the clock was set back; trying again");
                    }
                }
            }
            match self.round(now, shutdown).await {
                Ok(0) => {
                    backoff = Backoff::default();
                    shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await;
                }
                Ok(_) => backoff = Backoff::default(),
                Err(error) => {
                    if backoff.failures() == 0 {
                        tracing::warn!(error = %with_causes(&error), "could not claim or write mails; trying again");
                    }
                    shutdown.run_until_cancelled(backoff.wait()).await;
                }
            }
        }
    }

    /// Sends some mails that are due at `now`, and writes the results. Returns their number.
    ///
    /// # Errors
    /// If the database fails. Mails that were sent without a written result are sent again, with
    /// the same id.
    pub async fn round(&self, now: Timestamp, shutdown: &CancellationToken) -> Result<usize, Failed> {
        let lease = Uuid::now_v7();
        let claimed = {
            let _alone = self.claiming.lock().await;
            self.in_time(self.claim(lease, now)).await?
        };
        if claimed.is_empty() {
            return Ok(0);
        }
        let count = claimed.len();
        let composed = self.compose(claimed, now).await;
        let settled = self.send(composed, now, shutdown).await;
        failpoint::hit("mail-sent");
        let (mut backoff, mut left) = (Backoff::default(), vec![settled.as_slice()]);
        while let Err(error) = self.record_all(lease, &mut left).await {
            if backoff.failures() == 0 {
                tracing::warn!(error = %with_causes(&error), "could not write the results of mails; trying again");
            }
            if backoff.failures() >= WRITES || shutdown.is_cancelled() {
                return Err(error);
            }
            shutdown.run_until_cancelled(backoff.wait()).await;
        }
        self.note(&settled);
        for mail in settled.iter().filter(|mail| mail.state == State::Bounced) {
            settings::mailbox_is_gone(self.db.writer(), mail.member_id, now)
                .await
                .unwrap_or_else(|error| tracing::warn!(%error, "could not store that a mailbox is gone"));
        }
        Ok(count)
    }

    async fn in_time<T>(&self, step: impl Future<Output = Result<T, DbErr>>) -> Result<T, Failed> {
        let Ok(done) = tokio::time::timeout(PATIENCE, caught(step)).await else {
            self.db.did_not_answer();
            return Err(Failed::NotNow(Cause::new("the database did not answer in time")));
        };
        match done {
            Ok(done) => done.map_err(|error| match Failure::from(error) {
                Failure::Reject(reject) => Failed::Never(reject),
                Failure::Retry(why) | Failure::Contended(why) => Failed::NotNow(why),
            }),
            Err(panic) => Err(Failed::Bug(panic)),
        }
    }

    /// Claims due mails.
    async fn claim(&self, lease: Uuid, now: Timestamp) -> Result<Vec<Mail>, DbErr> {
        let mut ids = mails::due(&self.db.read, now, TOGETHER as u64).await?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // Always in the same order, so that two senders never wait for each other.
        ids.sort_unstable();
        let tx = self.db.begin().await?;
        let mails = mails::claim(&tx, &ids, lease, now, now + LEASE).await?;
        tx.commit().await?;
        Ok(mails)
    }

    /// Writes the texts. If reading for all mails fails, it tries each mail alone, so that none
    /// waits for another. A mail at which Muster panics fails for good, because it would panic each
    /// time.
    async fn compose(&self, mails: Vec<Mail>, now: Timestamp) -> Vec<(Mail, Next)> {
        if let Ok(composed) = self.in_time(self.compose_all(&mails, now)).await {
            return composed;
        }
        let mut all = Vec::with_capacity(mails.len());
        for mail in mails {
            match self.in_time(self.compose_all(std::slice::from_ref(&mail), now)).await {
                Ok(composed) => all.extend(composed),
                Err(Failed::Bug(panic)) => all.push((given_up(mail, &panic, now), Next::Settled)),
                Err(failed) => {
                    let error = with_causes(&failed);
                    tracing::warn!(mail_id = %mail.id, error, "could not compose a mail; it stays due");
                    all.push((settled(mail, Err(Refused::NotNow(error)), now), Next::Settled));
                }
            }
        }
        all
    }

    async fn compose_all(&self, mails: &[Mail], now: Timestamp) -> Result<Vec<(Mail, Next)>, DbErr> {
        let db = &self.db.read;
        let places = || mails.iter().filter_map(Mail::place);
        let (of, to) = (
            places().map(|(drive_id, _)| drive_id).collect(),
            mails.iter().map(|mail| mail.member_id).collect(),
        );
        let members = members::by_ids(db, mails.iter().map(|mail| mail.member_id)).await?;
        let drives = drives::by_ids(db, places().map(|(drive_id, _)| drive_id)).await?;
        let drives: HashMap<_, _> = drives.into_iter().map(|view| (view.id, view.drive)).collect();
        let standing = registrations::standing(db, &of, &to).await?.into_iter();
        let standing: HashMap<_, _> =
            standing.map(|(drive_id, row)| ((drive_id, row.member_id), row)).collect();
        let wanted = settings::of_members(db, &to).await?;
        let written = settings::templates(db).await?;
        let places = places().map(|(drive_id, sequence)| (drive_id.into(), sequence, 1));
        let entries = log::ranges(db, places).await?.into_iter().filter_map(|entry| {
            let event = serde_json::from_slice::<CloudEvent>(&entry.bytes).ok()?;
            Some(((entry.stream.drive()?, entry.head.sequence), event))
        });
        let entries: HashMap<_, _> = entries.collect();
        let mut webhooks = HashMap::new();
        for mail in mails {
            if let Source::Webhook(id) = mail.source {
                webhooks.insert(id, webhooks::find(db, id, None).await?);
            }
        }
        let said = |mail: &Mail| match mail.source {
            Source::Entry(drive_id, sequence) => {
                let event = &entries.get(&(drive_id, sequence))?.event;
                let registration = standing.get(&(drive_id, mail.member_id));
                let (drive, member) = (drives.get(&drive_id)?, members.get(&mail.member_id)?);
                let about = About { event, drive, member, registration };
                about.holds(mail.kind, now).then(|| Said::of_entry(&about, mail))
            }
            Source::Webhook(id) => {
                let webhook = webhooks.get(&id)?.as_ref()?;
                Said::of_webhook(webhook, members.get(&mail.member_id)?)
            }
        };
        let compose = |mail: &Mail| {
            let preferences = wanted.get(&mail.member_id).cloned().unwrap_or_default();
            let end = |state, error| (Mail { state, error, due_at: now, ..mail.clone() }, Next::Settled);
            // Since the mail was made, the member may have unsubscribed, or the mailbox may be
            // gone.
            let (member, due_at) = (members.get(&mail.member_id), preferences.due(mail.kind, now));
            let (Some(said), Some(member), Some(due_at)) = (said(mail), member, due_at) else {
                return end(State::Dropped, mail.error.clone());
            };
            if now - mail.created_at > MOST_LATE {
                let state = if mail.error.is_some() { State::Failed } else { State::Dropped };
                return end(state, mail.error.clone());
            }
            if due_at > now {
                // The member's quiet hours have begun meanwhile.
                return (Mail { due_at, ..mail.clone() }, Next::Settled);
            }
            let template = compose::template(mail.kind, &preferences.language, &written);
            match compose::message(&self.post.sender, mail, member, said, &template) {
                Ok(message) => (mail.clone(), Next::Send(Box::new(message))),
                Err(error) => end(State::Failed, Some(with_causes(&error))),
            }
        };
        let guarded = |mail: &Mail| {
            let composed = caught_at_once(|| {
                let address = members.get(&mail.member_id).map_or("", |member| member.email.as_str());
                failpoint::hit_about("mail-composing", &address);
                compose(mail)
            });
            composed.unwrap_or_else(|panic| (given_up(mail.clone(), &panic, now), Next::Settled))
        };
        Ok(mails.iter().map(guarded).collect())
    }

    /// Sends. After shutdown it begins no mail, and waits a little for mails on their way.
    async fn send(
        &self,
        composed: Vec<(Mail, Next)>,
        now: Timestamp,
        shutdown: &CancellationToken,
    ) -> Vec<Mail> {
        let last_call = async {
            shutdown.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        let sending = futures_util::stream::iter(composed).map(|(mail, next)| async move {
            match next {
                Next::Settled => mail,
                // Due again at once, for the next sender.
                Next::Send(_) if shutdown.is_cancelled() => Mail { due_at: now, ..mail },
                Next::Send(message) => {
                    let sending = async {
                        failpoint::hit("mail-sending");
                        self.post.send(mail.id, &message).await
                    };
                    match caught(sending).await {
                        Ok(sent) => settled(mail, sent, now),
                        // The server may have accepted it. Each repetition could reach the member
                        // again.
                        Err(panic) => given_up(mail, &panic, now),
                    }
                }
            }
        });
        // Send the whole round at once, so that no mail waits for one that hangs.
        sending.buffer_unordered(TOGETHER).take_until(Box::pin(last_call)).collect().await
    }

    /// Writes the results of `left`, together or in parts. If they cannot be written together, it
    /// writes each alone, so that a sent mail is not sent again because of another one.
    async fn record_all(&self, lease: Uuid, left: &mut Vec<&[Mail]>) -> Result<(), Failed> {
        let (mut later, mut result) = (Vec::new(), Ok(()));
        while let Some(some) = left.pop() {
            match self.in_time(self.record(lease, some)).await {
                Ok(()) => {}
                Err(Failed::NotNow(why)) => {
                    later.push(some);
                    result = Err(Failed::NotNow(why));
                }
                Err(_) if some.len() > 1 => left.extend(some.chunks(1)),
                Err(failed) => {
                    let (mail_id, error) = (some.first().map(|mail| mail.id), with_causes(&failed));
                    tracing::error!(
                        ?mail_id,
                        error,
                        "could not write the result of a mail; it will be sent again"
                    );
                }
            }
        }
        *left = later;
        result
    }

    /// Logs once that the mail server accepts no mails, and once that it does again.
    fn note(&self, settled: &[Mail]) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if settled.iter().any(|mail| matches!(mail.state, State::Sent | State::Bounced)) {
            if let Some(seconds) = outage.ends() {
                tracing::info!(seconds, "the mail server accepts mails again");
            }
        } else if let Some(error) = settled.iter().find_map(|mail| mail.error.as_ref())
            && settled.iter().all(|mail| mail.state == State::Pending)
            && outage.begins()
        {
            tracing::warn!(error, "the mail server does not accept mails; trying again");
        }
    }

    /// Writes the results of mails, one statement per kind of result.
    async fn record(&self, lease: Uuid, settled: &[Mail]) -> Result<(), DbErr> {
        let mut ends: BTreeMap<_, (&Mail, Vec<MailId>)> = BTreeMap::new();
        for mail in settled {
            let end = (mail.state, mail.attempts, mail.due_at, &mail.error);
            ends.entry(end).or_insert((mail, Vec::new())).1.push(mail.id);
        }
        let tx = self.db.begin().await?;
        for (outcome, ids) in ends.into_values() {
            mails::settle(&tx, ids, lease, outcome).await?;
        }
        tx.commit().await?;
        for mail in settled {
            metrics::counter!("muster_mails_total", "state" => mail.state.as_str()).increment(1);
        }
        Ok(())
    }
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// A later attempt may succeed.
    #[error(transparent)]
    NotNow(Cause),
    /// The database will never store or return it.
    #[error(transparent)]
    Never(Reject),
    /// Muster panicked.
    #[error(transparent)]
    Bug(Panicked),
}

/// A mail at which Muster panicked. It fails for good.
fn given_up(mail: Mail, panic: &Panicked, now: Timestamp) -> Mail {
    tracing::error!(mail_id = %mail.id, %panic, "Muster panicked at a mail; it fails for good");
    settled(mail, Err(Refused::Never(panic.to_string())), now)
}

/// The mail after an attempt with this result.
fn settled(mail: Mail, sent: Result<(), Refused>, now: Timestamp) -> Mail {
    let attempts = mail.attempts + 1;
    let mail = Mail { attempts, due_at: now, ..mail };
    match sent {
        Ok(()) => Mail { state: State::Sent, error: None, ..mail },
        Err(Refused::NoMailbox(why)) => Mail { state: State::Bounced, error: Some(why), ..mail },
        Err(Refused::Never(why)) => Mail { state: State::Failed, error: Some(why), ..mail },
        Err(Refused::NotNow(why)) => {
            let jitter = rand::random_range(0.0..=1.0);
            let error = Some(why);
            match next_attempt(mail.created_at, attempts, now, jitter) {
                Some(due_at) => Mail { due_at, error, ..mail },
                None => Mail { state: State::Failed, error, ..mail },
            }
        }
    }
}
