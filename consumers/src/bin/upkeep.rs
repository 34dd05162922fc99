//! Does the house-keeping.

fn main() -> std::process::ExitCode {
    consumers::service::main("upkeep-consumer", |cx| consumers::upkeep::Upkeep { files: cx.files.clone() })
}
