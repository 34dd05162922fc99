//! Decides everything about members' own data.

fn main() -> std::process::ExitCode {
    consumers::service::main("members-consumer", |cx| consumers::members::Members { files: cx.files.clone() })
}
