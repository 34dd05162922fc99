//! The texts of mails: sentences instead of names of rules, and no line about unknown values.

use serde_json::json;

use super::{Muster, register};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_what_the_rule_says() {
    let muster = Muster::start().await;
    let rules = json!([
        { "name": "adult", "when": "member.age >= 18", "message": "Donors are at least 18" },
        { "name": "healthy", "when": "member.healthy == true", "message": "Come back when you are well" },
    ]);
    let drive = muster.drive(json!({ "rules": rules })).await;
    register(&muster.member("ann").await, &drive).await;
    let mails = muster.received(1).await;
    let text = mails[0]["text"].as_str().unwrap().replace("\r\n", "\n");
    assert!(text.contains("- Donors are at least 18\n- Come back when you are well"), "{text}");
    assert!(!text.contains("healthy"), "{text}");
    assert!(text.starts_with("Hello ann,\n"), "{text}");
}
