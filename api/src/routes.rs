//! The routes, by noun. Each method ends in a read, in [`crate::write::Write::submit`] or in
//! [`crate::context::Context::submit`].

pub mod account;
pub mod answers;
pub mod check_in;
pub mod command;
pub mod drive;
pub mod eligibility;
pub mod inbox;
pub mod log;
pub mod mail;
pub mod member;
pub mod preferences;
pub mod registration;
pub mod stream;
pub mod waiting_list;
pub mod webhook;

use poem_openapi::OpenApiService;

/// What operations are about.
#[derive(Debug, Clone, Copy, poem_openapi::Tags)]
pub(crate) enum Tags {
    /// Sign-up, login, and the profile of the caller
    Accounts,
    /// Drives, for which members register
    Drives,
    /// Logs of decisions, numbered and hash-chained
    Logs,
    /// Registrations for places, confirmed or waiting
    Registrations,
    /// Changes of waiting lists by organisers
    WaitingLists,
    /// Check-in of participants
    CheckIn,
    /// The status of commands
    Commands,
    /// Decisions about a member
    Inbox,
    /// Mail preferences of a member
    Preferences,
    /// Live events
    Streams,
    /// Members, as organisers see them
    Members,
    /// Machines that act for members
    ServiceAccounts,
    /// Events that Muster sends to URLs
    Webhooks,
    /// Mails and their templates
    Mails,
}

/// The version in the documents.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The member surface: `/api/v1`.
pub type MemberSurface = OpenApiService<
    (
        account::AuthRoutes,
        account::MeRoutes,
        drive::DriveRoutes,
        eligibility::EligibilityRoutes,
        registration::RegistrationRoutes,
        answers::AnswerRoutes,
        command::CommandRoutes,
        inbox::InboxRoutes,
        preferences::PreferencesRoutes,
        stream::StreamRoutes,
    ),
    (),
>;

/// The admin surface: `/admin/v1`.
pub type AdminSurface = OpenApiService<
    (
        drive::AdminDriveRoutes,
        registration::AdminRegistrationRoutes,
        waiting_list::WaitingListRoutes,
        check_in::CheckInRoutes,
        member::AdminMemberRoutes,
        log::LogRoutes,
        stream::AdminStreamRoutes,
        account::ServiceAccountRoutes,
        webhook::WebhookRoutes,
        mail::MailRoutes,
    ),
    (),
>;

/// The routes and document of the member surface.
#[must_use]
pub fn members() -> MemberSurface {
    let routes = (
        account::AuthRoutes,
        account::MeRoutes,
        drive::DriveRoutes,
        eligibility::EligibilityRoutes,
        registration::RegistrationRoutes,
        answers::AnswerRoutes,
        command::CommandRoutes,
        inbox::InboxRoutes,
        preferences::PreferencesRoutes,
        stream::StreamRoutes,
    );
    OpenApiService::new(routes, "Muster for members", VERSION)
        .description(
            "Sign up for drives. Every click gets a receipt. Every receipt gets exactly one decision, in order, with its \
             reasons. A write answers 202 with a receipt. With `Prefer: wait=N` it waits up to N seconds for the \
             decision. With an `Idempotency-Key`, a retry is the same command.",
        )
        .server("/api/v1")
}

/// The routes and document of the admin surface.
#[must_use]
pub fn admins() -> AdminSurface {
    let routes = (
        drive::AdminDriveRoutes,
        registration::AdminRegistrationRoutes,
        waiting_list::WaitingListRoutes,
        check_in::CheckInRoutes,
        member::AdminMemberRoutes,
        log::LogRoutes,
        stream::AdminStreamRoutes,
        account::ServiceAccountRoutes,
        webhook::WebhookRoutes,
        mail::MailRoutes,
    );
    OpenApiService::new(routes, "Muster for organisers", VERSION)
        .description(
            "Run drives: create and publish them, see who registered, add and remove people, import members.",
        )
        .server("/admin/v1")
}
