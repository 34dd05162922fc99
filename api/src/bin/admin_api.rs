//! Serves organisers.

fn main() -> std::process::ExitCode {
    api::service::main("admin-api", api::serve::Surfaces::Admins, 8001)
}
