//! Pages of lists: decisions between two pages hide no member, and a cursor only continues the list
//! that it was made for.

use std::collections::BTreeSet;

use domain::drive::UpdateDrive;
use domain::drive::registration::{Register, Registration, RegistrationState, Withdraw};
use domain::id::{DriveId, MemberId};
use reqwest::Method;
use serde_json::{Value, json};
use shared::store::registrations::{self, After};

use crate::deployment::{Client, Embedded, Engine, eventually};
use crate::local::{Local, assert_ok, member, register};

on_every_database! {
    nobody_is_lost_while_people_are_promoted_withdraw_and_come_again,
    places_in_waiting_lists_are_those_of_the_lists,
}

const ACTIVE: [RegistrationState; 2] = [RegistrationState::Confirmed, RegistrationState::Waitlisted];

/// Pseudo-random numbers that are the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

async fn page(local: &Local, drive_id: DriveId, after: Option<After>, limit: u64) -> Vec<Registration> {
    registrations::of_drive(&local.db.read, drive_id, &ACTIVE, None, after, limit).await.unwrap()
}

async fn with_capacity(local: &Local, drive_id: DriveId, capacity: u32) {
    let changes = serde_json::from_value(json!({ "capacity": capacity })).unwrap();
    assert_ok(&local.decide(UpdateDrive { drive_id, changes }).await);
}

async fn nobody_is_lost_while_people_are_promoted_withdraw_and_come_again(engine: Engine) {
    let local = Local::start(engine).await;
    for seed in 0..6 {
        let mut chance = Chance(seed);
        let mut capacity = 2;
        let drive_id = local.open_drive(json!({ "capacity": capacity, "waitlist_capacity": 99 })).await;
        let mut people = Vec::new();
        for _ in 0..8 {
            people.push(local.member(json!({})).await);
        }
        for member_id in &people {
            assert_ok(&local.register(drive_id, *member_id).await);
        }
        let mut away: BTreeSet<MemberId> = BTreeSet::new();
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let found = page(&local, drive_id, after, 1 + seed % 2).await;
            let Some(last) = found.last() else { break };
            after = Some(After::from(last));
            listed.extend(found.iter().map(|one| one.member_id));
            assert!(listed.len() < 50, "it comes to an end");
            // Between the pages, members are promoted, withdraw, or register again.
            capacity += 1;
            with_capacity(&local, drive_id, capacity).await;
            let who = people[chance.below(people.len())];
            if away.remove(&who) {
                assert_ok(&local.register(drive_id, who).await);
            } else if listed.len() < 12 {
                let withdraw = Withdraw { drive_id, member_id: who };
                assert_ok(&local.decide_as(member(who), withdraw).await);
                if chance.below(2) == 0 {
                    assert_ok(&local.register(drive_id, who).await);
                } else {
                    away.insert(who);
                }
            }
        }
        // This includes members who withdrew and registered again further behind.
        let listed: BTreeSet<_> = listed.into_iter().collect();
        for member_id in people.iter().filter(|member_id| !away.contains(member_id)) {
            assert!(listed.contains(member_id), "seed {seed}: {member_id} is on no page");
        }
    }
    local.verify().await.unwrap();
}

async fn places_in_waiting_lists_are_those_of_the_lists(engine: Engine) {
    let local = Local::start(engine).await;
    let slots = json!([
        { "name": "morning", "capacity": 1, "waitlist_capacity": 9 },
        { "name": "evening", "capacity": 1, "waitlist_capacity": 9 },
    ]);
    let drive_id = local.open_drive(json!({ "slots": slots })).await;
    let other = local.open_drive(json!({ "capacity": 1, "waitlist_capacity": 9 })).await;
    let view = shared::store::drives::find(&local.db.read, drive_id).await.unwrap().unwrap();
    let slots: Vec<_> = view.drive.definition.slots.iter().map(|slot| slot.slot_id).collect();
    let mut people = Vec::new();
    for number in 0..7 {
        let member_id = local.member(json!({})).await;
        let into = Register { slot_id: Some(slots[number % 2]), ..register(drive_id, member_id) };
        assert_ok(&local.decide_as(member(member_id), into).await);
        assert_ok(&local.register(other, member_id).await);
        people.push(member_id);
    }
    let positions = async |of: &[MemberId]| {
        let found = registrations::waitlist_positions_of(&local.db.read, drive_id, of.iter().copied()).await;
        people.iter().map(|member_id| found.as_ref().unwrap().get(member_id).copied()).collect::<Vec<_>>()
    };
    let all = [None, None, Some(1), Some(1), Some(2), Some(2), Some(3)];
    assert_eq!(positions(&people).await, all);
    assert_eq!(positions(&people[5..6]).await, [None, None, None, None, None, Some(2), None]);
    assert_eq!(positions(&[]).await, [None; 7]);
    let withdraw = Withdraw { drive_id, member_id: people[2] };
    assert_ok(&local.decide_as(member(people[2]), withdraw).await);
    assert_eq!(positions(&people).await, [None, None, None, Some(1), Some(1), Some(2), Some(2)]);
}

/// All items of a list, by following its cursors. `between` runs after each page.
async fn walk(client: &Client, path: &str, between: impl AsyncFn(usize)) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    for number in 0.. {
        let page = client.get(&format!("{path}{cursor}")).await;
        assert_eq!(page.status, 200, "{:?}", page.body);
        items.extend(page.body["items"].as_array().unwrap().clone());
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        assert!(number < 100, "it comes to an end");
        cursor = format!("&cursor={next}");
        between(number).await;
    }
    items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_is_listed_while_capacity_is_raised_and_those_who_wait_see_where() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive_id = admin.open_drive(json!({ "capacity": 1, "waitlist_capacity": 9 })).await;
    for name in ["ann", "ben", "cem", "dua", "eva"] {
        let person = Client::member(url, name).await;
        person.decide(Method::POST, &format!("/api/v1/drives/{drive_id}/registrations"), &json!({})).await;
    }
    let path = format!("/admin/v1/drives/{drive_id}/registrations?limit=1");
    let positions =
        |items: &[Value]| items.iter().map(|item| item["waitlist_position"].clone()).collect::<Vec<_>>();
    let before = walk(&admin, &path, async |_| {}).await;
    assert_eq!(positions(&before), [json!(null), json!(1), json!(2), json!(3), json!(4)]);
    let drive = format!("/admin/v1/drives/{drive_id}");
    let items = walk(&admin, &path, async |number| {
        let raised = admin.decide(Method::PATCH, &drive, &json!({ "capacity": number + 3 })).await;
        assert_eq!(raised.status, 200);
    })
    .await;
    let names: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ann", "ben", "cem", "dua", "eva"]);
    assert_eq!(positions(&items), vec![json!(null); 5], "each has a place by the time it is listed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_continues_the_list_that_made_it_and_nothing_else() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let (one, other) = (admin.open_drive(json!({})).await, admin.open_drive(json!({})).await);
    let (ann, ben) = (Client::member(url, "ann").await, Client::member(url, "ben").await);
    for drive_id in [&one, &other] {
        for person in [&ann, &ben] {
            person
                .decide(Method::POST, &format!("/api/v1/drives/{drive_id}/registrations"), &json!({}))
                .await;
        }
    }
    for person in [&ann, &ben] {
        eventually("there are messages", || async {
            let inbox = person.get("/api/v1/me/notifications").await;
            (inbox.body["items"].as_array().unwrap().len() == 2).then_some(())
        })
        .await;
    }
    let registrations =
        |drive_id: &str, filter: &str| format!("/admin/v1/drives/{drive_id}/registrations?{filter}");
    // Each of these lists has at least two pages.
    let lists: Vec<(&Client, String)> = vec![
        (&ann, "/api/v1/drives?".to_owned()),
        (&ann, "/api/v1/drives?status=open&".to_owned()),
        (&admin, "/admin/v1/drives?".to_owned()),
        (&admin, "/admin/v1/drives?kind=other&".to_owned()),
        (&admin, "/admin/v1/members?".to_owned()),
        (&admin, "/admin/v1/members?q=x.org&".to_owned()),
        (&admin, registrations(&one, "")),
        (&admin, registrations(&other, "")),
        (&admin, registrations(&one, "state=confirmed&")),
        (&admin, registrations(&one, "q=x.org&")),
        (&ann, "/api/v1/me/registrations?".to_owned()),
        (&ben, "/api/v1/me/registrations?".to_owned()),
        (&ann, "/api/v1/me/notifications?".to_owned()),
        (&ann, "/api/v1/me/notifications?unread=true&".to_owned()),
        (&ben, "/api/v1/me/notifications?".to_owned()),
    ];
    let mut cursors = Vec::new();
    for (client, path) in &lists {
        let page = client.get(&format!("{path}limit=1")).await;
        let cursor = page.body["next_cursor"].as_str().unwrap_or_else(|| panic!("{path}: {:?}", page.body));
        cursors.push(cursor.to_owned());
    }
    for (at, (client, path)) in lists.iter().enumerate() {
        for (from, cursor) in cursors.iter().enumerate() {
            // A cursor does not depend on the size of the page.
            let page = client.get(&format!("{path}limit=2&cursor={cursor}")).await;
            if at == from {
                assert_eq!(page.status, 200, "{path}");
            } else {
                let found = (page.status.as_u16(), page.code());
                assert_eq!(found, (400, "invalid-cursor"), "{path} with one of {}", lists[from].1);
            }
        }
        let huge = "A".repeat(5000);
        let beyond_the_calendar = domain::hash::base64url(
            br#"{"registered_at":"+262000-01-01T00:00:00Z","member_id":"00000000-0000-0000-0000-000000000000"}"#,
        );
        let old = domain::hash::base64url(br#"{"state":"confirmed","rank":7}"#);
        for broken in ["", "%00", "x", "bnVsbA", "e30", &huge, &beyond_the_calendar, &old, &cursors[at][1..]]
        {
            let page = client.get(&format!("{path}cursor={broken}")).await;
            assert_eq!((page.status.as_u16(), page.code()), (400, "invalid-cursor"), "{path} with {broken}");
        }
    }
}
