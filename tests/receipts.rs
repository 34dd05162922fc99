//! Receipts prove which commands were accepted, and in which order.

use serde_json::json;

use crate::deployment::{Client, Embedded, eventually, muster};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_are_verified_in_the_order_in_which_they_were_given() {
    let running = Embedded::start().await;
    let url = &running.process.url;
    let admin = Client::admin(url, url).await;
    let drives = [admin.open_drive(json!({ "capacity": 2 })).await, admin.open_drive(json!({})).await];
    let (mut receipts, mut last) = (Vec::new(), String::new());
    for number in 0..4 {
        let person = Client::member(url, &format!("p{number}")).await;
        for drive in &drives {
            let answer = person.post(&format!("/api/v1/drives/{drive}/registrations"), &json!({})).await;
            assert_eq!(answer.status, 202, "{answer:?}");
            receipts.push(answer.body["receipt"].as_str().unwrap().to_owned());
            answer.body["command_id"].as_str().unwrap().clone_into(&mut last);
        }
    }
    eventually("all are decided", || async {
        let status = admin.get(&format!("/api/v1/commands/{last}")).await;
        status.body["decided_at"].as_str().map(drop)
    })
    .await;
    let data = running.folder.0.join("data");
    let file = running.folder.0.join("receipts");
    let env = [("DATA_DIR", data.display().to_string())];
    let verify = |lines: &[String]| {
        std::fs::write(&file, lines.join("\n")).unwrap();
        muster(&["verify", "--receipts", file.to_str().unwrap()], &env)
    };
    // Refusals are in the log, too. Repeated receipts and empty lines are ignored.
    let again = [&receipts[..], &[String::new(), receipts[0].clone()]].concat();
    for lines in [&receipts, &again] {
        let (succeeded, said) = verify(lines);
        assert!(succeeded && said.contains("verified: ") && said.contains("receipts"), "{said}");
    }
    // Clicks on two drives may be decided in any order. Those on one drive may not.
    let mut swapped = receipts.clone();
    swapped.swap(2, 3);
    assert!(verify(&swapped).0);
    swapped.swap(0, 4);
    let (succeeded, said) = verify(&swapped);
    assert!(!succeeded && said.contains("DIFFERENCE") && said.contains("decided before it"), "{said}");
    // A foreign receipt, a changed one, and an invalid text.
    let other = Embedded::start().await;
    let foreign = Client::admin(&other.process.url, &other.process.url).await;
    let foreign = foreign.post("/admin/v1/drives", &crate::deployment::drive(json!({}))).await;
    let foreign = foreign.body["receipt"].as_str().unwrap().to_owned();
    for wrong in [foreign, format!("{}A", receipts[0]), "receipt".to_owned()] {
        let (succeeded, said) = verify(&[receipts[0].clone(), wrong]);
        assert!(!succeeded && said.contains("line 2 is no receipt"), "{said}");
    }
    // The receipt of a command that was accepted and lost.
    let key = shared::keys::KeyRing::in_folder(&data).unwrap();
    let mut claims: shared::receipt::Claims =
        key.verified(shared::receipt::RECEIPT_TYPE, &receipts[0]).unwrap();
    claims.command_id = key.new_command_id(domain::clock::now());
    let lost = key.sign(shared::receipt::RECEIPT_TYPE, &claims);
    let (succeeded, said) = verify(&[lost]);
    assert!(!succeeded && said.contains("is not decided"), "{said}");
}
