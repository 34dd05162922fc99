//! Decides everything about members' own data.

fn main() -> std::process::ExitCode {
    consumers::process::main("members-consumer", |cx| consumers::members::Members { files: cx.files.clone() })
}
