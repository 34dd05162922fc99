//! Places for requests in work. A request that finds none is refused as `overloaded`.
//!
//! A client decides how fast its body arrives. So a request gives its place back while its body
//! arrives, and takes another one when the body is complete. Slow bodies take no place from others.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// The most requests in work at a time.
const IN_WORK: usize = 20_000;

/// All places.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(IN_WORK)))
    }
}

impl Room {
    /// Takes a place for a request.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn enter(&self) -> Result<Place, Problem> {
        let place = Place { room: self.clone(), held: Arc::default() };
        place.enter()?;
        Ok(place)
    }
}

/// The place of one request. It is free again when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    room: Room,
    held: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Place {
    /// Takes a place again.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn enter(&self) -> Result<(), Problem> {
        let permit = self.room.0.clone().try_acquire_owned().map_err(|_| Problem::overloaded())?;
        self.hold(Some(permit));
        Ok(())
    }

    /// Gives the place back for now.
    pub(crate) fn leave(&self) {
        self.hold(None);
    }

    fn hold(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

#[cfg(test)]
impl Room {
    /// A room with this many places.
    pub(crate) fn of(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }
}
