//! Serves organisers.

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> std::process::ExitCode {
    api::service::main("admin-api", api::serve::Surfaces::Admins, 8001)
}
