//! An HTTP client of Muster, as any user could write it. When the server asks it to retry, it sends
//! the same Idempotency-Key.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, bail};
use domain::id::{DriveId, MemberId};
use domain::text::with_causes;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use shared::backoff::Backoff;

/// Timeout of a request: longer than any wait for a decision.
const PATIENCE: Duration = Duration::from_secs(40);
/// The most attempts at a request while the deployment is away.
const ATTEMPTS: u32 = 60;

/// A client of one deployment.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    members: String,
    admins: String,
    /// The most requests at a time.
    pub connections: usize,
    admin_token: OnceLock<String>,
    service_token: OnceLock<String>,
}

/// The surface of a request, and its caller.
#[derive(Debug, Clone, Copy)]
pub enum As {
    /// Without a token.
    Nobody,
    /// The organisers' surface, as the admin that logged in.
    Admin,
    /// The members' surface, as the service account.
    Service,
}

impl Client {
    /// A client of the deployment with these URLs. It makes at most `connections` requests at a
    /// time.
    pub fn new(members: &str, admins: &str, connections: u16) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .pool_max_idle_per_host(usize::from(connections))
            .build()
            .context("make an HTTP client")?;
        let trimmed = |url: &str| url.trim_end_matches('/').to_owned();
        Ok(Self {
            http,
            members: trimmed(members),
            admins: trimmed(admins),
            connections: usize::from(connections),
            admin_token: OnceLock::new(),
            service_token: OnceLock::new(),
        })
    }

    /// The members' surface.
    pub fn members_url(&self) -> &str {
        &self.members
    }

    /// Waits until both surfaces say that they are ready.
    pub async fn wait_until_ready(&self, patience: Duration) -> anyhow::Result<()> {
        for url in [&self.members, &self.admins] {
            let (mut backoff, mut why) = (Backoff::default(), "no answer".to_owned());
            let ready = async {
                loop {
                    match self.http.get(format!("{url}/readyz")).send().await {
                        Ok(answer) if answer.status().is_success() => return,
                        Ok(answer) => why = format!("it answers {}", answer.status()),
                        Err(error) => why = with_causes(&error),
                    }
                    backoff.wait().await;
                }
            };
            if tokio::time::timeout(patience, ready).await.is_err() {
                bail!("{url} did not become ready: {why}");
            }
        }
        Ok(())
    }

    /// Logs an admin in and makes a service account that registers on behalf of members.
    pub async fn log_in(&self, email: &str, password: &str) -> anyhow::Result<()> {
        let body = json!({ "email": email, "password": password });
        let (status, answer) =
            self.send(As::Nobody, Method::POST, "/api/v1/auth/login", Some(&body), None).await?;
        let token = answer["access_token"]
            .as_str()
            .with_context(|| format!("log in as {email}: {status} {answer}"))?;
        let _ = self.admin_token.set(token.to_owned());
        let token = self.service_account("demo").await?;
        let _ = self.service_token.set(token);
        Ok(())
    }

    /// Makes a service account and returns its token.
    pub async fn service_account(&self, name: &str) -> anyhow::Result<String> {
        let body = json!({ "name": name });
        let (status, answer) =
            self.send(As::Admin, Method::POST, "/admin/v1/service-accounts", Some(&body), None).await?;
        let token = answer["token"].as_str();
        Ok(token.with_context(|| format!("make a service account: {status} {answer}"))?.to_owned())
    }

    /// The service account's `authorization` header.
    pub fn service_authorization(&self) -> anyhow::Result<String> {
        Ok(format!("Bearer {}", self.service_token.get().context("nobody has logged in")?))
    }

    /// Sends a GET request.
    pub async fn get(&self, who: As, path: &str) -> anyhow::Result<Value> {
        let (status, answer) = self.send(who, Method::GET, path, None, None).await?;
        if status.is_success() { Ok(answer) } else { bail!("read {path}: {status} {answer}") }
    }

    /// Submits a command, waits for its decision, and returns the outcome.
    pub async fn decide(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let key = uuid::Uuid::now_v7().to_string();
        let (status, answer) = self.send(As::Admin, Method::POST, path, Some(body), Some(&key)).await?;
        self.outcome(path, status, answer).await
    }

    /// Imports people and returns the outcome.
    pub async fn import(&self, csv: &str) -> anyhow::Result<Value> {
        let path = "/admin/v1/members/import";
        let key = uuid::Uuid::now_v7().to_string();
        let request = || {
            self.request(As::Admin, Method::POST, path, Some(&key))
                .header("content-type", "text/csv")
                .body(csv.to_owned())
        };
        let (status, answer) = self.patiently(request).await?;
        self.outcome(path, status, answer).await
    }

    /// Creates a drive that is open for a day, and publishes it.
    pub async fn open_drive(&self, mut drive: Value) -> anyhow::Result<DriveId> {
        let now = domain::clock::now();
        drive["opens_at"] = json!(now - Duration::from_secs(60));
        drive["closes_at"] = json!(now + Duration::from_secs(24 * 3600));
        let created = self.decide("/admin/v1/drives", &drive).await?;
        let id = created["drive_id"].as_str().context("a drive without an id")?;
        self.decide(&format!("/admin/v1/drives/{id}/publish"), &json!({})).await?;
        Ok(id.parse()?)
    }

    /// The addresses and ids of the people with `text` in their name or e-mail address. There must
    /// be `count` of them.
    pub async fn members(&self, text: &str, count: usize) -> anyhow::Result<Vec<(String, MemberId)>> {
        let mut found = Vec::with_capacity(count);
        let mut cursor = String::new();
        loop {
            let page = self.get(As::Admin, &format!("/admin/v1/members?limit=200&q={text}{cursor}")).await?;
            for item in page["items"].as_array().into_iter().flatten() {
                let (email, id) = (item["email"].as_str(), item["member_id"].as_str());
                let (email, id) = email.zip(id).context("a member without an address or an id")?;
                found.push((email.to_owned(), id.parse()?));
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None if found.len() == count => return Ok(found),
                None => bail!("found {} of {count} people", found.len()),
            }
        }
    }

    async fn outcome(&self, path: &str, status: StatusCode, answer: Value) -> anyhow::Result<Value> {
        if !status.is_success() {
            bail!("{path}: {status} {answer}");
        }
        let id = answer["command_id"].as_str().context("a receipt without an id")?.to_owned();
        let mut decided = answer;
        let mut backoff = Backoff::default();
        while decided["status"] == "accepted" {
            backoff.wait().await;
            decided = self.get(As::Admin, &format!("/api/v1/commands/{id}")).await?;
        }
        if decided["status"] == "succeeded" { Ok(decided) } else { bail!("{path}: {decided}") }
    }

    /// Sends a request until the answer is not "try again".
    pub async fn send(
        &self,
        who: As,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let request = || {
            let request = self.request(who, method.clone(), path, key);
            match body {
                Some(body) => request.json(body),
                None => request,
            }
        };
        self.patiently(request).await
    }

    fn request(&self, who: As, method: Method, path: &str, key: Option<&str>) -> RequestBuilder {
        let surface = if path.starts_with("/admin/") { &self.admins } else { &self.members };
        let mut request = self.http.request(method, format!("{surface}{path}"));
        let token = match who {
            As::Nobody => None,
            As::Admin => self.admin_token.get(),
            As::Service => self.service_token.get(),
        };
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        // Organisers wait for their commands; a rush does not.
        if matches!(who, As::Admin) { request.header("prefer", "wait=30") } else { request }
    }

    async fn patiently(&self, request: impl Fn() -> RequestBuilder) -> anyhow::Result<(StatusCode, Value)> {
        let mut backoff = Backoff::default();
        loop {
            match request().send().await {
                Ok(answer) if answer.status() != StatusCode::SERVICE_UNAVAILABLE => {
                    let status = answer.status();
                    let text = answer.text().await.context("read an answer")?;
                    return Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))));
                }
                Ok(answer) if backoff.failures() >= ATTEMPTS => bail!("it answers {}", answer.status()),
                Err(error) if backoff.failures() >= ATTEMPTS => return Err(error).context("send a request"),
                _ => backoff.wait().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_become_ready_is_named_with_the_reason() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let client = Client::new(&format!("http://{free}/"), "http://127.0.0.1:1", 1).unwrap();
        let said = client.wait_until_ready(Duration::from_millis(300)).await.unwrap_err().to_string();
        assert!(said.starts_with(&format!("http://{free} did not become ready: ")), "{said}");
        assert!(said.contains("refused"), "{said}");
    }
}
