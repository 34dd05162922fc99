//! Decides eligibility checks.

fn main() -> std::process::ExitCode {
    consumers::service::main("eligibility-consumer", |_| consumers::eligibility::Eligibility::default())
}
