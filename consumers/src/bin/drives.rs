//! Decides everything about drives.

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> std::process::ExitCode {
    consumers::service::main("drives-consumer", |_| consumers::drives::Drives::default())
}
