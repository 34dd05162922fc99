//! Emits what falls due. Several may run at once.

use std::process::ExitCode;

use process::{Connections, worker};

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> ExitCode {
    let about = "Emits what falls due in Muster: drives open and close, house-keeping is done";
    worker::main("scheduler", about, Vec::new(), |connections, _, shutdown| {
        let Connections { db, broker, parts, .. } = connections;
        Box::pin(async move {
            scheduler::keep(db, broker, parts, shutdown).await;
            Ok(())
        })
    })
}
