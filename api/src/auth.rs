//! Who asks: access tokens (JWT, RFC 7519 with the profile of RFC 9068, signed with EdDSA), and what each role may.

use std::time::Duration;

use jsonwebtoken::{Algorithm, Validation};
use poem::Request;
use poem_openapi::SecurityScheme;
use poem_openapi::auth::Bearer;
use serde::{Deserialize, Serialize};
use shared::account::Role;
use shared::account::table as accounts;
use shared::bus::Actor;
use shared::clock::{self, Instant};
use shared::id::MemberId;
use shared::signing::SigningKey;
use uuid::Uuid;

use crate::context::Context;
use crate::problem::Problem;

/// The `typ` of an access token (RFC 9068 §2.1).
const TOKEN_TYPE: &str = "at+jwt";
/// The `iss` of an access token.
const ISSUER: &str = "muster";
/// How long an access token of a person lasts.
pub const TOKEN_LASTS: Duration = Duration::from_secs(30 * 60);
/// How long a revoked service account may still be taken for valid.
const RECHECK: Duration = Duration::from_secs(5);
/// The most checked tokens that are remembered.
const REMEMBERED: u64 = 20_000;

/// What an access token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: Uuid,
    role: Role,
    iat: i64,
    /// In seconds since 1970; a service account's token has none and lasts until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

/// An access token for this actor, valid from `now`; for good if it is a service account's.
#[must_use]
pub fn issue(key: &SigningKey, actor: Actor, now: Instant) -> String {
    let lasts = i64::try_from(TOKEN_LASTS.as_secs()).unwrap_or_default();
    let exp = (actor.role != Role::Service).then(|| now.timestamp() + lasts);
    let claims =
        Claims { iss: ISSUER.to_owned(), sub: actor.id, role: actor.role, iat: now.timestamp(), exp };
    key.sign(TOKEN_TYPE, &claims)
}

/// Remembers which tokens were checked and which service accounts are valid: a rush shows the same tokens again and
/// again.
#[derive(Debug)]
pub struct Checked {
    tokens: moka::sync::Cache<String, Claims>,
    services: moka::sync::Cache<Uuid, (bool, std::time::Instant)>,
}

impl Default for Checked {
    fn default() -> Self {
        Self {
            tokens: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(TOKEN_LASTS).build(),
            services: moka::sync::Cache::builder().max_capacity(REMEMBERED).build(),
        }
    }
}

impl Checked {
    /// Whose valid access token this is. Whether a service account was revoked is not known here.
    pub fn actor(&self, key: &SigningKey, token: String) -> Result<Actor, Problem> {
        let claims = if let Some(claims) = self.tokens.get(&token) {
            claims
        } else {
            let claims = decode(key, &token)?;
            self.tokens.insert(token, claims.clone());
            claims
        };
        if claims.exp.is_some_and(|exp| exp <= clock::now().timestamp()) {
            return Err(Problem::unauthorized().detail("the access token has expired"));
        }
        Ok(Actor { role: claims.role, id: claims.sub })
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

impl Caller {
    /// The member on whose behalf a command is: a member's own id, or the one that a service names.
    pub fn on_behalf_of(self, named: Option<Uuid>) -> Result<MemberId, Problem> {
        let own = self.0.id;
        match (self.0.role, named) {
            (Role::Service, Some(named)) => Ok(MemberId(named)),
            (Role::Service, None) => {
                Err(Problem::invalid_body().detail("a service names the member it acts for: member_id"))
            }
            // Organisers are people, too; for others they have their own surface.
            (Role::Member | Role::Admin, None) => Ok(MemberId(own)),
            (Role::Member | Role::Admin, Some(named)) if named == own => Ok(MemberId(own)),
            _ => Err(Problem::forbidden().detail("members act for themselves only")),
        }
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
    let actor = cx.checked.actor(&cx.key, bearer.token)?;
    if actor.role == Role::Service {
        service_is_valid(cx, actor.id).await?;
    }
    Ok(actor)
}

async fn check_admin(request: &Request, bearer: Bearer) -> poem::Result<Actor> {
    let actor = check(request, bearer).await?;
    if actor.role == Role::Admin { Ok(actor) } else { Err(Problem::forbidden().into()) }
}

fn decode(key: &SigningKey, token: &str) -> Result<Claims, Problem> {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_issuer(&[ISSUER]);
    // Expiry is checked at every use, also of remembered tokens.
    validation.validate_exp = false;
    validation.set_required_spec_claims(&["iss", "sub"]);
    let decoded = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation).map_err(|error| {
        Problem::unauthorized().detail(format!("the access token cannot be used: {error}"))
    })?;
    // A receipt is signed with the same key and is no access token.
    if decoded.header.typ.as_deref() != Some(TOKEN_TYPE) || decoded.claims.role == Role::System {
        return Err(Problem::unauthorized().detail("this is no access token"));
    }
    Ok(decoded.claims)
}

/// Checks that a service account was not revoked. While the database is away, what was known last counts.
async fn service_is_valid(cx: &Context, id: Uuid) -> Result<(), Problem> {
    let known = cx.checked.services.get(&id);
    let valid = match known {
        Some((valid, at)) if at.elapsed() < RECHECK => valid,
        known => match accounts::service_is_valid(&cx.db.read, id).await {
            Ok(valid) => {
                cx.checked.services.insert(id, (valid, std::time::Instant::now()));
                valid
            }
            Err(error) => known.ok_or(error)?.0,
        },
    };
    if valid { Ok(()) } else { Err(Problem::unauthorized().detail("the service account was revoked")) }
}
