//! Serves members.

fn main() -> std::process::ExitCode {
    api::service::main("member-api", api::serve::Surfaces::Members, 8000)
}
