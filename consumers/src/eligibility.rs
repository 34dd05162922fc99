//! Decides eligibility checks: what a drive's rules say about a member. Checks change nothing and
//! need no order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::actor::Role;
use domain::attribute::Known;
use domain::drive::Status;
use domain::eligibility::{CheckEligibility, EligibilityCommand, EligibilityOutcome, Rules};
use domain::id::{CommandId, DriveId};
use domain::refusal::{Code, Refusal};
use moka::sync::Cache;
use shared::bus::{Envelope, Outgoing};
use shared::failure::Failure;
use shared::ledger::{Outcome, Row};
use shared::store::drives::{self, DriveView};
use shared::store::members;

use crate::batch::{Cx, Decided, Handler};

/// Decides eligibility checks.
#[derive(Debug)]
pub struct Eligibility {
    rules: Cache<(DriveId, u32), Rules>,
}

impl Default for Eligibility {
    fn default() -> Self {
        Self { rules: Cache::new(2_000) }
    }
}

impl Handler for Eligibility {
    type Message = EligibilityCommand;

    async fn handle(
        &self,
        cx: &Cx<'_>,
        batch: &[Envelope<EligibilityCommand>],
    ) -> Result<Vec<Decided>, Failure> {
        let checks = || {
            batch.iter().map(|envelope| {
                let EligibilityCommand::CheckEligibility(check) = &envelope.body;
                (envelope, check)
            })
        };
        let drives: BTreeSet<_> = checks().map(|(_, check)| check.drive_id).collect();
        let drives: BTreeMap<_, _> =
            drives::by_ids(cx.tx, drives).await?.into_iter().map(|drive| (drive.id, drive)).collect();
        let members: BTreeSet<_> = checks().map(|(_, check)| check.member_id).collect();
        let people = members::known(cx.tx, members).await?;
        Ok(checks()
            .map(|(envelope, check)| {
                let result =
                    self.judge(envelope, check, drives.get(&check.drive_id), people.get(&check.member_id));
                let stream = Some(check.drive_id.into());
                Decided { outcome: Outcome { stream, ..Outcome::of(result) }, events: Vec::new() }
            })
            .collect())
    }

    async fn events_again(
        &self,
        _: &Cx<'_>,
        _: &[Row],
    ) -> Result<HashMap<CommandId, Vec<Outgoing>>, Failure> {
        Ok(HashMap::new())
    }
}

impl Eligibility {
    fn judge(
        &self,
        envelope: &Envelope<EligibilityCommand>,
        check: &CheckEligibility,
        drive: Option<&DriveView>,
        person: Option<&Known>,
    ) -> Result<serde_json::Value, Refusal> {
        let seen =
            drive.filter(|drive| drive.drive.status != Status::Draft || envelope.actor.role == Role::Admin);
        let view = seen.ok_or(Code::DriveNotFound)?;
        let nobody = Known::default();
        let known = match person {
            Some(known) => known,
            None if envelope.actor.role == Role::Member => &nobody,
            None => return Err(Code::MemberNotFound.into()),
        };
        let version = view.drive.rules_version;
        let definition = &view.drive.definition;
        let rules =
            self.rules.get_with((view.id, version), || Rules::compile_stored(&definition.rules, version));
        let verdict = rules.judge(known, &definition.facts(), envelope.accepted_at);
        let outcome = EligibilityOutcome { drive_id: check.drive_id, member_id: check.member_id, verdict };
        Ok(serde_json::to_value(outcome).expect("an outcome is plain data"))
    }
}
