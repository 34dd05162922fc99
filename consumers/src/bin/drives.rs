//! Decides everything about drives.

fn main() -> std::process::ExitCode {
    consumers::process::main("drives-consumer", |_| consumers::drives::Drives::default())
}
