use std::sync::atomic::{AtomicUsize, Ordering};

use domain::actor::{Actor, Role};
use domain::text::with_causes;
use uuid::Uuid;

use super::*;

/// Not a secret: made for this. The texts below were made with it by the version before the ring.
const KEY: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
const OLD_ID: &str = "42094b1e-844f-8911-b15d-b7c85a8d8e1c";
const OLD_RECEIPT: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6ImtQcktfcW14VldhWVZBOXd3QkY2SXVvM3ZWeno3VHhIQ1R3WEJ5Z3JTNGsiLCJ0\
                           eXAiOiJtdXN0ZXItcmVjZWlwdCtqd3QifQ.eyJzdWIiOiJhbm4ifQ.24Pw4T9UfKeCUQwDRW_H-dQ2EnsZKRAFLsfUAwI\
                           iQ0F4I_OPsUI8ZZCHUpfeB9i9JU5hxbZw8hzKd0RWA2oLAA";
const OLD_TOKEN: &str = "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.6mPqVAjlsIdio7KeGh5K-DBuvwoC5TASx\
                         gCUXgsY6ow";
const RECEIPT: &str = "muster-receipt+jwt";

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("muster_keys_{}", Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn source(&self) -> KeySource {
        KeySource::in_folder(&self.0)
    }

    fn with_old_key() -> Self {
        let folder = Self::new();
        std::fs::write(folder.0.join("signing-key"), format!("{KEY}\n")).unwrap();
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ann() -> Json {
    json!({ "sub": "ann" })
}

fn at(second: i64) -> Timestamp {
    clock::from_ms(1_790_000_000_000 + second * 1_000)
}

fn is_as_before(ring: &KeyRing) {
    let member = Actor { role: Role::Member, id: Uuid::from_u128(7) };
    assert_eq!(ring.keyed_command_id(member, "click-1").0.to_string(), OLD_ID, "the same command");
    assert!(ring.made(domain::id::CommandId(OLD_ID.parse().unwrap())));
    assert_eq!(ring.verified(RECEIPT, OLD_RECEIPT), Some(ann()));
}

#[test]
fn an_old_key_keeps_its_command_ids_receipts_and_tokens_of_services() {
    let ring = KeyRing::of_signing_key(KEY).unwrap();
    is_as_before(&ring);
    assert_eq!(ring.sign(RECEIPT, &ann()), OLD_RECEIPT, "byte for byte");
    assert_eq!(ring.authentic_before_the_ring(OLD_TOKEN), Some(ann()));
    assert_eq!(ring.authentic::<Json>(Purpose::Access, OLD_TOKEN), None);

    // After a rotation, receipts and command ids are the same. The tokens end with their key.
    let folder = Folder::with_old_key();
    let source = folder.source();
    let old = source.find().unwrap().unwrap();
    source.change(|ring| ring.rotate(at(0))).unwrap();
    let ring = KeyRing::open(source.clone()).unwrap();
    is_as_before(&ring);
    assert_ne!(ring.sign(RECEIPT, &ann()), OLD_RECEIPT);
    assert_eq!(ring.authentic_before_the_ring(OLD_TOKEN), Some(ann()));
    source.change(|ring| ring.retire(&old.secrets[0].kid, at(1))).unwrap();
    ring.reload().unwrap();
    assert_eq!(ring.authentic_before_the_ring(OLD_TOKEN), Some(ann()));
    source.change(|ring| ring.retire(&old.signing[0].kid, at(1))).unwrap();
    ring.reload().unwrap();
    assert_eq!(ring.authentic_before_the_ring::<Json>(OLD_TOKEN), None);
    is_as_before(&ring);
}

#[test]
fn the_ring_of_one_key_is_the_same_in_every_process() {
    let folder = Folder::with_old_key();
    let given = KeySource { signing_key: Some(KEY.into()), ..Folder::new().source() };
    let [of_file, of_text] = [folder.source(), given.clone()].map(|source| source.find().unwrap().unwrap());
    assert_eq!(of_file.text(), of_text.text());
    let ring = KeyRing::open(given).unwrap();
    // It follows from the key as it always has. Otherwise an upgrade would end all tokens.
    assert_eq!(ring.audience(), "muster:cgmx7rpNRarr11qbk-tRzA");
    let token = ring.authenticate(Purpose::Access, &ann());
    assert_eq!(KeyRing::open(folder.source()).unwrap().authentic(Purpose::Access, &token), Some(ann()));
    assert!(!folder.source().file.exists(), "nothing is written before a change");
    // Another deployment has other keys, with the same secret, too.
    let mut other = of_file.clone();
    other.deployment = "AAAAAAAAAAAAAAAAAAAAAA".to_owned();
    assert_eq!(KeyRing::new(other).unwrap().authentic::<Json>(Purpose::Access, &token), None);
}

#[test]
fn a_changed_text_is_neither_authentic_nor_verified() {
    let ring = KeyRing::of_signing_key(KEY).unwrap();
    let token = ring.authenticate(Purpose::Access, &ann());
    assert_eq!(ring.authentic(Purpose::Access, &token), Some(ann()));
    let refused = |text: &str| {
        assert_eq!(ring.authentic::<Json>(Purpose::Access, text), None, "{text}");
        assert_eq!(ring.authentic_before_the_ring::<Json>(text), None, "{text}");
    };
    for (place, letter) in token.char_indices() {
        let mut changed = token.clone();
        changed.replace_range(place..=place, if letter == 'A' { "B" } else { "A" });
        refused(&changed);
        refused(&token[..place]);
    }
    refused(&ring.authenticate(Purpose::Claim, &ann()));
    refused(&ring.sign("at+jwt", &ann()));
    // The code of one header under another header.
    let swapped = [OLD_TOKEN.split('.').next().unwrap(), token.split_once('.').unwrap().1].join(".");
    refused(&swapped);

    let signed = ring.sign(RECEIPT, &ann());
    for changed in
        [signed.replacen('.', ".A", 1), format!("{signed}A"), ring.sign("JWT", &ann()), "a.b".to_owned()]
    {
        assert_eq!(ring.verified::<Json>(RECEIPT, &changed), None, "{changed}");
    }
}

#[test]
fn processes_that_start_at_once_agree_on_a_ring() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new();
    let tokens = std::thread::scope(|scope| {
        let start = || KeyRing::in_folder(&folder.0).unwrap().authenticate(Purpose::Access, &ann());
        let all: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        all.into_iter().map(|each| each.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
    let mode = std::fs::metadata(folder.source().file).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, std::fs::read_dir(&folder.0).unwrap().count()), (0o600, 1));
    assert!(folder.source().find().unwrap().unwrap().old_tokens.is_none());
}

#[test]
fn changes_at_once_are_all_kept_and_no_reader_sees_a_half_one() {
    let folder = Folder::with_old_key();
    let (source, done) = (folder.source(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for second in 0..4 {
            let (source, done) = (source.clone(), &done);
            scope.spawn(move || {
                source.change(|ring| ring.rotate(at(second))).unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        let ring = KeyRing::open(source.clone()).unwrap();
        while done.load(Ordering::SeqCst) < 4 {
            ring.reload().unwrap();
        }
        ring.reload().unwrap();
        assert!(!ring.reload().unwrap(), "nothing has changed since");
        assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 5);
    });
}

#[test]
fn a_new_key_counts_from_its_instant() {
    let mut ring = KeyFile::generate(at(0)).unwrap();
    ring.rotate(at(600)).unwrap();
    ring.rotate(at(1_200)).unwrap();
    let states = |ring: &KeyFile, second| [0, 1, 2].map(|index| state(&ring.secrets, index, at(second)));
    let waiting = State::Waiting;
    assert_eq!(states(&ring, 0), [State::InUse, waiting(at(600)), waiting(at(1_200))]);
    assert_eq!(states(&ring, -60), states(&ring, 0), "a clock that is late");
    assert_eq!(states(&ring, 599), states(&ring, 0));
    assert_eq!(states(&ring, 600), [State::Replaced(at(600)), State::InUse, waiting(at(1_200))]);
    assert_eq!(states(&ring, 1_200), [State::Replaced(at(600)), State::Replaced(at(1_200)), State::InUse]);

    // The first two keys cannot end before the next one counts. The last one may.
    let kids = [0, 1, 2].map(|index| ring.secrets[index].kid.clone());
    for (kid, second) in [(&kids[0], 599), (&kids[1], 601), (&kids[2], 2_000)] {
        let error = ring.clone().retire(kid, at(second)).unwrap_err();
        assert!(matches!(error, KeyError::InUse(_)), "{error:?}");
    }
    assert_eq!(ring.retire(&kids[1], at(100)).unwrap(), Kind::Secret, "before it counts");
    assert_eq!(states(&ring, 600), [State::InUse, State::Retired(at(100)), waiting(at(1_200))]);
    assert_eq!(states(&ring, 1_200)[0], State::Replaced(at(1_200)));
    ring.retire(&kids[1], at(700)).unwrap();
    assert_eq!(states(&ring, 700)[1], State::Retired(at(100)), "once");
    assert!(matches!(ring.retire("nobody", at(0)), Err(KeyError::Unknown(_))));
    assert_eq!(ring.retire(&ring.signing[0].kid.clone(), at(2_000)).unwrap(), Kind::Signing);

    while ring.rotate(at(3_000)).is_ok() {}
    assert_eq!(ring.secrets.iter().filter(|entry| entry.retired_at.is_none()).count(), 16);
}

#[test]
fn what_an_older_key_made_is_valid_until_the_key_is_retired_and_receipts_for_ever() {
    let folder = Folder::new();
    let (source, hour_ago) = (folder.source(), clock::now() - chrono::Duration::hours(1));
    let ring = KeyRing::open(source.clone()).unwrap();
    let first = source.find().unwrap().unwrap();
    let (receipt, token) = (ring.sign(RECEIPT, &ann()), ring.authenticate(Purpose::Access, &ann()));
    source.change(|ring| ring.rotate(clock::now() + chrono::Duration::hours(1))).unwrap();
    assert!(ring.reload().unwrap());
    assert_eq!(ring.sign(RECEIPT, &ann()), receipt, "the new key waits");
    assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2, "and is known before");

    // A rotation of an hour ago.
    let mut file = KeyFile::generate(hour_ago - chrono::Duration::hours(1)).unwrap();
    let before = KeyRing::new(file.clone()).unwrap();
    let (receipt_before, token_before) =
        (before.sign(RECEIPT, &ann()), before.authenticate(Purpose::Access, &ann()));
    file.rotate(hour_ago).unwrap();
    let after = KeyRing::new(file.clone()).unwrap();
    assert_eq!(after.verified(RECEIPT, &receipt_before), Some(ann()));
    let read = after.authentic_since::<Json>(Purpose::Access, &token_before).unwrap();
    assert_eq!((read.claims, read.replaced_at), (ann(), Some(hour_ago)));
    let new = after.authenticate(Purpose::Access, &ann());
    assert_ne!(new, token_before);
    assert_eq!(after.authentic_since::<Json>(Purpose::Access, &new).unwrap().replaced_at, None);
    for kid in [file.signing[0].kid.clone(), file.secrets[0].kid.clone()] {
        file.retire(&kid, clock::now()).unwrap();
    }
    let retired = KeyRing::new(file).unwrap();
    assert_eq!(retired.authentic::<Json>(Purpose::Access, &token_before), None);
    assert_eq!(retired.verified(RECEIPT, &receipt_before), Some(ann()));
    assert_eq!(retired.jwks(), after.jwks());

    // Keys of another deployment, fewer keys, a broken file and no file: the last ones count.
    let text = std::fs::read_to_string(&source.file).unwrap();
    let other = KeyFile::generate(clock::now()).unwrap().text();
    for wrong in [other, first.text(), text[..text.len() / 2].to_owned(), String::new()] {
        std::fs::write(&source.file, wrong).unwrap();
        ring.reload().unwrap_err();
    }
    std::fs::remove_file(&source.file).unwrap();
    ring.reload().unwrap_err();
    assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
    assert_eq!(ring.authentic(Purpose::Access, &token), Some(ann()));
    std::fs::write(&source.file, text).unwrap();
    assert!(!ring.reload().unwrap());
}

#[test]
fn wrong_keys_are_explained_and_never_shown() {
    let folder = Folder::new();
    let good = KeyFile::generate(at(0)).unwrap();
    let good = serde_json::to_value(&good).unwrap();
    let secret = good["secrets"][0]["key"].as_str().unwrap().to_owned();
    let changed = |path: &str, value: Json| {
        let mut changed = good.clone();
        *changed.pointer_mut(path).unwrap() = value;
        changed.to_string()
    };
    for (text, part) in [
        (changed("/secrets/0/key", json!("c2hvcnQ=")), "another length"),
        (changed("/secrets/0/key", json!(format!("{secret}!"))), "not base64"),
        (changed("/secrets/0/kid", json!("AAAAAAAA")), "another id"),
        (changed("/secrets/0/retired_at", json!("2026-01-01T00:00:00Z")), "each secret is retired"),
        (changed("/signing", json!([])), "each signing key is retired"),
        (changed("/signing/0/key", json!(secret)), "no Ed25519 key"),
        (changed("/signing", json!(secret)), "no key ring (line 1"),
        (changed("/deployment", json!("AAAA")), "another length"),
        ("{}".to_owned(), "no key ring"),
    ] {
        std::fs::write(folder.source().file, text).unwrap();
        let said = with_causes(&folder.source().find_or_create().unwrap_err());
        assert!(said.contains("keys.json") && said.contains(part), "{said}");
        assert!(!said.contains(&secret), "{said}");
    }
    let shown = format!("{:?}", serde_json::from_value::<KeyFile>(good).unwrap());
    assert!(!shown.contains(&secret), "{shown}");

    let given = |text: &str| KeySource { signing_key: Some(text.into()), ..Folder::with_old_key().source() };
    let said_of = |source: &KeySource| with_causes(&source.find_or_create().unwrap_err());
    assert!(said_of(&given("s3cr3t")).starts_with("read SIGNING_KEY: it is no"));
    let other = given(KEY);
    std::fs::create_dir_all(other.file.parent().unwrap()).unwrap();
    std::fs::write(&other.file, KeyFile::generate(at(0)).unwrap().text()).unwrap();
    assert!(said_of(&other).contains("SIGNING_KEY is not in"));
    let named = KeySource { is_named: true, ..given(KEY) };
    assert!(said_of(&named).contains("there are no keys in"), "other processes may have other keys");
    let nothing = Folder::new().source();
    assert!(matches!(nothing.change(|ring| ring.rotate(at(0))), Err(KeyError::Missing(_))));
}
