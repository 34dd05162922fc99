//! What one registration costs, part by part, without a server: `cargo bench --workspace --bench micro`.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark: a panic is how it fails")]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use domain::actor::{Actor, Role};
use domain::attribute::Known;
use domain::clock::{self, Timestamp};
use domain::drive::decide::{Context, Decision, decide};
use domain::drive::draft::Draft;
use domain::drive::event::Event;
use domain::drive::registration::Register;
use domain::drive::state::DriveState;
use domain::drive::{CreateDrive, DriveCommand, PublishDrive};
use domain::eligibility::Rules;
use domain::hash::sha256;
use domain::id::{CommandId, DriveId, MemberId};
use serde_json::json;
use shared::bus::Envelope;
use shared::keys::KeyRing;
use shared::log::{Additions, Head};
use shared::receipt::{Claims, RECEIPT_TYPE};
use uuid::Uuid;

const DRIVE: DriveId = DriveId(Uuid::from_u128(1));
/// Not a secret: made for this.
const KEY: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";

fn now() -> Timestamp {
    clock::from_ms(1_790_000_000_123)
}

fn attributes() -> Known {
    let all = json!({ "age": 30, "marks": 71.5, "city": "Kanpur", "score": 1 });
    Known::imported(serde_json::from_value(all).unwrap(), now())
}

fn register(member: u32) -> Register {
    Register {
        drive_id: DRIVE,
        member_id: MemberId(Uuid::from_u128(u128::from(member) + 1_000)),
        slot_id: None,
        answers: serde_json::from_value(json!({})).unwrap(),
    }
}

fn context(person: Option<&Known>, id: u128) -> Context<'_> {
    Context {
        id: CommandId(Uuid::from_u128(id)),
        drive_id: DRIVE,
        actor: Actor { role: Role::Service, id: Uuid::from_u128(7) },
        accepted_at: now(),
        person,
        salt: "c2FsdHNhbHRzYWx0c2FsdA",
    }
}

fn take(state: &mut DriveState, command: impl Into<DriveCommand>, person: &Known, id: u128) -> Decision {
    let decision = decide(state, &command.into(), &context(Some(person), id));
    decision.events.iter().for_each(|event| state.apply(event));
    decision
}

/// A drive with so many registrations, more places than those, and these rules.
fn drive(registrations: u32, rules: &serde_json::Value) -> DriveState {
    let draft: Draft = serde_json::from_value(json!({
        "title": "A drive", "kind": "other", "time_zone": "UTC", "capacity": 1_000_000,
        "opens_at": clock::from_ms(0), "closes_at": clock::from_ms(2_000_000_000_000), "rules": rules,
    }))
    .unwrap();
    let (mut state, person) = (DriveState::default(), attributes());
    take(&mut state, CreateDrive { drive_id: DRIVE, draft }, &person, 1).result.unwrap();
    take(&mut state, PublishDrive { drive_id: DRIVE }, &person, 2).result.unwrap();
    for member in 0..registrations {
        take(&mut state, register(member), &person, u128::from(member) + 10).result.unwrap();
    }
    state
}

fn one_rule() -> serde_json::Value {
    json!([{ "name": "adult", "when": "member.age >= 18", "message": "From 18 years on" }])
}

fn deciding(c: &mut Criterion) {
    let (person, command) = (attributes(), DriveCommand::from(register(999_999)));
    let mut group = c.benchmark_group("decide a registration, one rule");
    for registrations in [1, 1_000, 100_000] {
        let state = drive(registrations, &one_rule());
        group.bench_with_input(
            BenchmarkId::new("registrations before", registrations),
            &state,
            |b, state| {
                b.iter(|| black_box(decide(state, &command, &context(Some(&person), 5))));
            },
        );
    }
    group.finish();
}

fn envelope() -> Envelope<Register> {
    let actor = Actor { role: Role::Service, id: Uuid::from_u128(7) };
    Envelope::new(CommandId(Uuid::from_u128(5)), actor, now(), register(1))
}

fn envelopes(c: &mut Criterion) {
    let (envelope, topology) = (envelope(), "16".parse().unwrap());
    let message = envelope.seal(topology).message;
    c.bench_function("envelope: seal", |b| b.iter(|| black_box(envelope.seal(topology))));
    c.bench_function("envelope: open", |b| {
        b.iter(|| black_box(Envelope::<DriveCommand>::open(&message).unwrap()));
    });
}

fn log(c: &mut Criterion) {
    let mut state = drive(1, &one_rule());
    let events: Vec<Event> = take(&mut state, register(2), &attributes(), 12).events;
    c.bench_function("log: 500 entries, rendered and chained", |b| {
        b.iter_batched(
            || vec![events.clone(); 500],
            |all| {
                let mut additions = Additions::default();
                for (cause, events) in (0..).zip(all) {
                    let cause = CommandId(Uuid::from_u128(cause));
                    additions.add(DRIVE.into(), Head::default(), cause, now(), events);
                }
                black_box(additions)
            },
            BatchSize::SmallInput,
        );
    });
    let mut additions = Additions::default();
    additions.add(DRIVE.into(), Head::default(), CommandId(Uuid::from_u128(1)), now(), events);
    let bytes = additions.entries[0].0.bytes.clone();
    c.bench_function("log: one hash of the chain", |b| {
        b.iter(|| black_box(Head::default().extended(&bytes)));
    });
}

fn rules(c: &mut Criterion) {
    let state = drive(1, &one_rule());
    let (facts, person) = (state.drive.as_ref().unwrap().definition.facts(), attributes());
    let many = json!([
        { "name": "adult", "when": "member.age >= 18 && member.age <= 65", "message": "From 18 to 65" },
        { "name": "marks", "when": "member.marks >= 60.0", "message": "At least 60 %" },
        { "name": "city", "when": "member.city in ['Kanpur', 'Lucknow', 'Delhi']", "message": "From here" },
    ]);
    for (name, rules) in [("one rule", one_rule()), ("three rules", many)] {
        let rules: Vec<_> = serde_json::from_value(rules).unwrap();
        c.bench_function(&format!("eligibility: compile {name}"), |b| {
            b.iter(|| black_box(Rules::compile(&rules, 1).unwrap()));
        });
        let rules = Rules::compile(&rules, 1).unwrap();
        assert!(rules.judge(&person, &facts, now()).eligible);
        c.bench_function(&format!("eligibility: judge by {name}"), |b| {
            b.iter(|| black_box(rules.judge(&person, &facts, now())));
        });
    }
}

fn receipts(c: &mut Criterion) {
    let key = KeyRing::of_signing_key(KEY).unwrap();
    let actor = Actor { role: Role::Service, id: Uuid::from_u128(7) };
    c.bench_function("receipt: a command id with its proof", |b| {
        b.iter(|| black_box(key.new_command_id(now())));
    });
    let id = key.new_command_id(now());
    c.bench_function("receipt: check a command id", |b| b.iter(|| black_box(key.made(id))));
    c.bench_function("receipt: sign", |b| {
        b.iter(|| {
            let claims = Claims::new(id, "register", Some(DRIVE.into()), actor, now(), &sha256(b"{}"));
            black_box(key.sign(RECEIPT_TYPE, &claims))
        });
    });
}

criterion_group!(benches, deciding, envelopes, log, rules, receipts);
criterion_main!(benches);
