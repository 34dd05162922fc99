//! Deletes data that is no longer needed.

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> std::process::ExitCode {
    consumers::main(env!("CARGO_BIN_NAME"))
}
