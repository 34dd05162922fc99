//! Files and folders that only their owner may read. They hold personal data and keys.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The files of Muster's data folder, beside the folders in [`FOLDERS`].
const FILES: [&str; 11] = [
    "muster.db",
    "muster.db-wal",
    "muster.db-shm",
    "broker.db",
    "broker.db-wal",
    "broker.db-shm",
    "broker.lock",
    "keys.json",
    "keys.json.lock",
    "signing-key",
    "admin-password",
];
/// The folders of Muster's data folder.
const FOLDERS: [&str; 2] = ["files", "mail"];

/// Makes all new files of this process, libraries included, readable only by their owner.
pub fn begin() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Makes a folder and its missing parents for the owner alone. An existing folder stays the same.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// A folder of the configuration cannot be used by this process's user.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {} cannot be used by this user{owner}", folder.display())]
pub struct UnusableFolder {
    setting: &'static str,
    folder: PathBuf,
    /// The owner, if it is another user.
    owner: String,
    source: io::Error,
}

/// Makes the folder of this setting if it is missing, and checks that this process can write there.
pub fn check_folder(setting: &'static str, folder: &Path) -> Result<(), UnusableFolder> {
    let unusable = |source| {
        let owner = owner(folder)
            .map(|(own, theirs)| format!(" (id {own}; the folder belongs to id {theirs})"))
            .unwrap_or_default();
        UnusableFolder { setting, folder: folder.to_owned(), owner, source }
    };
    make_folder(folder).map_err(unusable)?;
    let probe = folder.join(format!(".probe.{}", uuid::Uuid::now_v7()));
    options().write(true).create_new(true).open(&probe).map_err(unusable)?;
    fs::remove_file(&probe).map_err(unusable)
}

/// The ids of this process's user and of the folder's owner, if they differ.
#[cfg(unix)]
fn owner(folder: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let ids = (rustix::process::geteuid().as_raw(), fs::metadata(folder).ok()?.uid());
    (ids.0 != ids.1).then_some(ids)
}

#[cfg(not(unix))]
fn owner(_: &Path) -> Option<(u32, u32)> {
    None
}

/// Options that open a file, and create it for the owner alone.
#[must_use]
pub fn options() -> fs::OpenOptions {
    #[cfg_attr(not(unix), allow(unused_mut))]
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes an empty file for the owner alone, with its folder. Others lose their rights to an
/// existing file.
///
/// SQLite gives the files beside a database the same rights as the database.
pub fn make_file(file: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        make_folder(folder)?;
    }
    match options().write(true).create_new(true).open(file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let beside = |end: &str| {
                let mut name = file.as_os_str().to_owned();
                name.push(end);
                name
            };
            for end in ["", "-wal", "-shm"] {
                narrow(Path::new(&beside(end)));
            }
            Ok(())
        }
        made => made.map(drop),
    }
}

/// Writes a file that only its owner can read, unless another process wrote it first. The write is
/// atomic.
pub fn create_once(file: &Path, text: &str) -> io::Result<()> {
    make_folder(folder_of(file))?;
    let draft = draft(file, text)?;
    match fs::hard_link(&draft, file) {
        Ok(()) => fs::remove_file(&draft),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(&draft),
        // Some file systems have no hard links.
        Err(_) => rename_once(&draft, file),
    }
}

/// Renames `draft` to `file`, unless that exists. Processes that do so at the same time wait for
/// each other.
fn rename_once(draft: &Path, file: &Path) -> io::Result<()> {
    let _lock = lock(file)?;
    if file.exists() { fs::remove_file(draft) } else { fs::rename(draft, file) }
}

/// Replaces the content of a file, or makes it, for its owner alone. The write is atomic. Hold a
/// [`lock`] if the new content depends on the old one.
pub fn replace(file: &Path, text: &str) -> io::Result<()> {
    let draft = draft(file, text)?;
    give_to_owner_of(file, &draft).and_then(|()| fs::rename(&draft, file)).inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })?;
    // The new name must survive a power failure, too.
    #[cfg(unix)]
    File::open(folder_of(file))?.sync_all()?;
    Ok(())
}

/// Locks a file against other processes that call this, until the result is dropped. The lock is a
/// file beside it.
pub fn lock(file: &Path) -> io::Result<File> {
    let mut name = file.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let lock = options().write(true).create(true).truncate(false).open(&name)?;
    give_to_owner_of(file, &name)?;
    lock.lock()?;
    Ok(lock)
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file with another name into the folder of `file`.
fn draft(file: &Path, text: &str) -> io::Result<PathBuf> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder_of(file).join(format!(".{name}.{}", uuid::Uuid::now_v7()));
    let mut open = options().write(true).create_new(true).open(&draft)?;
    open.write_all(text.as_bytes())?;
    open.sync_all()?;
    Ok(draft)
}

/// An operator may work as root. Muster's user must still be able to read the result.
#[cfg(unix)]
fn give_to_owner_of(file: &Path, made: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(found) = fs::metadata(file) else { return Ok(()) };
    if fs::metadata(made)?.uid() == found.uid() {
        return Ok(());
    }
    std::os::unix::fs::chown(made, Some(found.uid()), Some(found.gid()))
}

#[cfg(not(unix))]
fn give_to_owner_of(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}

/// Removes the rights of others to the files of an older Muster in its data folder. Does the same
/// for the folder, if it has nothing else.
///
/// It does not touch other files, or a folder that has other files.
pub fn narrow_data(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    let is_ours = |name: &std::ffi::OsString| FILES.iter().chain(&FOLDERS).any(|known| name == *known);
    for name in FILES {
        narrow(&folder.join(name));
    }
    for name in FOLDERS {
        narrow_folder(&folder.join(name));
    }
    if !names.is_empty() && names.iter().all(is_ours) {
        narrow(folder);
    }
}

/// Removes the rights of others to a folder and the files in it.
fn narrow_folder(folder: &Path) {
    // Once others may not enter the folder, its content needs no check.
    if !narrow(folder) {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        narrow(&entry.path());
    }
}

/// Removes the rights of others to a file or folder. Returns whether they had any.
fn narrow(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        // Skip symbolic links, because their target may be another user's. Skip files of other
        // users.
        let Ok(found) = fs::symlink_metadata(path) else { return false };
        if found.uid() != rustix::process::geteuid().as_raw() {
            return false;
        }
        let mode = found.permissions().mode() & 0o7777;
        let is_narrow = mode == mode & 0o700;
        if found.is_symlink() || is_narrow {
            return false;
        }
        let (path_shown, before) = (path.display(), format!("{mode:o}"));
        if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700)) {
            tracing::warn!(path = %path_shown, before, %error, "could not remove the rights of others to a file of Muster; remove them by hand");
        } else {
            tracing::info!(path = %path_shown, before, "removed the rights of others to a file of Muster");
        }
        true
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let folder = std::env::temp_dir().join(format!("muster_private_{}", uuid::Uuid::new_v4()));
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
            Self(folder)
        }

        fn wide(&self, name: &str) -> PathBuf {
            let file = self.0.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "x").unwrap();
            for path in [&file, &file.parent().unwrap().to_owned()] {
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            file
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_the_owners_alone() {
        let folder = Folder::new();
        let file = folder.0.join("a/b/muster.db");
        make_file(&file).unwrap();
        assert_eq!(
            (mode(&file), mode(file.parent().unwrap()), mode(&folder.0.join("a"))),
            (0o600, 0o700, 0o700)
        );
        assert_eq!(mode(&folder.0), 0o755, "it was there");
        make_file(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"");
    }

    #[test]
    fn what_an_older_version_left_is_narrowed_and_nothing_else_is() {
        let folder = Folder::new();
        let ours = ["muster.db", "muster.db-wal", "broker.db", "signing-key", "files/one", "mail/two.eml"];
        let ours = ours.map(|name| folder.wide(name));
        let theirs = folder.wide("website/index.html");
        narrow_data(&folder.0);
        for file in &ours {
            assert_eq!(mode(file) & 0o077, 0, "{}", file.display());
        }
        for path in [&folder.0.join("files"), &folder.0.join("mail")] {
            assert_eq!(mode(path), 0o700);
        }
        assert_eq!((mode(&theirs), mode(&folder.0)), (0o755, 0o755), "somebody else needs it");
        fs::remove_dir_all(folder.0.join("website")).unwrap();
        narrow_data(&folder.0);
        assert_eq!(mode(&folder.0), 0o700, "nothing but Muster's is in it");
        narrow_data(&folder.0.join("missing"));
    }

    #[test]
    fn a_file_is_written_once_without_hard_links_too() {
        let folder = Folder::new();
        let file = folder.0.join("a/key");
        create_once(&file, "first").unwrap();
        create_once(&file, "second").unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap(), mode(&file)), ("first".to_owned(), 0o600));
        let made = std::thread::scope(|scope| {
            let make = |number: usize| {
                let (draft, file) = (folder.0.join(format!("a/draft{number}")), folder.0.join("a/other"));
                fs::write(&draft, number.to_string()).unwrap();
                rename_once(&draft, &file).unwrap();
                fs::read_to_string(&file).unwrap()
            };
            let threads = [0, 1, 2, 3].map(|number| scope.spawn(move || make(number)));
            threads.map(|thread| thread.join().unwrap())
        });
        assert!(made.iter().all(|text| *text == made[0]), "{made:?}");
        assert_eq!(fs::read_dir(folder.0.join("a")).unwrap().count(), 3, "the two files and a lock");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_one_after_another() {
        let folder = Folder::new();
        let file = folder.0.join("number");
        fs::write(&file, "0").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _lock = lock(&file).unwrap();
                    let number: usize = fs::read_to_string(&file).unwrap().parse().unwrap();
                    replace(&file, &(number + 1).to_string()).unwrap();
                });
            }
        });
        assert_eq!(fs::read_to_string(&file).unwrap(), "8");
        assert_eq!((mode(&file), mode(&folder.0.join("number.lock"))), (0o600, 0o600));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2, "the file and its lock");
    }

    #[test]
    fn links_are_not_followed() {
        let (folder, elsewhere) = (Folder::new(), Folder::new());
        let target = elsewhere.wide("target");
        std::os::unix::fs::symlink(&target, folder.0.join("muster.db")).unwrap();
        narrow_data(&folder.0);
        assert_eq!(mode(&target), 0o755);
    }
}
