//! Sends one signed message to one address. It never connects to addresses that only this machine
//! and its network reach.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::clock::{self, Timestamp};
use domain::text::{shortened, with_causes};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, redirect};
use shared::webhook::address::{Allowed, Refused};
use shared::webhook::{Attempt, Delivery, Webhook};
use uuid::Uuid;

/// Timeout for connecting.
const CONNECT: Duration = Duration::from_secs(5);
/// Timeout of a whole attempt, from the DNS query to the last byte.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// The most bytes read of an answer: enough to reuse the connection after an ordinary one.
const MOST_READ: usize = 16 * 1024;
/// The most characters kept of an answer.
const MOST_KEPT: usize = 1024;
/// The most characters kept of the reason why there was no answer.
const MOST_REASON: usize = 300;

/// Resolves a name.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Sends messages.
#[derive(Debug, Clone)]
pub struct Post {
    client: Client,
    allowed: Arc<Allowed>,
}

/// Resolves names to permitted addresses. The client connects to exactly these, so DNS rebinding
/// gains nothing.
struct Guard {
    allowed: Arc<Allowed>,
    lookup: Lookup,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (allowed, found) = (self.allowed.clone(), (self.lookup)(name.as_str().to_owned()));
        Box::pin(async move {
            let found = found.await?;
            let may = |address: &IpAddr| allowed.host(name.as_str()) || allowed.address(*address);
            let may: Vec<_> =
                found.iter().copied().filter(may).map(|address| SocketAddr::new(address, 0)).collect();
            if may.is_empty() {
                let found: Vec<_> = found.iter().map(ToString::to_string).collect();
                return Err(Refused::NotPublic(found.join(", ")).into());
            }
            Ok(Box::new(may.into_iter()) as Addrs)
        })
    }
}

fn system(host: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
    let looked_up = async move {
        let found = tokio::net::lookup_host((host, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    };
    looked_up.boxed()
}

impl Post {
    /// Sends to public addresses, and to the extra ones that the operator allows.
    #[must_use]
    pub fn new(allowed: Allowed) -> Self {
        Self::with_lookup(allowed, Arc::new(system))
    }

    /// The same with another resolver.
    #[must_use]
    pub fn with_lookup(allowed: Allowed, lookup: Lookup) -> Self {
        let allowed = Arc::new(allowed);
        let client = Client::builder()
            .dns_resolver(Arc::new(Guard { allowed: allowed.clone(), lookup }))
            .redirect(redirect::Policy::none())
            // A proxy would resolve names itself.
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(TIMEOUT)
            .user_agent(concat!("Muster/", env!("CARGO_PKG_VERSION")))
            .build()
            .expect("these settings go together");
        Self { client, allowed }
    }

    /// Sends a delivery once. `body` is its event, if the log still has it.
    pub async fn send(&self, webhook: &Webhook, delivery: &Delivery, body: Option<Bytes>) -> Attempt {
        let (at, since) = (clock::now(), std::time::Instant::now());
        let request_headers = vec![
            (CONTENT_TYPE.to_string(), "application/cloudevents+json; charset=utf-8".to_owned()),
            ("webhook-id".to_owned(), delivery.event_id.to_string()),
            ("webhook-timestamp".to_owned(), at.timestamp().to_string()),
        ];
        let answered = async {
            let body = body.ok_or_else(|| "the event is not in its drive's log any more".to_owned())?;
            let url = self.allowed.url(&webhook.url).map_err(|refused| with_causes(&refused))?;
            let mut request = self.client.post(url);
            for (name, value) in &request_headers {
                request = request.header(name, value);
            }
            let signatures = webhook.signatures(at, delivery.event_id, &body);
            let request = request.header("webhook-signature", signatures).body(body);
            let response = request.send().await.map_err(|error| reason(error.without_url()))?;
            let asked =
                response.headers().get(RETRY_AFTER).and_then(|asked| retry_after(asked.to_str().ok()?, at));
            let asked = asked.filter(|_| !response.status().is_success());
            Ok::<_, String>((response.status().as_u16(), asked, beginning(response).await))
        };
        let (status, retry_after, answer, error) = match answered.await {
            Ok((status, asked, answer)) => (Some(status), asked, answer, None),
            Err(reason) => (None, None, String::new(), Some(storable(&reason, MOST_REASON))),
        };
        Attempt {
            id: Uuid::now_v7(),
            delivery_id: delivery.id,
            at,
            took: since.elapsed(),
            request_headers,
            status,
            answer,
            error,
            retry_after,
        }
    }
}

/// The instant that a `Retry-After` means ([RFC
/// 9110](https://www.rfc-editor.org/rfc/rfc9110#field.retry-after)): seconds from `now`, or a date.
/// None if it is neither.
fn retry_after(asked: &str, now: Timestamp) -> Option<Timestamp> {
    let asked = asked.trim();
    if asked.is_empty() || !asked.bytes().all(|byte| byte.is_ascii_digit()) {
        return httpdate::parse_http_date(asked).ok().map(Timestamp::from);
    }
    // The number may be huge. The caller bounds it.
    let seconds = asked.parse().unwrap_or(u32::MAX);
    Some(now + chrono::Duration::seconds(seconds.into()))
}

/// The beginning of an answer, as text. An endless or broken body still counts as an answer.
async fn beginning(mut response: reqwest::Response) -> String {
    let mut read = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        read.extend_from_slice(&piece[..piece.len().min(MOST_READ - read.len())]);
        if read.len() >= MOST_READ {
            break;
        }
    }
    storable(&String::from_utf8_lossy(&read), MOST_KEPT)
}

/// A text that every database accepts.
fn storable(text: &str, most: usize) -> String {
    shortened(text.replace('\0', "\u{fffd}"), most)
}

/// Why there was no answer.
fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    with_causes(&error)
}

#[cfg(test)]
mod tests {
    use domain::clock::from_ms;

    use super::retry_after;

    #[test]
    fn receivers_ask_in_seconds_or_with_a_date() {
        let now = from_ms(784_111_777_000);
        for (asked, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999", Some(i64::from(u32::MAX))),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(-60)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("١٢", None),
        ] {
            let found = retry_after(asked, now).map(|at| (at - now).num_seconds());
            assert_eq!(found, seconds, "{asked:?}");
        }
    }
}
