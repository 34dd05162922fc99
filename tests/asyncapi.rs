//! Peers get what the documents promise. The AsyncAPI document describes every message, and every
//! message that was ever published can still be read.
//!
//! `shared/fixtures` has one file, `{kind}.{number}.json`, for each shape of an event in logs, or
//! of a command in queues. A new shape (such as another optional field) gets a new file. Files
//! never change.

use std::collections::BTreeSet;
use std::path::Path;

use boon::{Compiler, Draft, Schemas};
use domain::command::Command;
use domain::drive::event::Event;
use domain::drive::message::MessageDrive;
use domain::drive::registration::{
    AddRegistration, ChangeAnswers, CheckIn, MoveInWaitingList, Register, RemoveRegistration, UndoCheckIn,
    Withdraw,
};
use domain::drive::{
    AdvanceDrive, CancelDrive, CloseDrive, CreateDrive, PublishDrive, RemindDrive, ReopenDrive, UpdateDrive,
};
use domain::eligibility::CheckEligibility;
use domain::event::EventSet;
use domain::member::event::MemberEvent;
use domain::member::{EditMember, ImportMembers, UpdateProfile};
use domain::upkeep::CleanUp;
use serde_json::Value;
use shared::bus::cloud_event::batch::{self, Form};
use shared::bus::{Address, CloudEvent, Outgoing};

fn document() -> Value {
    serde_json::from_str(&api::asyncapi::document()).unwrap()
}

struct Fixture {
    file: String,
    kind: String,
    text: String,
}

fn fixtures(folder: &str) -> Vec<Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shared/fixtures").join(folder);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (kind, number) = file.strip_suffix(".json").unwrap().rsplit_once('.').unwrap();
        assert!(number.parse::<u32>().is_ok_and(|number| number > 0), "{file}");
        let text = std::fs::read_to_string(&path).unwrap().trim_end().to_owned();
        found.push(Fixture { kind: kind.to_owned(), file, text });
    }
    found
}

/// The kinds of messages for one exchange in the document.
fn kinds(document: &Value, exchange: &str) -> BTreeSet<String> {
    let channels = document["channels"].as_object().unwrap().values();
    let of = channels.filter(|channel| channel["bindings"]["amqp"]["exchange"]["name"] == exchange);
    of.flat_map(|channel| channel["messages"].as_object().unwrap().keys().cloned()).collect()
}

/// Why a payload does not match its message's schema, if it does not.
fn fault(document: &Value, kind: &str, payload: &Value) -> Option<String> {
    const PLACE: &str = "https://muster.example/asyncapi.json";
    let mut compiler = Compiler::new();
    compiler.set_default_draft(Draft::V7);
    compiler.enable_format_assertions();
    compiler.add_resource(PLACE, document.clone()).unwrap();
    let mut schemas = Schemas::new();
    let place = format!("{PLACE}#/components/messages/{kind}/payload");
    let schema = compiler.compile(&place, &mut schemas).unwrap();
    schemas.validate(payload, schema).err().map(|error| error.to_string())
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(document: &Value, value: &Value, count: &mut usize) {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref") {
                    let reference = reference.as_str().unwrap();
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                    *count += 1;
                }
                fields.values().for_each(|field| check(document, field, count));
            }
            Value::Array(items) => items.iter().for_each(|item| check(document, item, count)),
            _ => {}
        }
    }
    let (document, mut count) = (document(), 0);
    check(&document, &document, &mut count);
    assert!(count > 100, "{count}");
}

#[test]
fn events_that_were_published_can_be_read_for_ever() {
    let document = document();
    let (mut found, mut told) = (BTreeSet::new(), Vec::new());
    for Fixture { file, kind, text } in fixtures("events") {
        let outgoing = if MemberEvent::KINDS.contains(&kind.as_str()) {
            read_again::<MemberEvent>(&file, &text)
        } else {
            read_again::<Event>(&file, &text)
        };
        assert_eq!(outgoing.message.kind, kind, "{file}");
        let payload = serde_json::from_str(&text).unwrap();
        assert_eq!(fault(&document, &kind, &payload), None, "{file}");
        let Address::Events(key) = &outgoing.to else { panic!("{file}: {:?}", outgoing.to) };
        let known = addresses(&document, &kind);
        assert!(known.iter().any(|address| fits(address, key)), "{file}: {key} is no address of it");
        told.push(outgoing);
        found.insert(kind);
    }
    let batches = Form::Batches.of(told).into_iter().filter(|one| one.message.kind == batch::KIND);
    for Outgoing { to, message } in batches {
        let payload = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(fault(&document, batch::KIND, &payload), None);
        let Address::Events(key) = to else { panic!("{to:?} is no address of events") };
        assert!(addresses(&document, batch::KIND).iter().any(|address| fits(address, &key)), "{key}");
        found.insert(message.kind);
    }
    assert_eq!(found, kinds(&document, "muster.events"), "every kind of event has a fixture");
}

/// The published form of an event that was read from a log.
fn read_again<E: EventSet>(file: &str, text: &str) -> Outgoing {
    let event: CloudEvent<E> = serde_json::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(event.to_bytes(), text, "{file}: the log keeps these bytes");
    event.message(text.to_owned().into())
}

fn addresses(document: &Value, kind: &str) -> Vec<String> {
    let channels = document["channels"].as_object().unwrap().values();
    let of = channels.filter(|channel| channel["messages"].get(kind).is_some());
    of.map(|channel| channel["address"].as_str().unwrap().to_owned()).collect()
}

/// Whether a routing key matches an address such as `drive.closed.{drive_id}`.
fn fits(address: &str, key: &str) -> bool {
    let words = |text: &str| text.split('.').map(ToOwned::to_owned).collect::<Vec<_>>();
    let (address, key) = (words(address), words(key));
    address.len() == key.len() && address.iter().zip(&key).all(|(a, k)| a.starts_with('{') || a == k)
}

#[test]
fn an_event_that_is_not_as_described_is_told_from_one_that_is() {
    let document = document();
    for Fixture { file, kind, text } in fixtures("events") {
        let good: Value = serde_json::from_str(&text).unwrap();
        let required = ["specversion", "id", "source", "time", "cause", "type", "data"];
        for name in required {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(name);
            assert!(fault(&document, &kind, &bad).is_some(), "{file} without {name}");
        }
        for (name, value) in [("id", "7"), ("type", "muster.drive.lost"), ("time", "yesterday")] {
            let mut bad = good.clone();
            bad[name] = value.into();
            assert!(fault(&document, &kind, &bad).is_some(), "{file}: {name}");
        }
        let mut more = good;
        more["traceparent"] = "from a later version".into();
        assert_eq!(fault(&document, &kind, &more), None, "{file}: there may be more one day");
    }
}

/// A kind of command, and a function that parses its body and serializes it again.
type Again = (&'static str, fn(&str) -> String);

fn again<C: Command>() -> Again {
    (C::KIND, |text| serde_json::to_string(&serde_json::from_str::<C>(text).unwrap()).unwrap())
}

#[test]
fn commands_that_were_sent_can_be_read_for_ever() {
    let all = [
        again::<CreateDrive>(),
        again::<UpdateDrive>(),
        again::<PublishDrive>(),
        again::<CloseDrive>(),
        again::<ReopenDrive>(),
        again::<CancelDrive>(),
        again::<AdvanceDrive>(),
        again::<RemindDrive>(),
        again::<MessageDrive>(),
        again::<Register>(),
        again::<Withdraw>(),
        again::<AddRegistration>(),
        again::<RemoveRegistration>(),
        again::<ChangeAnswers>(),
        again::<MoveInWaitingList>(),
        again::<CheckIn>(),
        again::<UndoCheckIn>(),
        again::<CheckEligibility>(),
        again::<UpdateProfile>(),
        again::<EditMember>(),
        again::<ImportMembers>(),
        again::<CleanUp>(),
    ];
    let document = document();
    let mut found = BTreeSet::new();
    for Fixture { file, kind, text } in fixtures("commands") {
        let (_, again) = all.iter().find(|(name, _)| *name == kind).unwrap_or_else(|| panic!("{file}"));
        assert_eq!(again(&text), text, "{file}");
        let payload = serde_json::from_str(&text).unwrap();
        assert_eq!(fault(&document, &kind, &payload), None, "{file}");
        found.insert(kind);
    }
    assert_eq!(found, kinds(&document, "muster.commands"), "every kind of command has a fixture");
}
