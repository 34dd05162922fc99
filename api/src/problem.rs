//! Errors, as clients see them: RFC 9457 `application/problem+json` with a stable `code`.
//!
//! There are two kinds. A *refusal* is a decision about a command ([`domain::refusal`]); this
//! module adds its HTTP status. The API answers with any other problem itself, before it accepts
//! anything.

use std::borrow::Cow;
use std::fmt;

use domain::eligibility::Verdict;
use domain::id::CommandId;
use domain::refusal::{Code, FieldError, Refusal};
use domain::text::with_causes;
use poem::error::{
    MethodNotAllowedError, NotFoundError, ParseJsonError, ParsePathError as UnreadablePath, ReadBodyError,
    ResponseError,
};
use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::error::{
    AuthorizationError, ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError,
};
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::{ApiResponse, OperationId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use shared::bus::PublishError;
use shared::database::is_timed_out;
use shared::failure::Failure;
use uuid::Uuid;

use crate::faults;
use crate::schema::{self, Way};

/// The body of an error.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct ProblemBody {
    /// `urn:muster:problem:` and the code.
    pub r#type: String,
    /// The same for every problem with this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A stable code, on which programs and translations can rely.
    #[schemars(with = "ProblemCode")]
    pub code: String,
    /// What happened this time, and often what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The faults of the input, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// For `not-eligible`: every rule, whether it holds, and what was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Box<Verdict>>,
    /// The command that was refused, if it was accepted first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<Uuid>,
}

/// The media type of an error.
pub(crate) const PROBLEM: &str = "application/problem+json";

/// Every code that a problem can have.
struct ProblemCode;

impl JsonSchema for ProblemCode {
    fn schema_name() -> Cow<'static, str> {
        "ProblemCode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let refusals = Code::ALL.into_iter().map(Code::as_str);
        let mut codes: Vec<_> = refusals.chain(Problem::OWN.iter().map(|(_, code, _)| *code)).collect();
        codes.sort_unstable();
        json_schema!({
            "type": "string",
            "enum": codes,
            "description": "A stable code. New ones may be added.",
        })
    }
}

/// An error on its way to a client.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The body of the answer.
    pub body: Box<ProblemBody>,
    /// When to try again, in seconds.
    pub retry_after: Option<u64>,
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $code:literal, $title:literal;)*) => {
        impl Problem {
            $(#[doc = $title] $(#[$doc])* #[must_use]
            pub fn $name() -> Self {
                Self::new(StatusCode::$status, $code, $title)
            })*

            /// The problems that the API itself can answer with: status, code, title.
            pub const OWN: &'static [(StatusCode, &'static str, &'static str)] =
                &[$((StatusCode::$status, $code, $title),)*];
        }
    };
}

problems! {
    body_too_large = PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large";
    body_too_slow = REQUEST_TIMEOUT, "body-too-slow", "The body did not arrive in time";
    broker_unavailable = SERVICE_UNAVAILABLE, "broker-unavailable", "No command can be accepted now; try again";
    command_not_found = NOT_FOUND, "command-not-found", "There is no such command";
    database_unavailable = SERVICE_UNAVAILABLE, "database-unavailable", "The database does not answer; try again";
    delivery_not_found = NOT_FOUND, "delivery-not-found", "There is no such delivery";
    email_taken = CONFLICT, "email-taken", "An account with this e-mail address exists already";
    forbidden = FORBIDDEN, "forbidden", "Your role does not allow this";
    forgotten = GONE, "forgotten", "The decision about this command is no longer kept";
    headers_too_large = REQUEST_HEADER_FIELDS_TOO_LARGE, "headers-too-large", "The headers are too large";
    idempotency_key_invalid = BAD_REQUEST, "idempotency-key-invalid", "The Idempotency-Key cannot be used";
    idempotency_key_reused = UNPROCESSABLE_ENTITY, "idempotency-key-reused",
        "The Idempotency-Key was used with another body";
    internal = INTERNAL_SERVER_ERROR, "internal", "The server made an error; its operators can see it";
    invalid_body = UNPROCESSABLE_ENTITY, "invalid-body", "The body does not have the form that this request needs";
    invalid_cursor = BAD_REQUEST, "invalid-cursor", "The cursor was not made by this list with this filter";
    invalid_parameter = BAD_REQUEST, "invalid-parameter", "A parameter has a value that cannot be used";
    invalid_template = UNPROCESSABLE_ENTITY, "invalid-template", "The template cannot be used";
    login_failed = UNAUTHORIZED, "login-failed", "The e-mail address or the password is wrong";
    mail_is_essential = CONFLICT, "mail-is-essential", "Mails of this kind cannot be turned off";
    mail_not_found = NOT_FOUND, "mail-not-found", "There is no such mail";
    malformed_json = BAD_REQUEST, "malformed-json", "The body is not valid JSON";
    malformed_request = BAD_REQUEST, "malformed-request", "The request is not valid HTTP";
    method_not_allowed = METHOD_NOT_ALLOWED, "method-not-allowed", "This address does not support this method";
    not_found = NOT_FOUND, "not-found", "Nothing was found at this address";
    overloaded = SERVICE_UNAVAILABLE, "overloaded", "The server is busy and did nothing; try again";
    service_account_not_found = NOT_FOUND, "service-account-not-found", "There is no such service account";
    template_not_found = NOT_FOUND, "template-not-found", "You have not written a template for this kind and language";
    too_many_deliveries = UNPROCESSABLE_ENTITY, "too-many-deliveries", "The request asks for too many deliveries at once";
    too_many_webhooks = CONFLICT, "too-many-webhooks", "The limit of webhooks is reached";
    unauthorized = UNAUTHORIZED, "unauthorized", "A valid access token is needed";
    unsupported_media_type = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body has a media type that this request does not take";
    webhook_disabled = CONFLICT, "webhook-disabled", "The webhook is switched off";
    webhook_not_found = NOT_FOUND, "webhook-not-found", "There is no such webhook";
}

impl Problem {
    /// A refusal. A consumer of a later version may have written a code that this version does not
    /// know.
    pub(crate) fn refused(code: &str, title: &str) -> Self {
        Self::new(Code::from_word(code).map_or(StatusCode::CONFLICT, status_of), code, title)
    }

    fn new(status: StatusCode, code: &str, title: &str) -> Self {
        let body = ProblemBody {
            r#type: format!("urn:muster:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            detail: None,
            errors: Vec::new(),
            verdict: None,
            command_id: None,
        };
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        Self { body: Box::new(body), retry_after }
    }

    /// The same problem with this detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.body.detail = Some(detail.into());
        self
    }

    /// The same problem with these faults of the input.
    #[must_use]
    pub fn errors(mut self, mut errors: Vec<FieldError>) -> Self {
        errors.truncate(faults::MOST);
        self.body.errors = errors;
        self
    }

    /// Fails with `invalid-body` if there are faults.
    pub fn unless_empty(faults: Vec<FieldError>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self::invalid_body().errors(faults)) }
    }

    /// A problem with one parameter.
    #[must_use]
    pub fn parameter(name: &str, fault: &str) -> Self {
        Self::invalid_parameter()
            .detail(format!("{name}: {fault}"))
            .errors(vec![FieldError::new(name, fault)])
    }

    /// The same problem, about a command that was accepted.
    #[must_use]
    pub fn about(mut self, command_id: CommandId) -> Self {
        self.body.command_id = Some(command_id.0);
        self
    }

    /// The same problem with another status.
    #[must_use]
    pub(crate) fn status_of(mut self, status: u16) -> Self {
        self.body.status = status;
        self
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// The status of a refusal.
#[must_use]
pub fn status_of(code: Code) -> StatusCode {
    match code {
        Code::DriveNotFound
        | Code::MemberNotFound
        | Code::NotRegistered
        | Code::RegistrationNotFound
        | Code::SlotNotFound => StatusCode::NOT_FOUND,
        Code::NotEligible | Code::AttributeLocked => StatusCode::FORBIDDEN,
        Code::AnswersInvalid
        | Code::InvalidDrive
        | Code::InvalidFile
        | Code::InvalidProfile
        | Code::InvalidRule
        | Code::SlotRequired => StatusCode::UNPROCESSABLE_ENTITY,
        Code::AlreadyRegistered
        | Code::CapacityBelowConfirmed
        | Code::DriveCancelled
        | Code::DriveClosed
        | Code::DriveFull
        | Code::DriveNotClosed
        | Code::DriveNotOpen
        | Code::DriveNotPublished
        | Code::DrivePublished
        | Code::NotConfirmed
        | Code::NotWaiting
        | Code::SlotInUse
        | Code::WindowOver => StatusCode::CONFLICT,
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let mut problem = Self::refused(refusal.code.as_str(), refusal.code.title());
        problem.body.detail = refusal.detail;
        problem.body.errors = refusal.errors;
        problem.body.verdict = refusal.verdict;
        problem
    }
}

impl From<sea_orm::DbErr> for Problem {
    fn from(error: sea_orm::DbErr) -> Self {
        if is_timed_out(&error) {
            tracing::warn!(
                error = %with_causes(&error),
                "the database ended a read at its timeout; the client is told to try again"
            );
            return Self::database_unavailable().detail(
                "the database ended this read because it took too long; try again later, or ask for less: a \
                 longer text in `q`, or a smaller `limit`",
            );
        }
        match Failure::from(error) {
            // The database is up and rejects the statement, as it would at each retry.
            Failure::Reject(reject) => {
                tracing::error!(%reject, "the database refused a read; this is a bug");
                Self::internal()
            }
            why => {
                // At debug level: an outage is logged once, not for each request.
                tracing::debug!(error = %with_causes(&why), "the database did not answer a read");
                Self::database_unavailable()
            }
        }
    }
}

impl From<std::sync::Arc<Self>> for Problem {
    fn from(problem: std::sync::Arc<Self>) -> Self {
        (*problem).clone()
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::TooLarge(_) => Self::body_too_large(),
            // The broker may have the command. With an `Idempotency-Key` a repetition is safe.
            // Without one, the client cannot refer to this attempt, as it does not know the id.
            PublishError::Unconfirmed => Self::broker_unavailable()
                .detail("the message broker did not confirm; repeat with the same Idempotency-Key"),
            other => {
                tracing::debug!(
                    error = %with_causes(&other),
                    "a command was not published; the client is told to try again"
                );
                Self::broker_unavailable().detail(match other {
                    PublishError::Blocked(_) => {
                        "the message broker takes no messages now; nothing was accepted"
                    }
                    PublishError::Refused => "the queue is full; nothing was accepted",
                    _ => "the message broker cannot be reached; nothing was accepted",
                })
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.body.title)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        Self::status(self)
    }

    fn as_response(&self) -> Response {
        self.clone().into_response()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body).expect("a problem is plain data");
        let mut response = Response::builder().status(self.status()).content_type(PROBLEM).body(body);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        let content =
            MetaMediaType { content_type: PROBLEM, schema: schema::reference::<ProblemBody>(Way::Out) };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "Anything else is a problem with a stable code",
                status: None,
                status_range: None,
                content: vec![content],
                headers: Vec::new(),
            }],
        }
    }

    fn register(registry: &mut Registry) {
        schema::register::<ProblemBody>(Way::Out, registry);
    }
}

/// Any error of the framework as a problem.
#[must_use]
pub fn from_error(error: &poem::Error) -> Problem {
    if let Some(problem) = error.downcast_ref::<Problem>() {
        return problem.clone();
    }
    if error.is::<ParseRequestPayloadError>() {
        return Problem::invalid_body();
    }
    if error.is::<UnreadablePath>() {
        return Problem::invalid_parameter().detail("a part of the path is no UTF-8");
    }
    if let Some(reason) = error.downcast_ref::<ParsePathError>() {
        let operation = error.data::<OperationId>().map(|operation| operation.0);
        let name = faults::path_parameter(operation, reason.name);
        return Problem::parameter(name, &faults::of_parameter(&reason.reason));
    }
    if let Some(error) = error.downcast_ref::<ParseParamError>() {
        return Problem::parameter(error.name, &faults::of_parameter(&error.reason));
    }
    if let Some(error) = error.downcast_ref::<ReadBodyError>() {
        return match error {
            ReadBodyError::PayloadTooLarge => Problem::body_too_large(),
            _ => {
                Problem::malformed_request().detail("the body is not framed as HTTP asks, or ended too soon")
            }
        };
    }
    if error.is::<ParseJsonError>() {
        return Problem::malformed_json();
    }
    if error.is::<ContentTypeError>() {
        return Problem::unsupported_media_type();
    }
    if error.is::<AuthorizationError>() {
        return Problem::unauthorized();
    }
    if error.is::<NotFoundError>() {
        return Problem::not_found();
    }
    if error.is::<MethodNotAllowedError>() {
        return Problem::method_not_allowed();
    }
    match error.status() {
        StatusCode::NOT_FOUND => Problem::not_found(),
        StatusCode::METHOD_NOT_ALLOWED => Problem::method_not_allowed(),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::body_too_large(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::unsupported_media_type(),
        status if status.is_client_error() => {
            tracing::debug!(%error, "a request has an unknown error; answering invalid-parameter");
            Problem::invalid_parameter()
        }
        _ => {
            tracing::error!(%error, "a request failed unexpectedly; answering internal");
            Problem::internal()
        }
    }
}
