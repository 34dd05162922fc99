//! Fills the members' inboxes.

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> std::process::ExitCode {
    consumers::service::follow("inbox-follower", consumers::inbox::Inbox::new)
}
