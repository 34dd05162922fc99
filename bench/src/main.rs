//! `muster-bench`: measures Muster.

use std::process::ExitCode;

use bench::Arguments;
use process::run_to_end;
use shared::config::arguments;

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> ExitCode {
    let Arguments { what, watching } = arguments::read();
    run_to_end("muster-bench", &watching, |shutdown| Box::pin(bench::run(what, shutdown)))
}
