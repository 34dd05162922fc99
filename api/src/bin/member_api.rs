//! Serves members.

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> std::process::ExitCode {
    api::service::main("member-api", api::serve::Surfaces::Members, 8000)
}
