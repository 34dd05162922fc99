//! Sign-up, login, a person's own profile, and service accounts.

use std::collections::BTreeMap;

use domain::actor::{Actor, Role};
use domain::address::{EmailAddress, shown_email};
use domain::attribute::{Attribute, Attributes, Source};
use domain::clock;
use domain::id::MemberId;
use domain::member::{MAX_ATTRIBUTES, MAX_NAME, Profile, UpdateProfile};
use domain::refusal::FieldError;
use domain::text::{line_fault, with_causes};
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::{ApiResponse, OpenApi};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::bus::Envelope;
use shared::store::accounts::pending::{self, PendingProfile};
use shared::store::accounts::{self, Account};
use shared::store::{members as profiles, webhooks};
use shared::webhook::Disabled;
use shared::{failpoint, telemetry};
use uuid::Uuid;

use super::Tags;
use super::member::{VerifiedAttribute, verified};
use crate::auth::{self, Admin, Caller, TOKEN_LASTS};
use crate::body::JsonBody;
use crate::context::Context;
use crate::password::{self, Verified};
use crate::payload::Json;
use crate::problem::Problem;
use crate::read::{Reading, Tagged, fresh};
use crate::submit::Submitted;
use crate::write::Write;

/// A new account.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({
    "email": "asha@example.org",
    "password": "correct horse battery",
    "name": "Asha Rao",
}))]
struct SignUp {
    /// The address. It must be unique, without regard to case and Unicode form.
    email: String,
    /// The password.
    #[schemars(length(min = password::MIN_PASSWORD))]
    password: String,
    /// The name that organisers see.
    #[schemars(length(min = 1, max = MAX_NAME))]
    name: String,
}

/// Credentials.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "email": "asha@example.org", "password": "correct horse battery" }))]
struct Login {
    /// The address given at sign-up.
    email: String,
    /// The password given at sign-up.
    password: String,
}

/// An access token, valid for half an hour.
#[derive(Debug, Serialize, JsonSchema)]
struct Tokens {
    /// The id of the account.
    member_id: MemberId,
    /// The token, for `Authorization: Bearer`.
    access_token: String,
    /// Always `Bearer`.
    #[schemars(extend("const" = "Bearer"))]
    token_type: String,
    /// How long the token is valid, in seconds.
    expires_in: u64,
}

#[derive(ApiResponse)]
enum SignedUp {
    /// Welcome
    #[oai(status = 201)]
    Created(Json<Tokens>),
}

fn tokens(cx: &Context, account: &Account) -> Tokens {
    let actor = Actor { role: account.role, id: account.id.0 };
    Tokens {
        member_id: account.id,
        access_token: auth::issue(&cx.key, actor, clock::now()),
        token_type: "Bearer".to_owned(),
        expires_in: TOKEN_LASTS.as_secs(),
    }
}

/// Accounts.
#[derive(Debug)]
pub struct AuthRoutes;

#[OpenApi(tag = "Tags::Accounts")]
impl AuthRoutes {
    /// Sign up
    ///
    /// Creates an account and logs it in. An address that an organiser has imported has an account already.
    #[oai(path = "/auth/sign-up", method = "post", operation_id = "sign-up")]
    async fn sign_up(&self, cx: Data<&Context>, body: JsonBody<SignUp>) -> Result<SignedUp, Problem> {
        let SignUp { email, password, name } = body.value;
        let account_id = MemberId::new();
        let profile = UpdateProfile { member_id: account_id, name: Some(name), attributes: BTreeMap::new() };
        let mut faults = profile.faults();
        let address = EmailAddress::parse(&email);
        if let Err(fault) = &address {
            faults.push(FieldError::new("email", format!("no message can be sent to this address: {fault}")));
        }
        if let Err(detail) = password::check(&password) {
            faults.push(FieldError::new("password", detail));
        }
        let (Ok(address), true) = (address, faults.is_empty()) else {
            return Err(Problem::invalid_body().errors(faults));
        };
        if accounts::by_email(&cx.db.read, &email).await?.is_some() {
            return Err(Problem::email_taken());
        }
        let account = Account {
            id: account_id,
            email: address.shown(),
            role: Role::Member,
            password_hash: Some(password::hash(password).await?),
            created_at: clock::now(),
        };
        let profile = PendingProfile::new(&profile, account.created_at);
        create(&cx, &account, &profile).await?;
        publish(&cx, &profile).await;
        Ok(SignedUp::Created(Json(tokens(&cx, &account))))
    }

    /// Log in
    #[oai(path = "/auth/login", method = "post", operation_id = "login")]
    async fn login(&self, cx: Data<&Context>, body: JsonBody<Login>) -> Result<Json<Tokens>, Problem> {
        let Login { email, password } = body.value;
        let account = accounts::by_email(&cx.db.read, &email).await?;
        let hash = account.as_ref().and_then(|account| account.password_hash.clone());
        // Hash in any case. The time of the answer must not show whether the account exists.
        match (password::verify(password.clone(), hash).await?, account) {
            (Verified::No, _) | (_, None) => Err(Problem::login_failed()),
            (verified, Some(account)) => {
                if verified == Verified::AsTyped {
                    compose_password(&cx, &account, password).await;
                }
                finish_sign_up(&cx, account.id).await;
                Ok(Json(tokens(&cx, &account)))
            }
        }
    }
}

/// Hashes a password again, in composed form, if its hash was made of another form. If that fails,
/// the old hash stays valid.
async fn compose_password(cx: &Context, account: &Account, password: String) {
    let Some(old) = account.password_hash.as_deref().filter(|_| password::check(&password).is_ok()) else {
        return;
    };
    let Ok(new) = password::hash(password).await else { return };
    if let Err(error) = accounts::rehash(cx.db.writer(), account.id, old, new).await {
        tracing::warn!(%error, member_id = %account.id, "could not hash a password again; trying at the next login");
    }
}

/// Makes an account. Its first profile is pending from the same commit on, so neither can be without
/// the other.
async fn create(cx: &Context, account: &Account, profile: &PendingProfile) -> Result<(), Problem> {
    let tx = cx.db.begin().await?;
    match accounts::insert(&tx, std::slice::from_ref(account)).await {
        Ok(()) => {}
        Err(error) if error.sql_err().is_some() => return Err(Problem::email_taken()),
        Err(error) => return Err(error.into()),
    }
    pending::insert(&tx, profile).await?;
    failpoint::hit("sign-up-inserted");
    tx.commit().await?;
    failpoint::hit("sign-up-committed");
    Ok(())
}

/// Publishes a first profile, outside any transaction. A repetition is the same command. If it
/// fails, the next login or the scheduler publishes it.
async fn publish(cx: &Context, profile: &PendingProfile) {
    let member_id = profile.member_id;
    let envelope = match profile.envelope() {
        Ok(envelope) => Envelope { trace: telemetry::traceparent(&tracing::Span::current()), ..envelope },
        Err(error) => {
            tracing::error!(%member_id, %error, "could not read a pending profile");
            return;
        }
    };
    match cx.broker.publish(envelope.seal(cx.broker.topology())).await {
        Ok(()) => failpoint::hit("sign-up-published"),
        Err(error) => {
            tracing::warn!(%member_id, error = %with_causes(&error), "could not publish a first profile; the scheduler publishes it");
        }
    }
}

/// Publishes the first profile of a member if it is still pending. The login succeeds in any case.
async fn finish_sign_up(cx: &Context, member_id: MemberId) {
    match pending::find(&cx.db.read, member_id).await {
        Ok(Some(profile)) => publish(cx, &profile).await,
        Ok(None) => {}
        Err(error) => tracing::warn!(%member_id, %error, "could not look for a pending profile"),
    }
}

/// A member's own profile. Until the first one is decided, this is the profile given at sign-up.
async fn own_profile(cx: &Context, member_id: MemberId) -> Result<Profile, Problem> {
    let stored = async || profiles::profiles(&cx.db.read, [member_id]).await;
    if let Some(profile) = stored().await?.remove(&member_id) {
        return Ok(profile);
    }
    let command = pending::find(&cx.db.read, member_id).await?.and_then(|pending| pending.command().ok());
    if let Some(name) = command.and_then(|command| command.name) {
        return Ok(Profile { name: name.trim().to_owned(), ..Profile::default() });
    }
    // It may have been decided between the two reads.
    Ok(stored().await?.remove(&member_id).unwrap_or_default())
}

/// A person's own account and profile.
#[derive(Debug, Serialize, JsonSchema)]
struct Me {
    /// The id of the account.
    member_id: MemberId,
    /// The address for logging in.
    email: String,
    /// The role of the account.
    role: Role,
    /// The name that organisers see.
    name: String,
    /// Who said the name, if it was not the person. Then only an organiser can change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_source: Option<Source>,
    /// What the organisation says: `member.x` in rules. Only an organiser can change it.
    verified: BTreeMap<String, VerifiedAttribute>,
    /// What the person says: `declared.x` in rules.
    declared: Attributes,
}

/// Changes of a person's own profile.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "name": "Asha Rao", "attributes": { "city": "Pune", "old": null } }))]
struct ProfileChanges {
    /// The new name.
    #[schemars(length(min = 1, max = MAX_NAME))]
    name: Option<String>,
    /// Declared attributes to set, or (null) to remove: a flat object of texts, numbers, booleans and dates (`2001-02-03`).
    #[schemars(extend("maxProperties" = MAX_ATTRIBUTES))]
    attributes: Option<BTreeMap<String, Option<Attribute>>>,
}

/// A person's own profile.
#[derive(Debug)]
pub struct MeRoutes;

#[OpenApi(tag = "Tags::Accounts")]
impl MeRoutes {
    /// Read my profile
    #[oai(path = "/me", method = "get", operation_id = "read-profile")]
    async fn read(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        reading: Reading,
    ) -> Result<Tagged<Me>, Problem> {
        let member_id = caller.person()?;
        // The token is valid, but its account was deleted.
        let account = accounts::by_id(&cx.db.read, member_id).await?.ok_or_else(Problem::unauthorized)?;
        let mut profile = own_profile(&cx, member_id).await?;
        let me = Me {
            member_id,
            email: shown_email(&account.email),
            role: account.role,
            name: profile.name,
            name_source: profile.name_source,
            verified: verified(&mut profile.known),
            declared: profile.known.declared,
        };
        Ok(Tagged::new(fresh(&me), reading))
    }

    /// Change my profile
    ///
    /// Command `update-profile`. It sets the name, and what the person says: rules read it as
    /// `declared.x`. A change of something that an organiser has set is refused with
    /// `attribute-locked`.
    #[oai(path = "/me", method = "patch", operation_id = "update-profile")]
    async fn update(
        &self,
        caller: Caller,
        write: Write<ProfileChanges>,
    ) -> Result<Submitted<UpdateProfile>, Problem> {
        let member_id = caller.person()?;
        let command = |ProfileChanges { name, attributes }| {
            let command = UpdateProfile { member_id, name, attributes: attributes.unwrap_or_default() };
            Problem::unless_empty(command.faults())?;
            Ok(command)
        };
        write.submit(caller, command).await
    }
}

/// A new service account.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "name": "Kiosk at the north gate" }))]
struct NewServiceAccount {
    /// What the account is for.
    #[schemars(length(min = 1, max = MAX_NAME))]
    name: String,
}

/// A service account with its token.
#[derive(Debug, Serialize, JsonSchema)]
struct ServiceAccount {
    /// The id, for revoking the account.
    service_account_id: Uuid,
    /// The token, for `Authorization: Bearer`. It is shown once, and valid until the account is
    /// revoked or an operator retires the secret that made it.
    token: String,
}

#[derive(ApiResponse)]
enum ServiceCreated {
    /// Created. The token is shown only here.
    #[oai(status = 201)]
    Created(Json<ServiceAccount>),
}

#[derive(ApiResponse)]
enum ServiceRevoked {
    /// Revoked. Every process refuses it within seconds.
    #[oai(status = 204)]
    Revoked,
}

/// Service accounts.
#[derive(Debug)]
pub struct ServiceAccountRoutes;

#[OpenApi(tag = "Tags::ServiceAccounts")]
impl ServiceAccountRoutes {
    /// Create a service account
    ///
    /// Its token acts for any member: it submits commands with `member_id`.
    #[oai(path = "/service-accounts", method = "post", operation_id = "create-service-account")]
    async fn create(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        body: JsonBody<NewServiceAccount>,
    ) -> Result<ServiceCreated, Problem> {
        let name = body.value.name.trim();
        if let Some(fault) = line_fault(name, MAX_NAME) {
            return Err(Problem::invalid_body().errors(vec![FieldError::new("name", fault)]));
        }
        let (id, now) = (Uuid::now_v7(), clock::now());
        accounts::insert_service(cx.db.writer(), id, name, admin.0.id, now).await?;
        let token = auth::issue(&cx.key, Actor { role: Role::Service, id }, now);
        Ok(ServiceCreated::Created(Json(ServiceAccount { service_account_id: id, token })))
    }

    /// Revoke a service account
    #[oai(
        path = "/service-accounts/:service_account_id",
        method = "delete",
        operation_id = "revoke-service-account"
    )]
    async fn revoke(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        service_account_id: Path<Uuid>,
    ) -> Result<ServiceRevoked, Problem> {
        let now = clock::now();
        let tx = cx.db.begin().await?;
        let revoked = accounts::revoke_service(&tx, service_account_id.0, now).await?;
        // Its webhooks get no more events.
        webhooks::disable_of(&tx, service_account_id.0, now, Disabled::OwnerRevoked).await?;
        tx.commit().await?;
        if revoked { Ok(ServiceRevoked::Revoked) } else { Err(Problem::service_account_not_found()) }
    }
}
