//! Decides the commands about members: changes of their own profiles, and organisers' imports.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::actor::Role;
use domain::attribute::Source;
use domain::command::{Command as _, CommandSet as _};
use domain::id::{CommandId, MemberId, id_at};
use domain::member::event::{MemberEvent, MemberUpdated, MembersImported};
use domain::member::import::{self, ImportOutcome, Table};
use domain::member::{EditMember, ImportMembers, MemberCommand, Profile, ProfileOutcome, UpdateProfile};
use domain::refusal::{Code, FieldError, Refusal};
use domain::stream::Stream;
use serde::Serialize;
use shared::bus::{CloudEvent, Envelope, Outgoing};
use shared::failure::{Failure, Reject};
use shared::files::{Files, FilesError};
use shared::ledger::{Outcome, Row, Status};
use shared::log::{self, Additions};
use shared::store::accounts::{self, Account, pending};
use shared::store::{members, streams};

use crate::batch::{Cx, Decided, Handler};
use crate::logged::{logged_events, with_events};

/// Decides the commands of members.
#[derive(Debug)]
pub struct Members {
    /// The uploaded files. A file never changes, so reading it is part of reading a batch.
    pub files: Files,
}

/// The most imports in a batch. The people of all of them are in memory at once.
const MAX_FILES: usize = 4;

/// The table of a file, or why the file cannot be imported.
type ReadFile = Result<Table, Refusal>;

impl Handler for Members {
    type Message = MemberCommand;

    async fn handle(&self, cx: &Cx<'_>, batch: &[Envelope<MemberCommand>]) -> Result<Vec<Decided>, Failure> {
        let mut files = HashMap::new();
        let mut left = MAX_FILES;
        for envelope in batch {
            if let MemberCommand::ImportMembers(command) = &envelope.body {
                if left == 0 {
                    // The runtime bisects the batch and tries the halves.
                    return Err(Reject::unstorable("more imports than fit into one batch").into());
                }
                left -= 1;
                files.insert(envelope.id, self.read(command).await?);
            }
        }
        let people = || files.values().flatten().flat_map(|table| &table.people);
        let emails: BTreeSet<String> = people().map(|person| person.email.clone()).collect();
        let emails: Vec<String> = emails.into_iter().collect();
        let known = accounts::ids_by_email(cx.tx, &emails).await?;
        let updated = batch.iter().filter_map(|envelope| match &envelope.body {
            MemberCommand::UpdateProfile(command) => Some(command.member_id),
            MemberCommand::EditMember(command) => Some(command.member_id),
            MemberCommand::ImportMembers(_) => None,
        });
        let ids: BTreeSet<MemberId> = known.values().copied().chain(updated).collect();
        // An import and a member's own change run on different lanes. So lock the accounts.
        let existing = accounts::hold(cx.tx, &ids).await?;
        let profiles = members::profiles(cx.tx, ids).await?;

        let heads =
            streams::heads(cx.tx, &batch.iter().map(|envelope| stream(&envelope.body)).collect()).await?;

        let profiles = profiles.into_iter().collect();
        let mut state = State { known, existing, profiles, ..State::default() };
        let mut additions = Additions::default();
        let mut decided = Vec::with_capacity(batch.len());
        for envelope in batch {
            let result = match &envelope.body {
                MemberCommand::UpdateProfile(command) => {
                    state.update(envelope.id, command).map(Happened::updated)
                }
                MemberCommand::EditMember(command) => state.edit(cx, command).map(Happened::updated),
                MemberCommand::ImportMembers(command) => match files.remove(&envelope.id) {
                    Some(Ok(table)) => {
                        Ok(Happened::imported(&state.import(cx, envelope.id, table, command.overrides)))
                    }
                    Some(Err(refusal)) => Err(refusal),
                    None => Err(Code::InvalidFile.into()),
                },
            };
            let stream = stream(&envelope.body);
            let (result, events) = match result {
                Ok(Happened { outcome, event }) => (Ok(outcome), vec![event]),
                Err(refusal) => (Err(refusal), Vec::new()),
            };
            let head = heads.get(&stream).copied().unwrap_or_default();
            let outcome = Outcome {
                stream: Some(stream),
                events: u32::from(!events.is_empty()),
                sequence: additions.add(stream, head, envelope.id, cx.now, events),
                ..Outcome::of(result)
            };
            decided.push(Decided { outcome, events: Vec::new() });
        }

        accounts::insert(cx.tx, &state.new_accounts).await?;
        let changed = state.changed.iter().filter_map(|id| Some((*id, state.profiles.get(id)?.clone())));
        members::save(cx.tx, &changed.collect(), cx.now).await?;
        let first = batch.iter().filter_map(|envelope| match &envelope.body {
            MemberCommand::UpdateProfile(command) => {
                command.is_first(envelope.id).then_some(command.member_id)
            }
            MemberCommand::EditMember(_) | MemberCommand::ImportMembers(_) => None,
        });
        settle(cx, first.collect()).await?;
        log::append(cx.tx, additions.entries.iter().map(|(entry, _)| entry)).await?;
        streams::advance(cx.tx, &heads, &additions.heads).await?;
        Ok(with_events(decided, additions))
    }

    async fn events_again(
        &self,
        cx: &Cx<'_>,
        rows: &[Row],
    ) -> Result<HashMap<CommandId, Vec<Outgoing>>, Failure> {
        // An older version may have decided a first profile, and left it pending.
        let first = rows.iter().filter(|row| row.kind == UpdateProfile::KIND);
        let first = first.map(|row| (row.id, MemberId(row.actor.id)));
        let first = first.filter(|(id, member_id)| *id == UpdateProfile::first_id(*member_id));
        settle(cx, first.map(|(_, member_id)| member_id).collect()).await?;
        let mut events = logged_events::<MemberEvent>(cx.tx, rows).await?;
        let unlogged = rows.iter().filter(|row| row.sequence.is_none());
        events.extend(unlogged.filter_map(|row| Some((row.id, vec![event_without_log(row)?]))));
        Ok(events)
    }
}

/// The stream that a command is about.
fn stream(command: &MemberCommand) -> Stream {
    MemberId(command.lane_key()).into()
}

/// Deletes the pending first profiles of these members, because they are decided. It does not
/// matter whether they were accepted or refused.
async fn settle(cx: &Cx<'_>, first: Vec<MemberId>) -> Result<(), Failure> {
    if first.is_empty() {
        return Ok(());
    }
    pending::delete(cx.tx, &first).await?;
    shared::failpoint::hit("first-profile-decided");
    Ok(())
}

impl Members {
    async fn read(&self, command: &ImportMembers) -> Result<ReadFile, Failure> {
        match self.files.get(&command.file).await {
            Ok(bytes) => Ok(import::read(&bytes, command.charset.as_deref())),
            Err(FilesError { missing: true, .. }) => {
                let error = FieldError::new("file", "the file is not there any more; upload it again");
                Ok(Err(Refusal::new(Code::InvalidFile).with_errors(vec![error])))
            }
            Err(error) => Err(Failure::retry(error)),
        }
    }
}

/// The members as this batch changes them.
#[derive(Default)]
struct State {
    known: HashMap<String, MemberId>,
    /// The members who have an account.
    existing: BTreeSet<MemberId>,
    profiles: BTreeMap<MemberId, Profile>,
    changed: BTreeSet<MemberId>,
    new_accounts: Vec<Account>,
}

impl State {
    fn update(&mut self, id: CommandId, command: &UpdateProfile) -> Result<MemberUpdated, Refusal> {
        let faults = command.faults();
        if !faults.is_empty() {
            return Err(Refusal::new(Code::InvalidProfile).with_errors(faults));
        }
        let mut profile = self.profiles.get(&command.member_id).cloned().unwrap_or_default();
        if command.is_first(id) {
            profile.begin(command)?;
        } else {
            profile.update(command)?;
        }
        self.profiles.insert(command.member_id, profile);
        self.changed.insert(command.member_id);
        let attributes = command.attributes.keys().cloned().collect();
        Ok(MemberUpdated { member_id: command.member_id, source: None, attributes })
    }

    fn edit(&mut self, cx: &Cx<'_>, command: &EditMember) -> Result<MemberUpdated, Refusal> {
        let faults = command.faults();
        if !faults.is_empty() {
            return Err(Refusal::new(Code::InvalidProfile).with_errors(faults));
        }
        if !self.existing.contains(&command.member_id) {
            return Err(Code::MemberNotFound.into());
        }
        self.profiles.entry(command.member_id).or_default().edit(command, cx.now)?;
        self.changed.insert(command.member_id);
        let attributes = command.set.keys().chain(&command.absent).chain(&command.release).cloned().collect();
        Ok(MemberUpdated { member_id: command.member_id, source: Some(Source::Organiser), attributes })
    }

    fn import(
        &mut self,
        cx: &Cx<'_>,
        id: CommandId,
        Table { people, report }: Table,
        overrides: bool,
    ) -> ImportOutcome {
        let mut outcome = report;
        for person in people {
            let known = self.known.get(&person.email).copied();
            let mut profile = known.and_then(|id| self.profiles.get(&id).cloned()).unwrap_or_default();
            let imported = match profile.import(&person, cx.now, overrides) {
                Ok(imported) => imported,
                Err(detail) => {
                    outcome.reject(person.line, "attributes-too-many", &detail);
                    continue;
                }
            };
            outcome.hold(person.line, &imported.held);
            match known {
                None => outcome.imported += 1,
                Some(_) if imported.has_changed => outcome.updated += 1,
                Some(_) => outcome.unchanged += 1,
            }
            let member_id = known.unwrap_or_else(|| self.add(cx, id, person.email));
            if imported.has_changed || known.is_none() {
                self.profiles.insert(member_id, profile);
                self.changed.insert(member_id);
            }
        }
        outcome.finish();
        outcome
    }

    /// Adds a person who can be given a way to log in later.
    fn add(&mut self, cx: &Cx<'_>, id: CommandId, email: String) -> MemberId {
        let member_id = MemberId(id_at(cx.now, &cx.random_for(id, email.as_bytes())));
        self.known.insert(email.clone(), member_id);
        self.existing.insert(member_id);
        let (role, created_at) = (Role::Member, cx.now);
        self.new_accounts.push(Account { id: member_id, email, role, password_hash: None, created_at });
        member_id
    }
}

/// The result of a command that was not refused.
struct Happened {
    outcome: serde_json::Value,
    event: MemberEvent,
}

impl Happened {
    fn updated(updated: MemberUpdated) -> Self {
        let outcome = to_json(&ProfileOutcome { member_id: updated.member_id });
        Self { outcome, event: MemberEvent::MemberUpdated(updated) }
    }

    fn imported(outcome: &ImportOutcome) -> Self {
        let event = MembersImported { imported: outcome.imported, updated: outcome.updated };
        Self { outcome: to_json(outcome), event: MemberEvent::MembersImported(event) }
    }
}

fn to_json(outcome: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(outcome).expect("an outcome is plain data")
}

/// The event of a command that was decided before members had logs. It is the same event that the
/// older version published.
fn event_without_log(row: &Row) -> Option<Outgoing> {
    let outcome = row.result.as_ref().filter(|_| row.status == Status::Succeeded)?;
    let event = match row.kind.as_str() {
        UpdateProfile::KIND => MemberEvent::MemberUpdated(serde_json::from_value(outcome.clone()).ok()?),
        ImportMembers::KIND => MemberEvent::MembersImported(serde_json::from_value(outcome.clone()).ok()?),
        _ => return None,
    };
    let event = CloudEvent::without_log(row.id, 0, row.decided_at, event);
    let bytes = event.to_bytes();
    Some(event.message(bytes))
}
