//! Compares what happened with what the model expects.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use domain::clock::Timestamp;
use domain::hash::{Digest256, sha256};
use domain::id::{CommandId, event_id};
use serde_json::Value;
use shared::bus::{Address, CloudEvent, Outgoing};
use shared::ledger::{Row, Status};

use super::ask::Asked;
use super::model::{Decision, Drive, Model, Told};
use super::store::{Store, Stored};

/// A decision as it was made. A repeated decision must equal it.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    pub row: Row,
    pub events: Vec<Outgoing>,
}

/// Checks that a new decision is the expected one.
pub fn decision(asked: &Asked, expected: &Decision, made: &Made, model: &Model) -> Result<()> {
    let row = &made.row;
    let told = made.events.iter().map(|event| words(&event.message.payload));
    let words: Vec<String> = told.collect::<Result<_>>()?;
    ensure!(words == expected.entries, "events {words:#?}, not {:#?}", expected.entries);
    let logged = model.drives.get(&asked.drive).map_or(0, |drive| drive.log.len() as u64);
    let first = logged + 1 - words.len() as u64;
    for (index, event) in made.events.iter().enumerate() {
        let read: CloudEvent = serde_json::from_slice(&event.message.payload)?;
        ensure!(
            event.message.id == event_id(asked.id, index) && read.id == event.message.id,
            "an event's id"
        );
        let sequence = (first + index as u64).to_string();
        ensure!(read.sequence.as_deref() == Some(&sequence), "{:?} is not {sequence}", read.sequence);
        ensure!(read.cause == asked.id && event.to == Address::Events(read.key()), "an event's address");
    }
    ensure!(row.sequence == (!words.is_empty()).then_some(first), "it begins at {:?}", row.sequence);
    answer(asked, expected, row)
}

/// Checks that the client gets the expected answer.
pub fn answer(asked: &Asked, expected: &Decision, row: &Row) -> Result<()> {
    let status = if expected.refused.is_some() { Status::Refused } else { Status::Succeeded };
    let code = row.result.as_ref().and_then(|result| result["code"].as_str());
    ensure!(code == expected.refused, "the answer is {:?}, not {:?}", row.result, expected.refused);
    ensure!(row.status == status, "the status is {:?}", row.status);
    ensure!(row.events as usize == expected.entries.len(), "it says that it has {} entries", row.events);
    ensure!(row.drive_id() == Some(asked.drive) && row.actor == asked.actor, "who asked, about what");
    ensure!(row.accepted_at == asked.accepted_at, "it was accepted at {}", row.accepted_at);
    let result = row.result.as_ref().context("a decision has a result")?;
    let told = expected.told.as_ref().map(|told| match told {
        Told::Drive { .. } => Told::Drive {
            status: static_word(&result["status"]),
            promoted: result["promoted"].as_u64().unwrap_or_default(),
        },
        Told::Registration { .. } => Told::Registration {
            id: result["registration_id"].as_str().unwrap_or_default().parse().unwrap_or_else(|_| {
                // No registration has this id.
                uuid::Uuid::nil().into()
            }),
            state: static_word(&result["state"]),
            place: result["place"].as_u64(),
            position: result["waitlist_position"].as_u64(),
        },
    });
    ensure!(told == expected.told, "it told {told:?}, not {:?}", expected.told);
    Ok(())
}

fn static_word(word: &Value) -> &'static str {
    let words = [
        "draft",
        "published",
        "open",
        "closed",
        "cancelled",
        "confirmed",
        "waitlisted",
        "withdrawn",
        "removed",
    ];
    words.into_iter().find(|known| word == known).unwrap_or("no such word")
}

/// An event in the model's words.
pub fn words(event: &[u8]) -> Result<String> {
    let event: Value = serde_json::from_slice(event)?;
    let kind = event["type"].as_str().context("a type")?.trim_start_matches("muster.");
    let data = &event["data"];
    let text = |name: &str| data[name].as_str().unwrap_or("-").to_owned();
    Ok(match kind {
        "drive.created" => format!("{kind} {}", described(&data["definition"])?),
        "drive.updated" => format!("{kind} v{} {}", data["rules_version"], described(&data["definition"])?),
        "drive.closed" => format!("{kind} {}", text("by")),
        "drive.reopened" => format!("{kind} {} {}", ms(&data["closes_at"])?, text("status")),
        "drive.reminded" => format!("{kind} {} {}", text("kind"), ms(&data["starts_at"])?),
        "drive.refused" => format!("{kind} {}", text("code")),
        "registration.confirmed" | "registration.promoted" => {
            format!("{kind} {} {} {}", text("member_id"), text("slot_id"), data["place"])
        }
        "registration.waitlisted" => {
            format!("{kind} {} {} {}", text("member_id"), text("slot_id"), data["position"])
        }
        "registration.moved" => format!("{kind} {} {}", text("member_id"), data["position"]),
        "registration.answers_changed" | "registration.checked_in" | "registration.check_in_undone" => {
            format!("{kind} {}", text("member_id"))
        }
        "registration.withdrawn" | "registration.removed" => {
            format!("{kind} {} {}", text("member_id"), text("slot_id"))
        }
        "registration.refused" => format!("{kind} {} {}", text("member_id"), text("code")),
        other => other.to_owned(),
    })
}

fn ms(instant: &Value) -> Result<i64> {
    Ok(instant.as_str().context("an instant")?.parse::<Timestamp>()?.timestamp_millis())
}

fn described(definition: &Value) -> Result<String> {
    let age = definition["rules"][0]["when"].as_str().map(|when| when.trim_start_matches("member.age >= "));
    let age = age.map(str::parse::<i64>).transpose()?;
    let slots = definition["slots"].as_array().context("slots")?.iter().map(|slot| {
        let capacity = slot["capacity"].as_u64();
        format!("{}={capacity:?}+{}", slot["slot_id"].as_str().unwrap_or("-"), slot["waitlist_capacity"])
    });
    let (opens, closes) = (ms(&definition["opens_at"])?, ms(&definition["closes_at"])?);
    let ends = Some(&definition["ends_at"]).filter(|ends| !ends.is_null()).map(ms).transpose()?;
    Ok(format!("{opens}..{closes} until {ends:?} age {age:?} {}", slots.collect::<Vec<_>>().join(" ")))
}

/// Checks that the stored data equals the decisions and the model. Returns the logs' ends.
pub async fn stored(
    store: &Store,
    model: &Model,
    made: &BTreeMap<CommandId, Made>,
) -> Result<Vec<Digest256>> {
    let rows = store.ledger().await?;
    ensure!(rows.len() == made.len(), "the ledger has {} decisions, not {}", rows.len(), made.len());
    for row in rows {
        ensure!(made.get(&row.id).is_some_and(|made| made.row == row), "{row:?} is not what was decided");
    }
    let drives: Vec<_> = model.drives.keys().copied().collect();
    ensure!(store.drives().await? == drives, "drives that ought not to be there, or are not");
    let mut ends = Vec::new();
    for drive in model.drives.values() {
        let stored = store.drive(drive.id).await?;
        ends.push(drive_stored(&stored, drive, made).with_context(|| format!("drive {}", drive.id))?);
    }
    store.verify().await?;
    Ok(ends)
}

fn drive_stored(stored: &Stored, drive: &Drive, made: &BTreeMap<CommandId, Made>) -> Result<Digest256> {
    let entries = &stored.entries;
    ensure!(entries.len() == drive.log.len(), "{} entries, not {}", entries.len(), drive.log.len());
    let mut hash = [0; 32];
    for (index, entry) in entries.iter().enumerate() {
        ensure!(entry.head.sequence == index as u64 + 1, "a gap before {}", entry.head.sequence);
        hash = sha256(&[&hash[..], &entry.bytes[..]].concat());
        ensure!(entry.head.hash == hash, "the hash of entry {}", entry.head.sequence);
        let event: CloudEvent = serde_json::from_slice(&entry.bytes)?;
        let events = &made.get(&event.cause).context("an entry that nobody decided")?.events;
        let told = events.iter().find(|told| told.message.id == event.id).context("an event untold")?;
        ensure!(told.message.payload == entry.bytes, "entry {} is not what was told", entry.head.sequence);
    }
    tables(stored, drive)?;
    ensure!(stored.head.hash == hash && stored.head.sequence == drive.log.len() as u64, "its row's end");
    Ok(hash)
}

/// Checks that the tables equal the model.
pub fn tables(stored: &Stored, drive: &Drive) -> Result<()> {
    let row = &stored.drive;
    ensure!(row.status.as_str() == drive.status, "it is {:?}, not {}", row.status, drive.status);
    ensure!(stored.closed_by_admin() == drive.closed_by_admin, "{:?} closed it", row.closed_by);
    ensure!(row.rules_version == drive.rules_version, "its rules have version {}", row.rules_version);
    ensure!(row.definition.closes_at == drive.closes_at, "it closes at {}", row.definition.closes_at);
    ensure!(stored.places.len() == drive.slots.len(), "it has slots {:?}", stored.places);
    for slot in &drive.slots {
        let places = stored.places.get(&slot.id).context("a slot's row")?;
        let counted = (places.confirmed as usize, places.waitlisted as usize);
        let right = (slot.confirmed.len(), slot.waiting.len());
        ensure!(counted == right, "slot {}: {counted:?}, not {right:?}", slot.id);
        let most = slot.places.capacity.map_or(usize::MAX, |most| most as usize);
        ensure!(slot.confirmed.len() <= most, "slot {}: oversold", slot.id);
    }
    let page = &stored.registrations;
    ensure!(page.len() == drive.registrations.len(), "{} registrations", page.len());
    for row in page {
        let right = drive.registrations.get(&row.member_id).context("a registration too many")?;
        let came = row.checked_in_at.is_some();
        let same = (row.id, row.slot_id, row.state.as_str(), row.place.map(u64::from), came)
            == (right.id, right.slot, right.state, right.place, right.came);
        ensure!(same, "{row:?}, not {right:?}");
    }
    for slot in &drive.slots {
        let mut waiting: Vec<_> = page
            .iter()
            .filter(|row| row.slot_id == slot.id && row.state.as_str() == "waitlisted")
            .map(|row| (row.rank, row.member_id))
            .collect();
        waiting.sort_unstable();
        let waiting: Vec<_> = waiting.into_iter().map(|(_, member)| member).collect();
        ensure!(waiting == slot.waiting, "slot {}: {waiting:?} wait, not {:?}", slot.id, slot.waiting);
    }
    Ok(())
}
