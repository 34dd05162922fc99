//! Sends mails.

fn main() -> std::process::ExitCode {
    consumers::mail::main()
}
