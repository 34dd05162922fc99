//! Decides everything about members' own data.

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> std::process::ExitCode {
    consumers::service::main("members-consumer", |cx| consumers::members::Members { files: cx.files.clone() })
}
