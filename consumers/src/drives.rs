//! Decides the commands about drives. A lane has all commands of a drive, in order.

use std::collections::{BTreeMap, HashMap, HashSet};

use domain::actor::Role;
use domain::attribute::Known;
use domain::drive::DriveCommand;
use domain::drive::decide::{Context, decide};
use domain::drive::event::Event;
use domain::eligibility::Rules;
use domain::hash::base64url;
use domain::id::{CommandId, DriveId, MemberId};
use moka::sync::Cache;
use shared::bus::{Envelope, Outgoing};
use shared::failure::{Failure, Reject};
use shared::ledger::{Outcome, Row};
use shared::log::{self, Additions};
use shared::store::drives::batch::{self, Loaded};
use shared::store::members;

use crate::batch::{Cx, Decided, Handler};
use crate::logged::{logged_events, with_events};

/// Decides the commands of drives.
#[derive(Debug)]
pub struct Drives {
    /// Compiled rules by drive and version. Compiling costs far more than judging.
    rules: Cache<(DriveId, u32), Rules>,
}

impl Default for Drives {
    fn default() -> Self {
        Self { rules: Cache::new(2_000) }
    }
}

impl Handler for Drives {
    type Message = DriveCommand;

    async fn handle(
        &self,
        cx: &Cx<'_>,
        commands: &[Envelope<DriveCommand>],
    ) -> Result<Vec<Decided>, Failure> {
        let compiled = |drive_id, version, definition: &domain::drive::definition::Definition| {
            self.rules.get_with((drive_id, version), || Rules::compile_stored(&definition.rules, version))
        };
        let mut loaded = batch::load(cx.tx, commands.iter().map(|envelope| &envelope.body), compiled).await?;
        let people = members::known(cx.tx, needed_people(commands, &loaded)).await?;

        let mut additions = Additions::default();
        let mut decided = Vec::with_capacity(commands.len());
        for envelope in commands {
            decided.push(decide_one(cx, envelope, &mut loaded, &people, &mut additions)?);
        }

        log::append(cx.tx, additions.entries.iter().map(|(entry, _)| entry)).await?;
        batch::save(cx.tx, &loaded, &additions.heads, cx.now).await?;
        Ok(with_events(decided, additions))
    }

    async fn events_again(
        &self,
        cx: &Cx<'_>,
        rows: &[Row],
    ) -> Result<HashMap<CommandId, Vec<Outgoing>>, Failure> {
        logged_events::<Event>(cx.tx, rows).await
    }
}

/// The members whose existence or attributes a decision depends on.
fn needed_people(batch: &[Envelope<DriveCommand>], loaded: &BTreeMap<DriveId, Loaded>) -> HashSet<MemberId> {
    // A drive may have rules already, or get them in this batch.
    let coming: HashSet<DriveId> = batch.iter().filter_map(|envelope| brings_rules(&envelope.body)).collect();
    let has_rules = |drive_id: &DriveId| {
        coming.contains(drive_id) || loaded.get(drive_id).is_some_and(|drive| !drive.state.rules.is_empty())
    };
    batch
        .iter()
        .filter(|envelope| match &envelope.body {
            // A member who acts for themselves exists. Without rules, attributes do not matter.
            DriveCommand::Register(command) => {
                envelope.actor.role != Role::Member || has_rules(&command.drive_id)
            }
            _ => true,
        })
        .filter_map(|envelope| person(&envelope.body))
        .collect()
}

/// The member whose attributes the decision depends on.
fn person(command: &DriveCommand) -> Option<MemberId> {
    match command {
        DriveCommand::Register(command) => Some(command.member_id),
        DriveCommand::AddRegistration(command) => Some(command.member_id),
        DriveCommand::CreateDrive(_)
        | DriveCommand::UpdateDrive(_)
        | DriveCommand::PublishDrive(_)
        | DriveCommand::CloseDrive(_)
        | DriveCommand::ReopenDrive(_)
        | DriveCommand::CancelDrive(_)
        | DriveCommand::AdvanceDrive(_)
        | DriveCommand::RemindDrive(_)
        | DriveCommand::MessageDrive(_)
        | DriveCommand::Withdraw(_)
        | DriveCommand::RemoveRegistration(_)
        | DriveCommand::ChangeAnswers(_)
        | DriveCommand::MoveInWaitingList(_)
        | DriveCommand::CheckIn(_)
        | DriveCommand::UndoCheckIn(_) => None,
    }
}

/// The drive, if this command gives it rules.
fn brings_rules(command: &DriveCommand) -> Option<DriveId> {
    let has_rules = match command {
        DriveCommand::CreateDrive(command) => !command.draft.rules.is_empty(),
        DriveCommand::UpdateDrive(command) => command.changes.rules.iter().any(|rules| !rules.is_empty()),
        // No other command has rules in it.
        _ => false,
    };
    has_rules.then(|| command.drive_id())
}

fn decide_one(
    cx: &Cx<'_>,
    envelope: &Envelope<DriveCommand>,
    loaded: &mut BTreeMap<DriveId, Loaded>,
    people: &HashMap<MemberId, Known>,
    additions: &mut Additions,
) -> Result<Decided, Failure> {
    let drive_id = envelope.body.drive_id();
    let drive =
        loaded.get_mut(&drive_id).ok_or_else(|| Reject::broken("a drive of the batch was not loaded"))?;
    let person = person(&envelope.body).and_then(|member_id| people.get(&member_id));
    let salt = base64url(&cx.random(envelope.id, 0)[..16]);
    let context = Context {
        id: envelope.id,
        drive_id,
        actor: envelope.actor,
        accepted_at: envelope.accepted_at,
        person,
        salt: &salt,
    };
    let decision = decide(&drive.state, &envelope.body, &context);
    if let DriveCommand::RemindDrive(_) = &envelope.body {
        drive.has_looked(envelope.accepted_at);
    }
    for event in &decision.events {
        drive.state.apply(event);
    }
    let events = u32::try_from(decision.events.len()).unwrap_or(u32::MAX);
    let sequence = additions.add(drive_id.into(), drive.head, envelope.id, cx.now, decision.events);
    let outcome = Outcome {
        stream: Some(drive_id.into()),
        sequence,
        events,
        result: decision.result,
        facts: decision.facts,
    };
    Ok(Decided { outcome, events: Vec::new() })
}
