//! Decides eligibility checks.

fn main() -> std::process::ExitCode {
    consumers::process::main("eligibility-consumer", |_| consumers::eligibility::Eligibility::default())
}
