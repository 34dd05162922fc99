//! Memory that was freed goes back to the system.

use std::hint::black_box;
use std::time::Duration;

/// How often it is given back.
const EVERY: Duration = Duration::from_secs(5);
/// More than the allocator has pages of several pieces for (bytes): such a piece is taken, and given back, by itself.
const LARGE: usize = 1 << 20;

/// Has the allocator give back, every few seconds, what was freed a second ago and not used since. It looks for that only when it
/// takes a page or lets one go: a process that has nothing to do after its start, or after a rush, would keep it for good.
pub async fn give_back() {
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tick.tick().await;
        drop(black_box(Vec::<u8>::with_capacity(LARGE)));
    }
}
