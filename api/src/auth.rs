//! Who asks: access tokens (JWT, RFC 7519 with the profile of RFC 9068, authenticated with HS256), and what each role may.

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
use shared::signing::SigningKey;
use shared::store::accounts;
use uuid::Uuid;

use crate::context::Context;
use crate::problem::Problem;

/// The `typ` of an access token (RFC 9068 §2.1).
const TOKEN_TYPE: &str = "at+jwt";
/// How long an access token of a person lasts.
pub const TOKEN_LASTS: Duration = Duration::from_secs(30 * 60);
/// How far the clocks of processes may differ.
const CLOCKS_DIFFER: Duration = Duration::from_mins(5);
/// Timeout for refreshing the list of revoked service accounts. On timeout the last known list is used.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a revoked service account may still be taken for valid.
const RECHECK: Duration = Duration::from_secs(5);

/// The `iss` of an access token: there is one.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Issuer {
    Muster,
}

/// What an access token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    iss: Issuer,
    sub: Uuid,
    role: Role,
    iat: i64,
    /// In seconds since 1970; a service account's token has none and lasts until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

/// An access token for this actor, valid from `now`; for good if it is a service account's.
#[must_use]
pub fn issue(key: &SigningKey, actor: Actor, now: Timestamp) -> String {
    let lasts = i64::try_from(TOKEN_LASTS.as_secs()).unwrap_or_default();
    let exp = (actor.role != Role::Service).then(|| now.timestamp() + lasts);
    let claims = Claims { iss: Issuer::Muster, sub: actor.id, role: actor.role, iat: now.timestamp(), exp };
    key.authenticate(TOKEN_TYPE, &claims)
}

/// The service accounts that were revoked, read again every few seconds: few are, so no request waits for the database
/// to learn that its own was not.
#[derive(Debug, Default)]
pub struct Revoked {
    /// What was known last, and since when. While the database is away, it counts.
    last: Mutex<Option<(time::Instant, Arc<HashSet<Uuid>>)>>,
    /// Who reads does it for all that want to by then. When somebody did last.
    tried: tokio::sync::Mutex<Option<time::Instant>>,
}

impl Revoked {
    async fn contains(&self, db: &Database, id: Uuid) -> Result<bool, Problem> {
        let known = self.last().clone().filter(|(since, _)| since.elapsed() < RECHECK);
        let revoked = match known {
            Some((_, revoked)) => revoked,
            // In a piece of memory of its own: it is large, seldom needed, and futures are moved about.
            None => Box::pin(self.read(db)).await?,
        };
        Ok(revoked.contains(&id))
    }

    async fn read(&self, db: &Database) -> Result<Arc<HashSet<Uuid>>, Problem> {
        let asked = time::Instant::now();
        let mut tried = self.tried.lock().await;
        if tried.is_none_or(|tried| tried < asked) {
            let since = time::Instant::now();
            // Others wait meanwhile, so a connection that died without a word must not hold them all.
            match tokio::time::timeout(PATIENCE, accounts::revoked_services(&db.read)).await {
                Ok(Ok(revoked)) => *self.last() = Some((since, Arc::new(revoked))),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "could not read which service accounts were revoked");
                }
                Err(_) => {
                    db.did_not_answer();
                    tracing::warn!("the database did not say in time which service accounts were revoked");
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

/// Whoever shows a valid access token.
#[derive(Debug, Clone, Copy, SecurityScheme)]
#[oai(rename = "access_token", ty = "bearer", bearer_format = "JWT", checker = "check")]
pub struct Caller(pub Actor);

/// Whoever shows an admin's valid access token.
#[derive(Debug, Clone, Copy, SecurityScheme)]
#[oai(rename = "admin_access_token", ty = "bearer", bearer_format = "JWT", checker = "check_admin")]
pub struct Admin(pub Actor);

/// Whoever shows a valid access token of an admin, who may change what all own, or of a service account, which may change
/// what it owns.
#[derive(Debug, Clone, Copy, SecurityScheme)]
#[oai(rename = "owner_access_token", ty = "bearer", bearer_format = "JWT", checker = "check_owner")]
pub struct Owner(pub Actor);

impl Owner {
    /// Whose things these may be; none for everyone's.
    #[must_use]
    pub fn scope(self) -> Option<Uuid> {
        (self.0.role != Role::Admin).then_some(self.0.id)
    }
}

impl Caller {
    /// The member on whose behalf a command is: a member's own id, or the one that a service names.
    pub fn on_behalf_of(self, named: Option<MemberId>) -> Result<MemberId, Problem> {
        let own = MemberId(self.0.id);
        match (self.0.role, named) {
            (Role::Service, Some(named)) => Ok(named),
            (Role::Service, None) => {
                Err(Problem::invalid_body().detail("a service names the member it acts for: member_id"))
            }
            // Organisers are people, too; for others they have their own surface.
            (Role::Member | Role::Admin, None) => Ok(own),
            (Role::Member | Role::Admin, Some(named)) if named == own => Ok(own),
            _ => Err(Problem::forbidden().detail("members act for themselves only")),
        }
    }

    /// An organiser who asks.
    pub fn admin(self) -> Result<Actor, Problem> {
        if self.0.role == Role::Admin { Ok(self.0) } else { Err(Problem::forbidden()) }
    }

    /// The person who asks.
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

/// Whose access token this is, if it still counts, and for how long.
async fn check_valid(cx: &Context, token: &str) -> Result<(Actor, Duration), Problem> {
    let (actor, lasts) = read_token(&cx.key, token)?;
    if actor.role == Role::Service && cx.revoked.contains(&cx.db, actor.id).await? {
        return Err(Problem::unauthorized().detail("the service account was revoked"));
    }
    Ok((actor, lasts))
}

/// Whoever opens a stream, and for how long they may. A browser cannot send a header with one, so the token may stand in the address as well (RFC 6750
/// §2.3); addresses are not logged.
pub async fn watching(cx: &Context, token: Option<&str>) -> Result<(Caller, Duration), Problem> {
    let token = token.ok_or_else(Problem::unauthorized)?;
    let (actor, lasts) = check_valid(cx, token).await?;
    Ok((Caller(actor), lasts))
}

/// Whose valid access token this is. Whether a service account was revoked is not known here.
pub fn check_token(key: &SigningKey, token: &str) -> Result<Actor, Problem> {
    read_token(key, token).map(|(actor, _)| actor)
}

/// The same, and for how long it counts yet; that of a service, until it has to be looked at again.
fn read_token(key: &SigningKey, token: &str) -> Result<(Actor, Duration), Problem> {
    let claims = key.authentic(TOKEN_TYPE, token).filter(|claims: &Claims| claims.role != Role::System);
    let Some(Claims { sub, role, exp, .. }) = claims else {
        return Err(Problem::unauthorized().detail("this is no access token that was made here"));
    };
    // Expiry is judged by this system's own clock.
    let left = exp.map(|exp| exp - clock::now().timestamp());
    // One that lasts longer than any was made by a clock that ran ahead.
    let longest = i64::try_from((TOKEN_LASTS + CLOCKS_DIFFER).as_secs()).unwrap_or(i64::MAX);
    if left.is_some_and(|left| left <= 0 || left > longest) {
        return Err(Problem::unauthorized().detail("the access token has expired"));
    }
    let lasts = left.map_or(TOKEN_LASTS, |left| Duration::from_secs(left.unsigned_abs()));
    Ok((Actor { role, id: sub }, lasts))
}
