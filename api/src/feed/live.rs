//! The latest entries of one watched feed, for all its watchers.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Item;

/// The most bytes of entries that are kept of a feed.
const KEPT_BYTES: usize = 512 * 1024;
/// The most entries that a watcher gets at once.
const HANDED: usize = 100;

/// The latest entries of one feed.
#[derive(Debug)]
pub(super) struct Live {
    /// The most entries that are kept.
    most: usize,
    kept: Mutex<Kept>,
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The number of the last known entry; none until it is looked up.
    end: Option<u64>,
    /// The last entries. The newest one has the number `end`.
    items: VecDeque<Item>,
    bytes: usize,
}

impl Live {
    /// A feed of which at most `most` entries are kept.
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default(), end: watch::channel(0).0 }
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    pub(super) fn is_watched(&self) -> bool {
        self.end.receiver_count() > 0
    }

    /// The number of the last known entry, if any.
    pub(super) fn end(&self) -> Option<u64> {
        self.kept().end
    }

    /// Sets the end that was looked up, unless one is known already. Entries before it are not
    /// kept.
    pub(super) fn begin(&self, end: u64) {
        let known = *self.kept().end.get_or_insert(end);
        self.end.send_replace(known);
    }

    /// The numbers that are missing up to `end`. If more are missing than are kept, only the last
    /// ones. None while no end is known: the look-up will find it.
    pub(super) fn missing(&self, end: u64) -> Option<Range<u64>> {
        let known = self.kept().end?;
        let most = u64::try_from(self.most.max(1)).unwrap_or(u64::MAX);
        (known < end).then(|| (known + 1).max((end + 1).saturating_sub(most))..end + 1)
    }

    /// Sets a new end without keeping entries, and wakes the watchers.
    pub(super) fn reach(&self, end: u64) {
        self.kept().end = Some(end);
        self.end.send_replace(end);
    }

    /// Adds new entries, from the number `first` on, and wakes the watchers.
    pub(super) fn grow(&self, first: u64, items: Vec<Item>) {
        let mut kept = self.kept();
        // Only one task calls this, and the entries of a feed appear in order.
        let Some(last) = items.last().map(|item| item.number) else { return };
        if kept.end.is_none_or(|end| end + 1 < first) {
            kept.items.clear();
            kept.bytes = 0;
        }
        for item in items {
            kept.bytes += item.bytes.len();
            kept.items.push_back(item);
        }
        while kept.items.len() > self.most || kept.bytes > KEPT_BYTES {
            let Some(oldest) = kept.items.pop_front() else { break };
            kept.bytes -= oldest.bytes.len();
        }
        kept.end = Some(last);
        self.end.send_replace(last);
    }

    /// At most `HANDED` entries after the number `after`; none if they are not kept.
    pub(super) fn after(&self, after: u64) -> Option<Vec<Item>> {
        let kept = self.kept();
        let first = kept.items.front()?.number;
        let skipped = usize::try_from((after + 1).checked_sub(first)?).ok()?;
        Some(kept.items.iter().skip(skipped).take(HANDED).cloned().collect())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn items(numbers: Range<u64>) -> Vec<Item> {
        numbers.map(|number| Item { number, bytes: Bytes::from_static(b"{}") }).collect()
    }

    fn numbers(items: Option<Vec<Item>>) -> Option<Vec<u64>> {
        items.map(|items| items.into_iter().map(|item| item.number).collect())
    }

    #[test]
    fn whoever_has_a_number_gets_what_follows_it() {
        let live = Live::new(1000);
        assert_eq!(live.missing(9), None, "nothing is known yet");
        live.begin(4);
        live.begin(7);
        assert_eq!(live.end(), Some(4), "what is known grows by what is read");
        let missing = live.missing(9).unwrap();
        assert_eq!(missing, 5..10);
        live.grow(missing.start, items(missing));
        assert_eq!(numbers(live.after(6)), Some(vec![7, 8, 9]));
        assert_eq!(numbers(live.after(9)), Some(vec![]));
        assert_eq!(live.after(3), None, "that is in the tables");
        assert_eq!(live.missing(9), None);
    }

    #[test]
    fn after_a_leap_only_the_end_is_kept_and_what_is_kept_has_no_gap() {
        let live = Live::new(1000);
        live.begin(0);
        live.grow(1, items(1..4));
        let missing = live.missing(5000).unwrap();
        assert_eq!(missing, 4001..5001);
        live.grow(missing.start, items(missing));
        assert_eq!(live.after(3), None);
        assert_eq!(numbers(live.after(4998)), Some(vec![4999, 5000]));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let live = Live::new(1000);
        live.begin(0);
        for first in (1..5001).step_by(500) {
            live.grow(first, items(first..first + 500));
        }
        assert_eq!(live.kept().items.len(), 1000);
        assert_eq!(live.after(4000).unwrap().len(), HANDED);
        assert_eq!(live.after(3999), None);
    }
}
