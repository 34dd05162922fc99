//! Publishes commands that fall due. Several may run at once.

use std::process::ExitCode;

use process::{Connections, worker};

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> ExitCode {
    let about = "Publishes the commands that fall due in Muster: drives open and close, reminders go out, old data is deleted";
    worker::main("scheduler", about, Vec::new(), |connections, _, shutdown| {
        let Connections { db, broker, parts, .. } = connections;
        Box::pin(async move {
            scheduler::keep(db, broker, parts, shutdown).await;
            Ok(())
        })
    })
}
