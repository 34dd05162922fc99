//! Sends what happens to webhooks.

fn main() -> std::process::ExitCode {
    consumers::webhooks::main()
}
