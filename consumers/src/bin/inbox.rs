//! Fills the members' inboxes.

fn main() -> std::process::ExitCode {
    consumers::service::follow("inbox-follower", consumers::inbox::Inbox::new)
}
