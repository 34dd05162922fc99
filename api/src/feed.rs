//! Feeds: what has grown is brought to those who watch, live, and from any number on.
//!
//! A feed is a numbered list without gaps: the log of a stream, or a member's inbox. Each process reads what is new of the watched
//! feeds once, together, when a notice says so, and keeps the latest of it for all who watch. A watcher is a number; whoever is
//! behind what is kept reads the tables, page by page, so nobody is left out and nobody who is slow costs memory.

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

/// The most streams of a process; others are told to come again.
const STREAMS: usize = 20_000;
/// How often the watched feeds are looked at without a notice: one may have been lost.
const LOOK: Duration = Duration::from_secs(5);
/// The most that one watcher reads of a feed at once: as long as it has not sent them, these wait in memory.
const PAGE: u64 = 100;
/// Of how many feeds the end is looked up with one statement.
const LOOKED_AT: usize = 1000;
/// How many feeds are read with one statement: it names each of them.
const TOGETHER: usize = 100;
/// How long the database may take for one of these.
const ANSWER: Duration = Duration::from_secs(5);
/// Those who read behind what is kept, at a time.
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
    /// How far what is watched reaches by the notices that were not read after yet.
    grown: Mutex<HashMap<Feed, u64>>,
    /// There is something in `grown` or in `asked`.
    news: Notify,
    /// Feeds whose end somebody waits for.
    asked: Mutex<HashMap<Feed, Vec<oneshot::Sender<u64>>>>,
    /// A feed may have grown, and nobody was there to hear it.
    again: Notify,
    ending: CancellationToken,
    tasks: TaskTracker,
}

/// Whoever watches a feed, from a number on. It ends with this value.
#[derive(Debug)]
pub struct Watcher {
    feeds: Feeds,
    feed: Feed,
    live: Arc<Live>,
    grown: tokio::sync::watch::Receiver<u64>,
    /// The number of the last entry that it has.
    has: u64,
    /// Where the feed ends, if the number to go on from is beyond that: the watcher is to be told to start over.
    reset: Option<u64>,
    _place: OwnedSemaphorePermit,
}

impl Feeds {
    /// Begins to read what is [`heard`](Self::heard) of, until shutdown.
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

    /// Has what a notice says read, of what is watched.
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

    /// Has all that is watched looked at: notices may have been missed.
    pub(crate) fn look_again(&self) {
        self.inner.again.notify_one();
    }

    /// Looks at all that is watched, and forgets what is not any more.
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
                    return tracing::warn!(%error, "could not look at what is watched; looking again");
                }
            }
        }
    }

    /// Tells those who have just come where their feeds end, all with a few statements.
    async fn look_up(&self, mut asked: HashMap<Feed, Vec<oneshot::Sender<u64>>>) {
        let feeds: Vec<Feed> = asked.keys().copied().collect();
        for some in feeds.chunks(LOOKED_AT) {
            let found: HashMap<_, _> = match self.in_time(self.ends(some)).await {
                Ok(ends) => ends.into_iter().collect(),
                // Those who wait for it hear that at once.
                Err(error) => return tracing::warn!(%error, "could not look up where feeds end"),
            };
            let ends: Vec<_> =
                some.iter().map(|feed| (*feed, found.get(feed).copied().unwrap_or_default())).collect();
            for (feed, end) in &ends {
                if let Some(live) = self.watched().get(feed) {
                    live.begin(*end);
                }
                for waiter in asked.remove(feed).into_iter().flatten() {
                    // They may have gone.
                    let _ = waiter.send(*end);
                }
            }
            self.grow(ends).await;
        }
    }

    /// Where a feed ends now.
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

    /// What the database says, if it does so in time: everybody waits for the one who reads.
    async fn in_time<T>(&self, read: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        tokio::time::timeout(ANSWER, read).await.unwrap_or_else(|_| {
            self.inner.db.did_not_answer();
            Err(DbErr::Custom("no answer in time".to_owned()))
        })
    }

    /// Where feeds end now.
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

    /// Reads these feeds up to their new ends, many together, and wakes who watches them.
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
                // Whoever watches will be told at the next look.
                Err(error) => return tracing::warn!(%error, "could not read what is new; looking again"),
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

    /// Watches a feed after the number `after`; after its end if there is none, or if it is beyond the end.
    pub async fn watch(&self, feed: Feed, after: Option<u64>) -> Result<Watcher, Problem> {
        let place = self.inner.places.clone().try_acquire_owned().map_err(|_| Problem::overloaded())?;
        let (live, grown) = {
            let mut watched = self.watched();
            let live = watched.entry(feed).or_insert_with(|| Arc::new(Live::new(kept(feed)))).clone();
            let grown = live.watch();
            (live, grown)
        };
        // Notices count from now on; where it ends is read after that.
        let end = match live.end().filter(|end| after.is_none_or(|after| after <= *end)) {
            Some(end) => end,
            None => self.end(feed).await?,
        };
        // A number that was never given here: the database was restored, or the client had another deployment before.
        let reset = after.filter(|after| *after > end).map(|_| end);
        let has = after.filter(|after| *after <= end).unwrap_or(end);
        Ok(Watcher { feeds: self.clone(), feed, live, grown, has, reset, _place: place })
    }

    /// Runs a stream's task: the process ends when it has ended.
    pub fn run<F: Future<Output = ()> + Send>(&self, task: F) -> impl Future<Output = ()> + Send + use<F> {
        self.inner.tasks.track_future(task)
    }

    /// Whether the process ends.
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
    /// The next entries, in order and without a gap, as soon as there are any; `None` at the end of the process.
    pub async fn next(&mut self) -> Result<Option<Vec<Item>>, Problem> {
        loop {
            if self.feeds.inner.ending.is_cancelled() {
                return Ok(None);
            }
            let end = *self.grown.borrow_and_update();
            if self.has < end {
                let items = match self.live.after(self.has) {
                    Some(items) => items,
                    // In a piece of memory of its own, which is there only meanwhile: there are many who wait for news.
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

    /// The number of the last entry that there is; waits until it is another than `known`. `None` at the end of the process.
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

    /// What stands in the tables after what it has.
    async fn read(&self) -> Result<Vec<Item>, Problem> {
        let inner = &self.feeds.inner;
        // Those who come back after a long time must not take all the connections.
        let _turn = inner.readers.acquire().await.map_err(|_| Problem::overloaded())?;
        let db = &inner.db.read;
        Ok(match self.feed {
            Feed::Log(stream) => log::read(db, stream, self.has, PAGE)
                .await?
                .into_iter()
                .map(|entry| Item { number: entry.head.sequence, bytes: entry.bytes })
                .collect(),
            // It is read by `Places`.
            Feed::Standing(_) => Vec::new(),
            Feed::Inbox(id) => inboxes::after(db, id, self.has, PAGE)
                .await?
                .into_iter()
                .map(|item| Item { number: item.number, bytes: item.bytes })
                .collect(),
        })
    }
}
