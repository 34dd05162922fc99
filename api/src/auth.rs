//! Authentication: access tokens, and what each role may do. Tokens are JWTs (RFC 7519, with the
//! profile of RFC 9068), authenticated with HS256.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{self, Duration};

use domain::actor::{Actor, Role};
use domain::clock::{self, Timestamp};
use domain::id::MemberId;
use poem::Request;
use poem_openapi::SecurityScheme;
use poem_openapi::auth::Bearer;
use serde::{Deserialize, Serialize};
use shared::database::Database;
use shared::keys::{Authentic, KeyRing, Purpose};
use shared::store::accounts;
use uuid::Uuid;

use crate::context::Context;
use crate::problem::Problem;

/// How long the access token of a person is valid.
pub const TOKEN_LASTS: Duration = Duration::from_secs(30 * 60);
/// How far the clocks of processes may differ.
const CLOCKS_DIFFER: Duration = Duration::from_mins(5);
/// Timeout for refreshing the list of revoked service accounts. On timeout the last known list is
/// used.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a revoked service account may still be taken for valid.
const RECHECK: Duration = Duration::from_secs(5);

/// The claims of an access token.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    iss: String,
    /// The deployment. A token of another one is refused.
    aud: String,
    sub: Uuid,
    role: Role,
    iat: i64,
    /// In seconds since 1970. A service account's token has none, and is valid until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

/// The claims of a service account's token from before Muster had a key ring. Only this one issuer
/// could be read.
#[derive(Debug, Deserialize)]
struct OldClaims {
    #[serde(rename = "iss")]
    _iss: OldIssuer,
    sub: Uuid,
    role: Role,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OldIssuer {
    Muster,
}

/// Issues an access token for this actor, valid from `now`. A service account's token does not
/// expire.
#[must_use]
pub fn issue(key: &KeyRing, actor: Actor, now: Timestamp) -> String {
    let lasts = i64::try_from(TOKEN_LASTS.as_secs()).unwrap_or_default();
    let exp = (actor.role != Role::Service).then(|| now.timestamp() + lasts);
    let (iss, aud) = (key.issuer().to_owned(), key.audience().to_owned());
    let claims = Claims { iss, aud, sub: actor.id, role: actor.role, iat: now.timestamp(), exp };
    key.authenticate(Purpose::Access, &claims)
}

/// The revoked service accounts. The list is short and read again every few seconds, so a request
/// need not ask the database about its own account.
#[derive(Debug, Default)]
pub struct Revoked {
    /// The last known list, and when it was read. It is used while the database is away.
    last: Mutex<Option<(time::Instant, Arc<HashSet<Uuid>>)>>,
    /// When a request last tried to read the list. Its lock lets one request read for all that
    /// wait.
    tried: tokio::sync::Mutex<Option<time::Instant>>,
}

impl Revoked {
    async fn contains(&self, db: &Database, id: Uuid) -> Result<bool, Problem> {
        let known = self.last().clone().filter(|(since, _)| since.elapsed() < RECHECK);
        let revoked = match known {
            Some((_, revoked)) => revoked,
            // Boxed: this future is large and seldom needed, and futures are moved often.
            None => Box::pin(self.read(db)).await?,
        };
        Ok(revoked.contains(&id))
    }

    async fn read(&self, db: &Database) -> Result<Arc<HashSet<Uuid>>, Problem> {
        let asked = time::Instant::now();
        let mut tried = self.tried.lock().await;
        if tried.is_none_or(|tried| tried < asked) {
            let since = time::Instant::now();
            // Other requests wait for this read. A connection that died silently must not block
            // them all.
            match tokio::time::timeout(PATIENCE, accounts::revoked_services(&db.read)).await {
                Ok(Ok(revoked)) => *self.last() = Some((since, Arc::new(revoked))),
                Ok(Err(error)) => {
                    tracing::warn!(
                        %error,
                        "could not read the revoked service accounts; using the last known list"
                    );
                }
                Err(_) => {
                    db.did_not_answer();
                    tracing::warn!(
                        "timed out reading the revoked service accounts; using the last known list"
                    );
                }
            }
            *tried = Some(since);
        }
        self.last().clone().map(|(_, revoked)| revoked).ok_or_else(Problem::database_unavailable)
    }

    fn last(&self) -> MutexGuard<'_, Option<(time::Instant, Arc<HashSet<Uuid>>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A valid access token.
#[derive(Debug, Clone, Copy, SecurityScheme)]
#[oai(rename = "access_token", ty = "bearer", bearer_format = "JWT", checker = "check")]
pub struct Caller(pub Actor);

/// A valid access token of an admin.
#[derive(Debug, Clone, Copy, SecurityScheme)]
#[oai(rename = "admin_access_token", ty = "bearer", bearer_format = "JWT", checker = "check_admin")]
pub struct Admin(pub Actor);

/// A valid access token of an admin or a service account. An admin may change the things of every
/// owner, a service account only its own.
#[derive(Debug, Clone, Copy, SecurityScheme)]
#[oai(rename = "owner_access_token", ty = "bearer", bearer_format = "JWT", checker = "check_owner")]
pub struct Owner(pub Actor);

impl Owner {
    /// The owner whose things the caller may use; none means those of every owner.
    #[must_use]
    pub fn scope(self) -> Option<Uuid> {
        (self.0.role != Role::Admin).then_some(self.0.id)
    }
}

impl Caller {
    /// The member for whom the caller sends a command. It is the member's own id, or the id that a
    /// service names.
    pub fn on_behalf_of(self, named: Option<MemberId>) -> Result<MemberId, Problem> {
        let own = MemberId(self.0.id);
        match (self.0.role, named) {
            (Role::Service, Some(named)) => Ok(named),
            (Role::Service, None) => {
                Err(Problem::invalid_body().detail("a service names the member it acts for: member_id"))
            }
            // Organisers are people too, and register themselves like members. For others they use
            // the admin surface.
            (Role::Member | Role::Admin, None) => Ok(own),
            (Role::Member | Role::Admin, Some(named)) if named == own => Ok(own),
            _ => Err(Problem::forbidden().detail("members act for themselves only")),
        }
    }

    /// The caller, if it is an organiser.
    pub fn admin(self) -> Result<Actor, Problem> {
        if self.0.role == Role::Admin { Ok(self.0) } else { Err(Problem::forbidden()) }
    }

    /// The caller's member id, if the caller is a person.
    pub fn person(self) -> Result<MemberId, Problem> {
        match self.0.role {
            Role::Member | Role::Admin => Ok(MemberId(self.0.id)),
            _ => Err(Problem::forbidden().detail("only a person has a profile and registrations")),
        }
    }
}

async fn check(request: &Request, bearer: Bearer) -> poem::Result<Actor> {
    let cx = request.data::<Context>().ok_or_else(Problem::internal)?;
    Ok(check_valid(cx, &bearer.token).await?.0)
}

async fn check_owner(request: &Request, bearer: Bearer) -> poem::Result<Actor> {
    let actor = check(request, bearer).await?;
    let may = matches!(actor.role, Role::Admin | Role::Service);
    if may { Ok(actor) } else { Err(Problem::forbidden().into()) }
}

async fn check_admin(request: &Request, bearer: Bearer) -> poem::Result<Actor> {
    Ok(Caller(check(request, bearer).await?).admin()?)
}

/// The actor of a valid access token, and for how long the token is valid.
async fn check_valid(cx: &Context, token: &str) -> Result<(Actor, Duration), Problem> {
    let (actor, lasts) = read_token(&cx.key, token)?;
    if actor.role == Role::Service && cx.revoked.contains(&cx.db, actor.id).await? {
        return Err(Problem::unauthorized().detail("the service account was revoked"));
    }
    Ok((actor, lasts))
}

/// The caller who opens a stream, and for how long the token is valid. A browser cannot open a
/// stream with a header, so the token may also be in the address (RFC 6750 §2.3). Addresses are not
/// logged.
pub async fn watching(cx: &Context, token: Option<&str>) -> Result<(Caller, Duration), Problem> {
    let token = token.ok_or_else(Problem::unauthorized)?;
    let (actor, lasts) = check_valid(cx, token).await?;
    Ok((Caller(actor), lasts))
}

/// The actor of a valid access token. This does not check whether a service account was revoked.
pub fn check_token(key: &KeyRing, token: &str) -> Result<Actor, Problem> {
    read_token(key, token).map(|(actor, _)| actor)
}

/// The same, and for how long the token is still valid. For a service account: until it must be
/// checked again.
fn read_token(key: &KeyRing, token: &str) -> Result<(Actor, Duration), Problem> {
    // The clock of this process decides about expiry.
    let now = clock::now();
    let Some((actor, exp)) = current(key, token, now).or_else(|| old(key, token)) else {
        return Err(Problem::unauthorized().detail("this is no access token that was made here"));
    };
    let left = exp.map(|exp| exp - now.timestamp());
    // If a token is valid for longer than any may be, the clock that issued it ran ahead.
    let longest = i64::try_from((TOKEN_LASTS + CLOCKS_DIFFER).as_secs()).unwrap_or(i64::MAX);
    if left.is_some_and(|left| left <= 0 || left > longest) {
        return Err(Problem::unauthorized().detail("the access token has expired"));
    }
    let lasts = left.map_or(TOKEN_LASTS, |left| Duration::from_secs(left.unsigned_abs()));
    Ok((actor, lasts))
}

/// The actor and the expiry of an access token of this deployment.
fn current(key: &KeyRing, token: &str, now: Timestamp) -> Option<(Actor, Option<i64>)> {
    let Authentic { claims, replaced_at } = key.authentic_since::<Claims>(Purpose::Access, token)?;
    let Claims { iss, aud, sub, role, exp, .. } = claims;
    // People's tokens that a replaced secret made have expired by now. A service account's token
    // has no end, and is valid until an operator retires the secret.
    let is_late = role != Role::Service && replaced_at.is_some_and(|at| now >= at + TOKEN_LASTS);
    let is_ours = iss == key.issuer() && aud == key.audience();
    (is_ours && !is_late && role != Role::System).then_some((Actor { role, id: sub }, exp))
}

/// The actor of a service account's token from before Muster had a key ring. It has no expiry.
fn old(key: &KeyRing, token: &str) -> Option<(Actor, Option<i64>)> {
    let OldClaims { sub, role, .. } = key.authentic_before_the_ring(token)?;
    (role == Role::Service).then_some((Actor { role, id: sub }, None))
}

#[cfg(test)]
mod tests {
    use shared::keys::KeyFile;

    use super::*;

    fn actor(role: Role) -> Actor {
        Actor { role, id: Uuid::from_u128(7) }
    }

    #[test]
    fn people_keep_a_token_of_a_replaced_secret_for_half_an_hour_and_services_longer() {
        let now = clock::now();
        let minutes = |minutes| now - chrono::TimeDelta::minutes(minutes);
        for (replaced, is_valid) in [(29, true), (31, false)] {
            let mut file = KeyFile::generate(minutes(600)).unwrap();
            let before = KeyRing::new(file.clone()).unwrap();
            file.rotate(minutes(replaced)).unwrap();
            let after = KeyRing::new(file).unwrap();
            for role in [Role::Member, Role::Admin, Role::Service] {
                let found = check_token(&after, &issue(&before, actor(role), now));
                assert_eq!(found.is_ok(), is_valid || role == Role::Service, "{role:?}, {replaced} minutes");
            }
            assert_eq!(
                check_token(&after, &issue(&after, actor(Role::Member), now)).unwrap(),
                actor(Role::Member)
            );
        }
    }

    #[test]
    fn a_token_names_its_deployment_and_its_address() {
        let file = KeyFile::generate(clock::now()).unwrap();
        let ring = |url| KeyRing::new(file.clone()).unwrap().issued_by(url);
        let token = issue(&ring(Some("https://a.example/")), actor(Role::Member), clock::now());
        assert_eq!(
            check_token(&ring(Some("https://a.example")), &token).unwrap(),
            actor(Role::Member),
            "the same address"
        );
        for other in [None, Some("https://b.example")] {
            assert!(check_token(&ring(other), &token).is_err());
        }
        let other = KeyRing::new(KeyFile::generate(clock::now()).unwrap()).unwrap();
        assert!(check_token(&other, &issue(&ring(None), actor(Role::Member), clock::now())).is_err());
    }
}
