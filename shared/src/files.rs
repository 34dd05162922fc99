//! Temporary files. Data that is too large for the bus travels by reference.
//!
//! The store is an `object_store` on a folder that the processes of a deployment share.

use std::path::Path as FolderPath;
use std::sync::Arc;

use bytes::Bytes;
use domain::clock::Timestamp;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use uuid::Uuid;

use crate::private;

/// The store failed.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct FilesError {
    attempt: &'static str,
    source: object_store::Error,
    /// There is no such file.
    pub missing: bool,
}

/// The folder for files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// This process's user cannot work in it.
    #[error(transparent)]
    Folder(#[from] private::UnusableFolder),
    /// The store cannot open it.
    #[error(transparent)]
    Store(#[from] FilesError),
}

fn failed(attempt: &'static str) -> impl FnOnce(object_store::Error) -> FilesError {
    move |source| FilesError {
        attempt,
        missing: matches!(source, object_store::Error::NotFound { .. }),
        source,
    }
}

/// The store of temporary files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Files {
    store: Arc<dyn ObjectStore>,
}

impl Files {
    /// Opens a folder, and creates it if it is missing.
    pub fn open(folder: &FolderPath) -> Result<Self, FilesError> {
        let make = || {
            private::make_folder(folder)
                .map_err(|error| object_store::Error::Generic { store: "file", source: Box::new(error) })?;
            LocalFileSystem::new_with_prefix(folder)
        };
        let store = make().map_err(failed("open the folder for files"))?;
        Ok(Self { store: Arc::new(store) })
    }

    /// Stores a file. Returns its key.
    pub async fn put(&self, bytes: Bytes) -> Result<String, FilesError> {
        let key = Uuid::now_v7().to_string();
        self.store.put(&Path::from(key.as_str()), bytes.into()).await.map_err(failed("store a file"))?;
        Ok(key)
    }

    /// Reads a file.
    pub async fn get(&self, key: &str) -> Result<Bytes, FilesError> {
        let found = self.store.get(&Path::from(key)).await.map_err(failed("read a file"))?;
        found.bytes().await.map_err(failed("read a file"))
    }

    /// Deletes the files that were stored before `before`. Returns their number.
    pub async fn delete_older(&self, before: Timestamp) -> Result<u64, FilesError> {
        let old = self
            .store
            .list(None)
            .try_filter(move |file| std::future::ready(file.last_modified < before))
            .map_ok(|file| file.location)
            .boxed();
        self.store
            .delete_stream(old)
            .try_fold(0, |count, _| std::future::ready(Ok(count + 1)))
            .await
            .map_err(failed("delete old files"))
    }
}
