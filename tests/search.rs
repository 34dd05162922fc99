//! A search finds the same rows on every database, in every script.

use std::collections::BTreeSet;

use domain::drive::registration::RegistrationState;
use domain::member::ImportMembers;
use domain::upkeep::CleanUp;
use sea_orm::ConnectionTrait as _;
use serde_json::json;
use shared::store::{drives, members, registrations};
use tokio_util::sync::CancellationToken;

use crate::deployment::Engine;
use crate::local::{Local, admin, assert_ok, outcome};

on_every_database! {
    texts_are_found_in_every_script,
    addresses_are_found_as_they_are_shown_and_as_they_are_sent,
    rows_of_an_older_version_are_found_and_filled_in,
    an_upgrade_that_died_half_way_is_finished,
}

const NAMES: [&str; 12] = [
    "Ångström Élodie",
    "Anna Straße",
    "Иван Ёлкин",
    "Йосиф",
    "ΣΊΣΥΦΟΣ",
    "İstanbul Işık",
    "क़लम क्षितिज",
    "مُحَمَّد أحمد",
    "ﬁne Ａｎｎ",
    "100% O'Brien_\\",
    "Jose\u{301} Ibáñez",
    "Trần Văn Đức",
];

/// Each search text, and the names that it must find.
const FOUND: [(&str, &[usize]); 47] = [
    ("ångström", &[0]),
    ("ANGSTROM", &[0]),
    ("A\u{30a}ngstro\u{308}m", &[0]),
    ("elodie", &[0]),
    ("STRASSE", &[1]),
    ("straße", &[1]),
    ("STRAẞE", &[1]),
    ("  anna ", &[1]),
    ("ИВАН", &[2]),
    ("иван", &[2]),
    ("ёлкин", &[2]),
    ("ЕЛКИН", &[2]),
    ("йосиф", &[3]),
    ("иосиф", &[3]),
    ("ИОСИФ", &[3]),
    ("σίσυφος", &[4]),
    ("ΣΙΣΥΦΟΣ", &[4]),
    ("σισυφοσ", &[4]),
    ("istanbul", &[5]),
    ("İSTANBUL", &[5]),
    ("ISTANBUL", &[5]),
    ("ışık", &[5]),
    ("isik", &[5]),
    ("IŞIK", &[5]),
    ("कलम", &[6]),
    ("क़लम", &[6]),
    ("क्षितिज", &[6]),
    ("क्षतज", &[]),
    ("محمد", &[7]),
    ("مُحَمَّد", &[7]),
    ("محـمد", &[7]),
    ("احمد", &[7]),
    ("fine ann", &[8]),
    ("FINE  ANN", &[8]),
    ("ann", &[1, 8]),
    ("100%", &[9]),
    ("%", &[9]),
    ("_", &[9]),
    ("\\", &[9]),
    ("n_\\", &[9]),
    ("o'brien", &[9]),
    ("a%e", &[]),
    ("JOSÉ IBAÑEZ", &[10]),
    ("jose ibanez", &[10]),
    ("tran van", &[11]),
    ("nobody", &[]),
    ("Ann\u{200b}a", &[1]),
];

async fn import(local: &Local, people: impl IntoIterator<Item = (String, String)>) {
    let mut csv = "email,name\n".to_owned();
    for (email, name) in people {
        csv.push_str(&format!("{email},\"{name}\"\n"));
    }
    let file = local.files.put(csv.into()).await.unwrap();
    let decided =
        local.decide(ImportMembers { imported_by: admin().id, file, charset: None, overrides: false }).await;
    assert_eq!(outcome(&decided, "rejected_count"), 0, "{decided:?}");
}

/// The names of the members found.
async fn people(local: &Local, text: &str) -> BTreeSet<String> {
    let found = members::list(&local.db.read, Some(text), None, 100).await.unwrap();
    found.into_iter().map(|person| person.profile.name).collect()
}

async fn titles(local: &Local, text: &str) -> BTreeSet<String> {
    let query = drives::Query { text: Some(text.to_owned()), limit: 100, ..drives::Query::default() };
    let found = drives::list(&local.db.read, &query).await.unwrap();
    found.into_iter().map(|view| view.drive.definition.title).collect()
}

async fn texts_are_found_in_every_script(engine: Engine) {
    let local = Local::start(engine).await;
    import(&local, NAMES.iter().enumerate().map(|(at, name)| (format!("{at}@q.zz"), (*name).to_owned())))
        .await;
    for title in NAMES {
        local.open_drive(json!({ "title": title })).await;
    }
    for (text, expected) in FOUND {
        let expected: BTreeSet<_> = expected.iter().map(|at| NAMES[*at].to_owned()).collect();
        assert_eq!(people(&local, text).await, expected, "people with {text:?}");
        assert_eq!(titles(&local, text).await, expected, "drives with {text:?}");
    }
    // These texts contain nothing to search for, so they find everything.
    for text in ["\u{301}", "\u{200b}", " \u{ad} "] {
        assert_eq!(people(&local, text).await.len(), NAMES.len(), "{text:?}");
        assert_eq!(titles(&local, text).await.len(), NAMES.len(), "{text:?}");
    }

    let drive_id = local.open_drive(json!({ "capacity": 20 })).await;
    for person in members::list(&local.db.read, None, None, 100).await.unwrap() {
        assert_ok(&local.register(drive_id, person.id).await);
    }
    for (text, count) in [("angstrom", 1), ("ANN", 2), ("%", 1), ("\u{301}", NAMES.len()), ("nobody", 0)] {
        let states = [RegistrationState::Confirmed];
        let found = registrations::of_drive(&local.db.read, drive_id, &states, Some(text), None, 100).await;
        assert_eq!(found.unwrap().len(), count, "{text:?}");
    }
}

async fn addresses_are_found_as_they_are_shown_and_as_they_are_sent(engine: Engine) {
    let local = Local::start(engine).await;
    let name = |name: &str| BTreeSet::from([name.to_owned()]);
    import(
        &local,
        [
            ("Zoë@Bücher.DE".to_owned(), "Z".to_owned()),
            ("иван@xn--e1afmkfd.xn--p1ai".to_owned(), "I".to_owned()),
        ],
    )
    .await;
    for text in ["zoe@bucher", "ZOË@BÜCHER.DE", "xn--bcher-kva", "bücher.de"] {
        assert_eq!(people(&local, text).await, name("Z"), "{text}");
    }
    for text in ["пример.рф", "ИВАН@ПРИМЕР", "xn--e1afmkfd"] {
        assert_eq!(people(&local, text).await, name("I"), "{text}");
    }
    let shown: Vec<_> = members::list(&local.db.read, None, None, 9).await.unwrap();
    let shown: BTreeSet<_> = shown.into_iter().map(|person| person.email).collect();
    assert_eq!(shown, BTreeSet::from(["zoë@bücher.de".to_owned(), "иван@пример.рф".to_owned()]));
}

/// The number of rows in the three tables whose folded form is missing or outdated.
async fn behind(local: &Local) -> i64 {
    let mut behind = 0;
    for (table, text) in [("members", "name"), ("accounts", "email"), ("drives", "title")] {
        let sql = format!(
            "select count(*) from {table} where search is null or search_of is null or search_of <> {text}"
        );
        let statement = sea_orm::Statement::from_string(local.db.read.get_database_backend(), sql);
        let row = local.db.read.query_one_raw(statement).await.unwrap().unwrap();
        behind += row.try_get_by_index::<i64>(0).unwrap();
    }
    behind
}

async fn rows_of_an_older_version_are_found_and_filled_in(engine: Engine) {
    let local = Local::start(engine).await;
    let numbers = (0..30).map(|at| (format!("{at}@q.zz"), format!("Person {at}")));
    import(&local, numbers).await;
    let drive_id = local.open_drive(json!({ "title": "Spring" })).await;
    assert_eq!(behind(&local).await, 0, "whoever writes a text writes its folded form");
    // An older version inserts rows without a folded form, and changes texts that have one.
    for sql in [
        "update members set name = 'Zoë Müller' where name = 'Person 7'",
        "update members set search = null, search_of = null where name = 'Person 8'",
        "update accounts set search = null, search_of = null, address = null where email = '9@q.zz'",
        "update drives set title = 'Été'",
    ] {
        local.tamper(sql).await.unwrap();
    }
    assert_eq!(behind(&local).await, 4);
    for (text, count) in [("müller", 1), ("person 7", 0), ("PERSON 8", 1), ("9@Q.zz", 3)] {
        assert_eq!(people(&local, text).await.len(), count, "by its lower case, {text}");
    }
    assert_eq!((titles(&local, "té").await.len(), titles(&local, "spring").await.len()), (1, 0));

    assert_ok(&local.decide(CleanUp {}).await);
    assert_eq!(behind(&local).await, 0);
    for (text, count) in [("ZOE MULLER", 1), ("person 7", 0), ("person 8", 1), ("9@q.zz", 3)] {
        assert_eq!(people(&local, text).await.len(), count, "{text}");
    }
    assert_eq!(titles(&local, "ETE").await.len(), 1);
    assert!(drives::find(&local.db.read, drive_id).await.unwrap().is_some());
}

async fn an_upgrade_that_died_half_way_is_finished(engine: Engine) {
    let local = Local::start(engine).await;
    let long = "é".repeat(90);
    let numbers =
        (0..2300).map(|at| (format!("{at}@bücher.de"), format!("Zoë {at} {}", &long[..at % 90 * 2])));
    import(&local, numbers).await;
    local.tamper("update members set search = null, search_of = null where name like '%9%'").await.unwrap();
    local
        .tamper("update accounts set search = null, search_of = null, address = null where email like '%8%'")
        .await
        .unwrap();
    // The migrations did their work, but were not recorded as done.
    local.tamper("delete from seaql_migrations where version like 'm20261130_%'").await.unwrap();
    let others = [local.second_handle().await, local.second_handle().await];
    let stop = CancellationToken::new();
    let migrated = others.iter().map(|db| migrations::migrate(db, &stop));
    for result in futures_util::future::join_all(migrated).await {
        result.unwrap();
    }
    assert_eq!(behind(&local).await, 0);
    let found = members::list(&local.db.read, Some("ZOE 1999"), None, 10).await.unwrap();
    assert_eq!(found.len(), 1);
    let name = format!("Zoë 1999 {}", &long[..1999 % 90 * 2]);
    assert_eq!(
        (&found[0].profile.name, found[0].email.as_str()),
        (&name.trim().to_owned(), "1999@bücher.de")
    );
    assert_eq!(people(&local, &name).await.len(), 1, "a folded form is whole");
    let statement = "select count(*) from accounts where address is null";
    let statement = sea_orm::Statement::from_string(local.db.read.get_database_backend(), statement);
    let row = local.db.read.query_one_raw(statement).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), 0);
}
