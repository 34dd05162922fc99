//! What checking an access token costs: `cargo bench --workspace --bench micro`.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark: a panic is how it fails")]

use std::hint::black_box;

use api::auth::{check_token, issue};
use criterion::{Criterion, criterion_group, criterion_main};
use domain::actor::{Actor, Role};
use domain::clock;
use shared::keys::KeyRing;
use uuid::Uuid;

/// Not a secret: made for this.
const KEY: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";

fn tokens(c: &mut Criterion) {
    let key = KeyRing::of_signing_key(KEY).unwrap();
    let actor = Actor { role: Role::Member, id: Uuid::from_u128(7) };
    let token = issue(&key, actor, clock::now());
    c.bench_function("token: issue", |b| b.iter(|| black_box(issue(&key, actor, clock::now()))));
    c.bench_function("token: check", |b| b.iter(|| black_box(check_token(&key, &token).unwrap())));
}

criterion_group!(benches, tokens);
criterion_main!(benches);
