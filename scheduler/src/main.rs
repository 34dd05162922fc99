//! Publishes commands that fall due. Several may run at once.

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> std::process::ExitCode {
    scheduler::part().main()
}
