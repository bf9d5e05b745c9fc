//! Where the bytes of a read go to: a file beneath a root, whole or not at all.
//!
//! The bytes go into a hidden file of a name of its own, beside the target; only when all of them are there and
//! on the disk is it renamed. A worker that is killed leaves that file; its name tells the job and the target, so that
//! the job's next run removes it. Its folder is opened once, as `beneath.rs` opens, and everything else happens
//! relative to it, so that no link and no race leads elsewhere. Folders are never made, and nothing but a
//! regular file is replaced.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fsync, openat, renameat, statat, unlinkat},
    io::Errno,
};
use sha2::{Digest, Sha256};

use super::{
    beneath,
    file_threads::{FileThreads, Kept, is_stalled},
};
use crate::job::{
    Failure, FailureClass, JobId,
    place::{Refused, Roots},
};

/// How hidden names end.
const SUFFIX: &str = ".part";

/// What became of the job's runs before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EarlierRuns {
    /// They ended, and cleared up.
    Ended,
    /// The worker of one died, and may have left its file.
    Died,
}

/// A file that is being written, under a name of its own. Dropped before [`PartFile::commit`], it is deleted.
#[derive(Debug)]
pub(super) struct PartFile {
    threads: FileThreads,
    place: Arc<Kept<Place>>,
    file: Arc<Kept<File>>,
    /// Bytes written so far.
    written: u64,
    /// Of a call that may yet go on: what it would write, and where, is not for this file any more.
    stalled: Option<Failure>,
}

#[derive(Debug)]
struct Place {
    folder: OwnedFd,
    /// The hidden name.
    temporary: OsString,
    target: OsString,
    /// The target as the job names it, for messages.
    path: PathBuf,
}

impl PartFile {
    /// Begins a file of that job that is to become `path`, an absolute one. What runs that died left of it is removed.
    ///
    /// Fails `job_local`: `forbidden_source` beyond the roots, `destination_not_found` when there is no such
    /// folder, `destination_not_a_file` when something else than a file is there, `destination_access_denied`;
    /// `unavailable` for the worker's trouble, such as a volume that is not mounted, or hangs.
    pub(super) async fn create(
        threads: &FileThreads,
        roots: &Roots,
        path: &Path,
        job: &JobId,
        earlier: EarlierRuns,
    ) -> Result<Self, Failure> {
        let (root, relative) = roots.covering(path).map_err(|refused| match refused {
            Refused::Forbidden(why) => Failure::forbidden(why),
            Refused::Malformed(rule) => Failure::forbidden(format!("the path {rule}")),
        })?;
        let (root, path, setting) = (root.to_owned(), path.to_owned(), roots.setting());
        let hidden = hidden(job, &path);
        let own = threads.clone();
        let making = {
            let path = path.clone();
            move || create(own, (&root, &relative), path, setting, (&hidden, earlier))
        };
        threads.run(&path, 0, making).await
    }

    /// Why nothing can be written any more: a call to its volume was given up, and may yet go on.
    pub(super) const fn stalled(&self) -> Option<&Failure> {
        self.stalled.as_ref()
    }

    async fn run(
        &mut self,
        bytes: usize,
        work: impl FnOnce() -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        if let Some(failure) = &self.stalled {
            return Err(failure.clone());
        }
        let done = self.threads.run(&self.place.path, bytes, work).await;
        self.stalled = done.as_ref().err().filter(|it| is_stalled(it)).cloned();
        done
    }

    /// Writes bytes behind those that are there. Must not be dropped before it is done.
    pub(super) async fn append(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let (file, place, at) = (
            Arc::clone(&self.file),
            Arc::clone(&self.place),
            self.written,
        );
        let count = bytes.len();
        let writing = move || {
            let written = file.write_all_at(&bytes, at);
            written.map_err(|error| unwritable(&place.path, &error))
        };
        self.run(count, writing).await?;
        self.written += count as u64;
        Ok(())
    }

    /// Begins anew, with an empty file.
    pub(super) async fn restart(&mut self) -> Result<(), Failure> {
        let (file, place) = (Arc::clone(&self.file), Arc::clone(&self.place));
        self.written = 0;
        let cutting = move || {
            let cut = file.set_len(0);
            cut.map_err(|error| unwritable(&place.path, &error))
        };
        self.run(0, cutting).await
    }

    /// Brings all of it to the disk, then gives it the target's name, which it takes from whatever file had it.
    pub(super) async fn commit(mut self) -> Result<(), Failure> {
        let (file, place) = (Arc::clone(&self.file), Arc::clone(&self.place));
        let committing = move || {
            let folder = place.folder.as_fd();
            let failed =
                |error: Errno| unopened(&place.path, "destinations.file_roots", &error.into());
            fsync(&**file).map_err(|error| unwritable(&place.path, &error.into()))?;
            renameat(folder, &place.temporary, folder, &place.target).map_err(failed)?;
            fsync(folder).map_err(|error| unwritable(&place.path, &error.into()))
        };
        // The disk may have all of it still to write.
        let bytes = usize::try_from(self.written).unwrap_or(usize::MAX);
        self.run(bytes, committing).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After the rename there is no such name any more.
        unlinkat(self.folder.as_fd(), &self.temporary, AtFlags::empty()).unwrap_or_default();
    }
}

fn create(
    threads: FileThreads,
    (root, relative): (&Path, &Path),
    path: PathBuf,
    setting: &str,
    (hidden, earlier): (&str, EarlierRuns),
) -> Result<PartFile, Failure> {
    let opened = beneath::open_root(root).map_err(|error| {
        let message = format!("folder {root:?} of {setting} can't be opened: {error}");
        Failure::ours(
            FailureClass::Unavailable,
            "destination_root_unavailable",
            message,
        )
    })?;
    let target = relative.file_name().unwrap_or_default().to_owned();
    let folder = match relative
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        None => opened,
        Some(parent) => beneath::open(opened.as_fd(), parent, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|error| unopened(&path, setting, &error))?,
    };
    check_target(&folder, &target, &path, setting)?;
    if earlier == EarlierRuns::Died {
        clear(&folder, hidden);
    }
    let temporary = OsString::from(format!("{hidden}{:016x}{SUFFIX}", fastrand::u64(..)));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // As any program makes files: what the process's umask leaves.
    let mode = Mode::from_raw_mode(0o666);
    let file = openat(folder.as_fd(), &temporary, flags, mode)
        .map_err(|error| unopened(&path, setting, &error.into()))?;
    let place = Place {
        folder,
        temporary,
        target,
        path,
    };
    Ok(PartFile {
        place: Arc::new(threads.keep(place)),
        file: Arc::new(threads.keep(File::from(file))),
        threads,
        written: 0,
        stalled: None,
    })
}

/// How the hidden names of a job's file begin: with a hash of the job and of the target as the job names it. The rest is
/// each run's own.
fn hidden(job: &JobId, path: &Path) -> String {
    let mut hash = Sha256::new_with_prefix(job.as_str());
    hash.update([0]);
    hash.update(path.as_os_str().as_encoded_bytes());
    let mut name = ".brigade-".to_owned();
    for byte in &hash.finalize()[..8] {
        name.push_str(&format!("{byte:02x}"));
    }
    name.push('-');
    name
}

/// Removes the files that runs of this job left, and nothing else. A worker that was taken for dead and still writes
/// can't finish then; its run is void anyway. Best effort: what stays is in nobody's way.
fn clear(folder: &OwnedFd, hidden: &str) {
    let Ok(entries) = Dir::read_from(folder) else {
        return;
    };
    let left: Vec<_> = entries
        .map_while(Result::ok)
        .filter(|entry| is_of(entry.file_name().to_bytes(), hidden))
        .collect();
    for entry in left {
        let name = entry.file_name();
        let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_file = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
        if found.is_ok_and(|found| is_file(found.st_mode)) {
            unlinkat(folder, name, AtFlags::empty()).unwrap_or_default();
        }
    }
}

/// Whether a name is one of those that begin so.
fn is_of(name: &[u8], hidden: &str) -> bool {
    let own = name.strip_prefix(hidden.as_bytes());
    let own = own.and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
    own.is_some_and(|own| own.len() == 16 && own.iter().all(u8::is_ascii_hexdigit))
}

fn check_target(
    folder: &OwnedFd,
    target: &OsStr,
    path: &Path,
    setting: &str,
) -> Result<(), Failure> {
    match statat(folder.as_fd(), target, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(unopened(path, setting, &error.into())),
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => Ok(()),
        Ok(_) => Err(not_a_file(path)),
    }
}

fn not_a_file(path: &Path) -> Failure {
    let message = format!("{path:?} is there and is no regular file");
    Failure::ours(FailureClass::JobLocal, "destination_not_a_file", message)
}

fn unopened(path: &Path, setting: &str, error: &io::Error) -> Failure {
    let ours = |code, message| Failure::ours(FailureClass::JobLocal, code, message);
    if beneath::is_escape(error) {
        return Failure::forbidden(format!(
            "a symbolic link in {path:?} leads out of its folder of {setting}"
        ));
    }
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL) => {
            let message = format!("there is no folder for {path:?}: {error}");
            ours("destination_not_found", message)
        }
        Some(Errno::ISDIR) => not_a_file(path),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            let message = format!("the worker may not write {path:?}: {error}");
            ours("destination_access_denied", message)
        }
        _ => unwritable(path, error),
    }
}

/// A full disk must not empty the queue into the dead letters.
fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let message = format!("{path:?} can't be written: {error}");
    Failure::ours(FailureClass::Unavailable, "destination_unwritable", message)
}
