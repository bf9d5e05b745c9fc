//! Files as sources: opened beneath a root, regular ones only, read in parts off the async threads.
//!
//! Opening is `../beneath.rs`. A named pipe can't hang it (`O_NONBLOCK`), and what the kernel makes up on
//! reading (`/proc`, `/sys`) is refused even where a root covers it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rustix::{
    buffer::spare_capacity,
    fd::AsFd,
    fs::{FileType, OFlags, Stat, fstat},
    io::Errno,
};

use super::{Reader, Source, SourceIdentity, job_local, shown, too_large};
use crate::{
    job::{Failure, FailureClass, Headers},
    resilience::Buffer,
    storage::{
        beneath,
        file_threads::{FileThreads, Kept},
    },
};

/// A file that is being read.
#[derive(Debug)]
pub(super) struct FileReader {
    threads: FileThreads,
    file: Arc<Kept<File>>,
    path: PathBuf,
    /// As it was when opened: what is appended later does not belong to it.
    size: u64,
    offset: u64,
}

impl FileReader {
    pub(super) async fn open(
        threads: FileThreads,
        root: PathBuf,
        relative: PathBuf,
        max_bytes: u64,
    ) -> Result<Source, Failure> {
        let path = shown(&root, &relative);
        let opening = {
            let (path, threads) = (path.clone(), threads.clone());
            move || open(&root, &relative, &path, &threads)
        };
        let (file, found) = threads.run(&path, 0, opening).await?;
        let size = size_of(&found);
        if size > max_bytes {
            return Err(too_large(&format!("{path:?} has {size} bytes"), max_bytes));
        }
        let reader = Self {
            threads,
            file: Arc::new(file),
            path,
            size,
            offset: 0,
        };
        Ok(Source {
            content: Headers::default(),
            size: Some(size),
            identity: identity_of(&found),
            reader: Reader::File(reader),
        })
    }

    /// The buffer is held until the file has been read, whoever waits for that.
    pub(super) async fn read_part_into(
        &mut self,
        mut buffer: Buffer,
        max: usize,
    ) -> Result<Bytes, Failure> {
        let left = usize::try_from(self.size - self.offset).unwrap_or(usize::MAX);
        let want = max.min(left);
        if want == 0 {
            return Ok(Bytes::new());
        }
        let (file, path, offset) = (Arc::clone(&self.file), self.path.clone(), self.offset);
        let reading = move || {
            let memory = buffer.take_memory();
            let filled = read(&file, offset, want, memory);
            let filled = filled.map_err(|error| unreadable(&path, &error))?;
            Ok(buffer.hold(filled))
        };
        let bytes = self.threads.run(&self.path, want, reading).await?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    pub(super) const fn skip_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    pub(super) async fn identity(&self) -> Result<SourceIdentity, Failure> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let look = move || match fstat(&**file) {
            Ok(found) => Ok(identity_of(&found)),
            Err(error) => Err(unreadable(&path, &error.into())),
        };
        self.threads.run(&self.path, 0, look).await
    }
}

fn open(
    root: &Path,
    relative: &Path,
    path: &Path,
    threads: &FileThreads,
) -> Result<(Kept<File>, Stat), Failure> {
    let folder = beneath::open_root(root).map_err(|error| root_missing(root, &error))?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = beneath::open(folder.as_fd(), relative, flags);
    // Nobody may be left to take it.
    let file = threads.keep(File::from(opened.map_err(|error| unopened(path, &error))?));
    let found = fstat(&*file).map_err(|error| unreadable(path, &error.into()))?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(not_a_file(path));
    }
    if is_made_up(&file) {
        return Err(Failure::forbidden(format!(
            "{path:?} is the kernel's own and no file, though sources.file_roots covers it"
        )));
    }
    Ok((file, found))
}

fn read(file: &File, offset: u64, want: usize, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    bytes.reserve_exact(want);
    while bytes.len() < want {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may give more than was asked for.
    bytes.truncate(want);
    Ok(bytes)
}

/// Whether it lies in a file system that is no store of files.
#[cfg(target_os = "linux")]
fn is_made_up(file: &File) -> bool {
    // PROC_SUPER_MAGIC, SYSFS_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC, CGROUP2_SUPER_MAGIC.
    const KERNELS: [i64; 6] = [
        0x9fa0,
        0x6265_6572,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0x6367_7270,
    ];
    rustix::fs::fstatfs(file).is_ok_and(|found| {
        #[expect(
            clippy::allow_attributes,
            reason = "the type differs between architectures"
        )]
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        let kind = found.f_type as i64;
        KERNELS.contains(&kind)
    })
}

#[cfg(not(target_os = "linux"))]
const fn is_made_up(_file: &File) -> bool {
    false
}

fn size_of(found: &Stat) -> u64 {
    u64::try_from(found.st_size).unwrap_or(0)
}

fn identity_of(found: &Stat) -> SourceIdentity {
    let (size, inode) = (size_of(found), found.st_ino);
    let (seconds, nanos) = (found.st_mtime, found.st_mtime_nsec);
    SourceIdentity(Some(format!("file:{size}:{seconds}.{nanos:09}:{inode}")))
}

fn not_a_file(path: &Path) -> Failure {
    job_local("source_not_a_file", format!("{path:?} is no regular file"))
}

fn unopened(path: &Path, error: &io::Error) -> Failure {
    if beneath::is_escape(error) {
        return Failure::forbidden(format!(
            "a symbolic link in {path:?} leads out of its folder of sources.file_roots"
        ));
    }
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => {
            job_local("source_not_found", format!("there is no file {path:?}"))
        }
        // A socket, or a device without a driver.
        Some(Errno::NXIO | Errno::NODEV | Errno::ISDIR) => not_a_file(path),
        Some(Errno::ACCESS | Errno::PERM) => {
            let message = format!("the worker may not read {path:?}: {error}");
            job_local("source_access_denied", message)
        }
        Some(Errno::NAMETOOLONG | Errno::INVAL) => job_local(
            "source_not_found",
            format!("there can be no file {path:?}: {error}"),
        ),
        _ => unreadable(path, error),
    }
}

/// The worker's trouble, or the disk's: worth another try.
fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let message = format!("{path:?} can't be read: {error}");
    Failure::ours(FailureClass::Unavailable, "source_unreadable", message)
}

/// A volume that is not mounted must not empty the queue into the dead letters.
fn root_missing(root: &Path, error: &io::Error) -> Failure {
    let message = format!("folder {root:?} of sources.file_roots can't be opened: {error}");
    Failure::ours(
        FailureClass::Unavailable,
        "source_root_unavailable",
        message,
    )
}
