//! Does the house-keeping.

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> std::process::ExitCode {
    consumers::service::main("upkeep-consumer", |cx| consumers::upkeep::Upkeep { files: cx.files.clone() })
}
