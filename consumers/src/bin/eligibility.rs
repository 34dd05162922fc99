//! Decides eligibility checks.

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> std::process::ExitCode {
    consumers::service::main("eligibility-consumer", |_| consumers::eligibility::Eligibility::default())
}
