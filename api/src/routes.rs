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
    /// Signing up, logging in, the own profile
    Accounts,
    /// What people sign up for
    Drives,
    /// What was decided, number by number, hash-chained
    Logs,
    /// Who has a place, and who waits for one
    Registrations,
    /// Waiting lists, changed by hand
    WaitingLists,
    /// Who has come
    CheckIn,
    /// What came of a write
    Commands,
    /// What was decided about a member
    Inbox,
    /// What a member wants by mail
    Preferences,
    /// Events as they happen
    Streams,
    /// People, as organisers see them
    Members,
    /// Machines that act for members
    ServiceAccounts,
    /// Events sent to addresses
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
            "Sign up for drives: every click gets a receipt, every receipt gets exactly one decision, in order, with its \
             reasons. A write answers 202 with a receipt; `Prefer: wait=N` waits for the decision; `Idempotency-Key` \
             makes a repetition the same command.",
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
            "Run drives: create and publish them, see who comes, add and remove people, import members.",
        )
        .server("/admin/v1")
}
