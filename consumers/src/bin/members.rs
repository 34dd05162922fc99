//! Decides the commands about members.

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> std::process::ExitCode {
    consumers::main(env!("CARGO_BIN_NAME"))
}
