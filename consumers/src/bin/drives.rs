//! Decides everything about drives.

fn main() -> std::process::ExitCode {
    consumers::service::main("drives-consumer", |_| consumers::drives::Drives::default())
}
