//! Feeds: live delivery of new entries to watchers, starting after any number.
//!
//! A feed is a numbered list without gaps: the log of a stream, or a member's inbox. When notices
//! say that feeds have grown, the process reads the new entries of the watched ones once, together.
//! It keeps the latest entries for all watchers of a feed.
//!
//! A watcher is a number. If it is behind the kept entries, it reads the tables page by page. So no
//! watcher misses an entry, and a slow one costs no memory.

mod live;
mod places;
pub mod stream;
mod watched;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use process::parts::Parts;
use sea_orm::DbErr;
use shared::bus::Notice;
use shared::database::Database;
use shared::log;
use shared::store::{inbox as inboxes, streams};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::live::Live;
use self::places::Standings;
use self::watched::kept;
pub use self::watched::{Feed, Item};
use crate::problem::Problem;

/// The most streams of a process. Further ones are refused as `overloaded`.
const STREAMS: usize = 20_000;
/// How often to look at the watched feeds without a notice, since notices may be lost.
const LOOK: Duration = Duration::from_secs(5);
/// The most entries that a watcher reads at once. They wait in memory until they are sent.
const PAGE: u64 = 100;
/// The most feeds whose ends one statement looks up.
const LOOKED_AT: usize = 1000;
/// The most feeds that one statement reads. The statement names each of them.
const TOGETHER: usize = 100;
/// Timeout for each of these statements.
const ANSWER: Duration = Duration::from_secs(5);
/// The most watchers that read the tables at a time.
const READERS: usize = 4;

/// The feeds of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Feeds {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Database,
    watched: Mutex<HashMap<Feed, Arc<Live>>>,
    places: Arc<Semaphore>,
    readers: Semaphore,
    standings: Standings,
    /// The ends of watched feeds from notices that were not handled yet.
    grown: Mutex<HashMap<Feed, u64>>,
    /// Signals that `grown` or `asked` has something.
    news: Notify,
    /// The feeds whose ends watchers wait for.
    asked: Mutex<HashMap<Feed, Vec<oneshot::Sender<u64>>>>,
    /// Signals that notices may have been missed.
    again: Notify,
    ending: CancellationToken,
    tasks: TaskTracker,
}

/// A watcher of a feed, from a number on. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher {
    feeds: Feeds,
    feed: Feed,
    live: Arc<Live>,
    grown: tokio::sync::watch::Receiver<u64>,
    /// The number of the last entry that the watcher has.
    has: u64,
    /// The end of the feed, if the watcher's number is beyond it. The client is then told to start
    /// over.
    reset: Option<u64>,
    _place: OwnedSemaphorePermit,
}

impl Feeds {
    /// Starts the task that reads what notices report ([`heard`](Self::heard)), until shutdown.
    #[must_use]
    pub(crate) fn start(db: &Database, parts: &Parts, shutdown: CancellationToken) -> Self {
        let inner = Inner {
            db: db.clone(),
            watched: Mutex::default(),
            places: Arc::new(Semaphore::new(STREAMS)),
            readers: Semaphore::new(READERS),
            standings: Standings::default(),
            grown: Mutex::default(),
            news: Notify::new(),
            asked: Mutex::default(),
            again: Notify::new(),
            ending: shutdown,
            tasks: TaskTracker::new(),
        };
        let feeds = Self { inner: Arc::new(inner) };
        let followed = feeds.clone();
        parts.spawn("feeds", &feeds.inner.ending, move || followed.clone().follow());
        feeds
    }

    async fn follow(self) {
        shared::failpoint::hit("feeds-following");
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.inner.ending.cancelled() => return,
                _ = look.tick() => self.look().await,
                () = self.inner.again.notified() => self.look().await,
                () = self.inner.news.notified() => {
                    let asked = std::mem::take(&mut *self.asked());
                    self.look_up(asked).await;
                    let grown = std::mem::take(&mut *self.grown());
                    self.grow(grown).await;
                }
            }
        }
    }

    /// Lets the task read the watched feeds that a notice names.
    pub(crate) fn heard(&self, notice: Notice) {
        let logs = notice.logs.into_iter().flat_map(|(stream, end)| {
            let standing = stream.drive().map(|id| (Feed::Standing(id), end));
            std::iter::once((Feed::Log(stream), end)).chain(standing)
        });
        let inboxes = notice.inboxes.into_iter().map(|(id, end)| (Feed::Inbox(id), end));
        let watched = self.watched();
        let mut grown = self.grown();
        for (feed, end) in logs.chain(inboxes).filter(|(feed, _)| watched.contains_key(feed)) {
            let known = grown.entry(feed).or_default();
            *known = end.max(*known);
        }
        if !grown.is_empty() {
            self.inner.news.notify_one();
        }
    }

    /// Lets the task look at all watched feeds, since notices may have been missed.
    pub(crate) fn look_again(&self) {
        self.inner.again.notify_one();
    }

    /// Reads what is new in all watched feeds, and forgets feeds without watchers.
    async fn look(&self) {
        let feeds: Vec<Feed> = {
            let mut watched = self.watched();
            watched.retain(|_, live| live.is_watched());
            metrics::gauge!("muster_feeds").set(watched.len() as f64);
            watched.keys().copied().collect()
        };
        let taken = STREAMS - self.inner.places.available_permits();
        metrics::gauge!("muster_streams").set(taken as f64);
        for some in feeds.chunks(LOOKED_AT) {
            match self.in_time(self.ends(some)).await {
                Ok(ends) => self.grow(ends).await,
                Err(error) => {
                    return tracing::warn!(%error, "could not look up watched feeds; looking again");
                }
            }
        }
    }

    /// Tells new watchers where their feeds end, with a few statements for all.
    async fn look_up(&self, mut asked: HashMap<Feed, Vec<oneshot::Sender<u64>>>) {
        let feeds: Vec<Feed> = asked.keys().copied().collect();
        for some in feeds.chunks(LOOKED_AT) {
            let found: HashMap<_, _> = match self.in_time(self.ends(some)).await {
                Ok(ends) => ends.into_iter().collect(),
                // Returning drops the senders, so the waiting watchers fail at once.
                Err(error) => return tracing::warn!(%error, "could not look up feeds; refusing new watchers"),
            };
            let ends: Vec<_> =
                some.iter().map(|feed| (*feed, found.get(feed).copied().unwrap_or_default())).collect();
            for (feed, end) in &ends {
                if let Some(live) = self.watched().get(feed) {
                    live.begin(*end);
                }
                for waiter in asked.remove(feed).into_iter().flatten() {
                    // The watcher may be gone.
                    let _ = waiter.send(*end);
                }
            }
            self.grow(ends).await;
        }
    }

    /// The number of the last entry of a feed, which the task looks up.
    async fn end(&self, feed: Feed) -> Result<u64, Problem> {
        let (sender, end) = oneshot::channel();
        {
            let mut asked = self.asked();
            let waiters = asked.entry(feed).or_default();
            waiters.retain(|waiter| !waiter.is_closed());
            waiters.push(sender);
        }
        self.inner.news.notify_one();
        let end = self.inner.ending.run_until_cancelled(tokio::time::timeout(ANSWER, end)).await;
        end.ok_or_else(Problem::overloaded)?
            .ok()
            .and_then(Result::ok)
            .ok_or_else(Problem::database_unavailable)
    }

    /// Bounds a read by the timeout, because all watchers wait for the one task that reads.
    async fn in_time<T>(&self, read: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        tokio::time::timeout(ANSWER, read).await.unwrap_or_else(|_| {
            self.inner.db.did_not_answer();
            Err(DbErr::Custom("no answer in time".to_owned()))
        })
    }

    /// Looks up the numbers of the last entries of feeds.
    async fn ends(&self, feeds: &[Feed]) -> Result<Vec<(Feed, u64)>, DbErr> {
        let (mut watched, mut members) = (BTreeSet::new(), BTreeSet::new());
        for feed in feeds {
            match (feed, feed.log()) {
                (Feed::Inbox(id), _) => drop(members.insert(*id)),
                (_, log) => watched.extend(log),
            }
        }
        let db = &self.inner.db.read;
        let logs: HashMap<_, _> = streams::ends(db, watched).await?.into_iter().collect();
        let inboxes = inboxes::ends(db, &members).await?;
        let end = |feed: &Feed| match feed {
            Feed::Inbox(id) => inboxes.get(id),
            Feed::Log(_) | Feed::Standing(_) => logs.get(&feed.log()?),
        };
        Ok(feeds.iter().filter_map(|feed| Some((*feed, *end(feed)?))).collect())
    }

    /// Reads these feeds up to their new ends, many with one statement, and wakes their watchers.
    async fn grow(&self, ends: impl IntoIterator<Item = (Feed, u64)>) {
        let mut wanted = Vec::new();
        {
            let watched = self.watched();
            for (feed, end) in ends {
                let Some(live) = watched.get(&feed) else { continue };
                match (feed, live.missing(end)) {
                    (Feed::Standing(_), Some(range)) => live.reach(range.end - 1),
                    (_, Some(range)) => wanted.push((feed, live.clone(), range)),
                    (_, None) => {}
                }
            }
        }
        for some in wanted.chunks(TOGETHER) {
            let ranges = some.iter().map(|(feed, _, range)| (*feed, range.start, range.end - range.start));
            match self.in_time(self.ranges(ranges)).await {
                Ok(mut read) => {
                    for (feed, live, range) in some {
                        live.grow(range.start, read.remove(feed).unwrap_or_default());
                    }
                }
                // The next look reads them.
                Err(error) => return tracing::warn!(%error, "could not read new entries; looking again"),
            }
        }
    }

    async fn ranges(
        &self,
        wanted: impl Iterator<Item = (Feed, u64, u64)> + Clone,
    ) -> Result<HashMap<Feed, Vec<Item>>, DbErr> {
        let db = &self.inner.db.read;
        let mut read: HashMap<Feed, Vec<Item>> = HashMap::new();
        let logs = wanted.clone().filter_map(|(feed, first, count)| match feed {
            Feed::Log(id) => Some((id, first, count)),
            _ => None,
        });
        for log::Entry { stream, head, bytes } in log::ranges(db, logs).await? {
            read.entry(Feed::Log(stream)).or_default().push(Item { number: head.sequence, bytes });
        }
        let inboxes = wanted.filter_map(|(feed, first, count)| match feed {
            Feed::Inbox(id) => Some((id, first, count)),
            _ => None,
        });
        for (member_id, item) in inboxes::ranges(db, inboxes).await? {
            let item = Item { number: item.number, bytes: item.bytes };
            read.entry(Feed::Inbox(member_id)).or_default().push(item);
        }
        Ok(read)
    }

    /// Watches a feed after the number `after`. Without a number, or if it is beyond the end,
    /// watches after the end.
    pub async fn watch(&self, feed: Feed, after: Option<u64>) -> Result<Watcher, Problem> {
        let place = self.inner.places.clone().try_acquire_owned().map_err(|_| Problem::overloaded())?;
        let (live, grown) = {
            let mut watched = self.watched();
            let live = watched.entry(feed).or_insert_with(|| Arc::new(Live::new(kept(feed)))).clone();
            let grown = live.watch();
            (live, grown)
        };
        // Look up the end only now: notices of later entries already reach this watcher.
        let end = match live.end().filter(|end| after.is_none_or(|after| after <= *end)) {
            Some(end) => end,
            None => self.end(feed).await?,
        };
        // This database never gave that number. It was restored, or the client used another
        // deployment before.
        let reset = after.filter(|after| *after > end).map(|_| end);
        let has = after.filter(|after| *after <= end).unwrap_or(end);
        Ok(Watcher { feeds: self.clone(), feed, live, grown, has, reset, _place: place })
    }

    /// Tracks the task of a stream, so that the process waits for its end.
    pub fn run<F: Future<Output = ()> + Send>(&self, task: F) -> impl Future<Output = ()> + Send + use<F> {
        self.inner.tasks.track_future(task)
    }

    /// Waits until the process is asked to end.
    pub async fn ending(&self) {
        self.inner.ending.cancelled().await;
    }

    /// Waits until all tasks of streams have ended.
    pub async fn ended(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Feed, Vec<oneshot::Sender<u64>>>> {
        self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grown(&self) -> MutexGuard<'_, HashMap<Feed, u64>> {
        self.inner.grown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<Feed, Arc<Live>>> {
        self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// Waits for the next entries, in order and without a gap. `None` at the end of the process.
    pub async fn next(&mut self) -> Result<Option<Vec<Item>>, Problem> {
        loop {
            if self.feeds.inner.ending.is_cancelled() {
                return Ok(None);
            }
            let end = *self.grown.borrow_and_update();
            if self.has < end {
                let items = match self.live.after(self.has) {
                    Some(items) => items,
                    // Boxed: there are many watchers, and most of them only wait.
                    None => Box::pin(self.read()).await?,
                };
                if let Some(last) = items.last() {
                    self.has = last.number;
                    return Ok(Some(items));
                }
            }
            tokio::select! {
                () = self.feeds.inner.ending.cancelled() => return Ok(None),
                changed = self.grown.changed() => if changed.is_err() { return Ok(None) },
            }
        }
    }

    /// Waits until the number of the last entry differs from `known`, and returns it. `None` at the
    /// end of the process.
    pub async fn end_other_than(&mut self, known: Option<u64>) -> Option<u64> {
        loop {
            let end = *self.grown.borrow_and_update();
            if known != Some(end) {
                return Some(end);
            }
            tokio::select! {
                () = self.feeds.inner.ending.cancelled() => return None,
                changed = self.grown.changed() => changed.ok()?,
            }
        }
    }

    /// Reads the next page from the tables.
    async fn read(&self) -> Result<Vec<Item>, Problem> {
        let inner = &self.feeds.inner;
        // Watchers that return after a long time must not use up all connections.
        let _turn = inner.readers.acquire().await.map_err(|_| Problem::overloaded())?;
        let db = &inner.db.read;
        Ok(match self.feed {
            Feed::Log(stream) => log::read(db, stream, self.has, PAGE)
                .await?
                .into_iter()
                .map(|entry| Item { number: entry.head.sequence, bytes: entry.bytes })
                .collect(),
            // `Places` reads it.
            Feed::Standing(_) => Vec::new(),
            Feed::Inbox(id) => inboxes::after(db, id, self.has, PAGE)
                .await?
                .into_iter()
                .map(|item| Item { number: item.number, bytes: item.bytes })
                .collect(),
        })
    }
}
