//! Streams whose client sends a number that the stream never had.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::deployment::{Client, Embedded};
use crate::streams::{By, Connection};

/// The client's number may come from before a restore, or from another deployment.
#[tokio::test]
async fn a_number_beyond_the_end_is_told_to_start_over_and_goes_on_from_there() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let person = Client::member(url, "m").await;
    let drive_id = admin.open_drive(json!({ "capacity": 1 })).await;
    let log = format!("/admin/v1/drives/{drive_id}/events");
    let registrations = format!("/api/v1/drives/{drive_id}/registrations");
    let places = format!("/api/v1/drives/{drive_id}/events");
    for (client, path, has_standing) in [(&admin, &log, false), (&Client::nobody(url), &places, true)] {
        for by in [By::Events, By::Socket] {
            let mut stream = Connection::open(client, path, by, Some(99_999)).await.unwrap();
            let (end, data) = stream.told().await;
            assert_eq!(data, json!({ "end": end }), "{path} {by:?}");
            if has_standing {
                assert_eq!(stream.told().await.0, end, "how it stands comes as at the beginning");
            }
            let click = if end % 2 == 1 {
                (Method::POST, registrations.clone())
            } else {
                (Method::POST, format!("{registrations}/mine/withdrawal"))
            };
            person.decide(click.0, &click.1, &json!({})).await;
            let (next, data) = stream.told().await;
            assert!(next > end && data != json!({ "end": next }), "{path} {by:?}: {next} {data}");
            // A client that reconnects with the reset's number does not get the reset again.
            let mut back = Connection::open(client, path, by, Some(end)).await.unwrap();
            assert_eq!(back.told().await.0, next, "{path} {by:?}");
        }
    }
    // Programs look for these words. The headers are not valid numbers of this stream.
    for last in ["99999", "99999999999999999999999", "-1", "none"] {
        let mut stream = admin.request(Method::GET, &log).header("Last-Event-ID", last).send().await.unwrap();
        assert_eq!(stream.status(), StatusCode::OK, "{last}");
        let mut text = String::new();
        while !text.contains("data: ") {
            text.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap());
        }
        assert!(text.contains("event: reset\nid: ") && text.contains("data: {\"end\":"), "{text}");
    }
}
