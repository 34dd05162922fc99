//! Adaptive batching: in a rush, a consumer waits a moment for a batch to fill.

use std::time::Duration;

use shared::bus::{Batch, Consumer};

use super::BATCH;

// A batch costs nearly the same whatever its size. If the previous batch had at least `RUSH`
// messages and the next ones arrive within `LULL`, the consumer waits up to `STEPS` times `STEP`
// for the batch to fill. It stops early when a step adds nothing.
const RUSH: usize = 16;
const LULL: Duration = Duration::from_millis(20);
const STEP: Duration = Duration::from_millis(5);
const STEPS: usize = 2;

/// Whether there is a rush. The previous batch had `last` messages, and the next ones arrived
/// `after` the consumer began to wait for them.
pub(super) fn in_a_rush(last: usize, after: Duration) -> bool {
    last >= RUSH && after < LULL
}

/// Waits for more messages, while each step adds some. So it does not wait for clients that click
/// again only after their decision.
pub(super) async fn gather(consumer: &mut Consumer, batch: &mut Batch) {
    let (mut steps, mut before) = (0, 0);
    while lets_more_come(steps, before, batch.len()) {
        (steps, before) = (steps + 1, batch.len());
        tokio::time::sleep(STEP).await;
        consumer.fill(batch, BATCH).await;
    }
}

/// Whether to wait another step after `steps`. The last step grew the batch from `before` to `now`
/// messages.
fn lets_more_come(steps: usize, before: usize, now: usize) -> bool {
    steps < STEPS && before < now && now < BATCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rush_is_many_at_once_and_ends_with_a_lull() {
        assert!(in_a_rush(RUSH, Duration::ZERO));
        assert!(in_a_rush(BATCH, LULL / 2));
        assert!(!in_a_rush(RUSH - 1, Duration::ZERO), "a few come one after the other");
        assert!(!in_a_rush(BATCH, LULL), "a click long after a rush does not wait");
    }

    #[test]
    fn more_are_let_come_while_they_do_and_there_is_room() {
        assert!(lets_more_come(0, 0, 1));
        assert!(lets_more_come(1, 20, 21));
        assert!(!lets_more_come(1, 20, 20), "the step added nothing");
        assert!(!lets_more_come(STEPS, 20, 21), "not for ever");
        assert!(!lets_more_come(0, 0, BATCH), "it is full");
    }
}
