//! Emits what falls due.

fn main() -> std::process::ExitCode {
    scheduler::service::main()
}
