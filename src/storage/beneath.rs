//! Opens paths beneath a folder so that nothing leads out of it: no `..`, no link, no race.
//!
//! Where the kernel has `openat2` (Linux 5.6), it resolves the whole path in one step beneath the folder:
//! symbolic links are followed while they stay there, absolute ones never do. Elsewhere, and where a sandbox
//! forbids that call, the path is walked name by name and no link is followed at all. Both are safe against
//! somebody who swaps folders for links meanwhile. Knows nothing of operations and settings.

use std::{
    io,
    path::{Component, Path},
};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};

/// How often a path that is renamed while it is resolved is tried again; the kernel says so by `EAGAIN`.
#[cfg(target_os = "linux")]
const RACES: u32 = 64;

/// Opens the folder itself. It is the operator's word, so links in its own path are followed.
pub(super) fn open_root(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, root, flags, Mode::empty())?)
}

/// Opens `relative`, one name or more without `..`, beneath `root`. Fails with `EXDEV` or `ELOOP` when a link
/// leads out, or is not followed.
pub(super) fn open(root: BorrowedFd<'_>, relative: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{ResolveFlags, openat2};
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RACES {
            match openat2(root, relative, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Too old, or a sandbox that does not know the call and says that it is forbidden.
                Err(Errno::NOSYS | Errno::PERM) => return walk(root, relative, flags),
                done => return Ok(done?),
            }
        }
        Err(Errno::AGAIN.into())
    }
    #[cfg(not(target_os = "linux"))]
    walk(root, relative, flags)
}

/// Name by name, without links.
fn walk(root: BorrowedFd<'_>, relative: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut folder: Option<OwnedFd> = None;
    let mut parts = relative.components().peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else {
            return Err(Errno::XDEV.into());
        };
        let here = folder.as_ref().map_or(root, AsFd::as_fd);
        if parts.peek().is_none() {
            return Ok(openat(here, name, flags | OFlags::NOFOLLOW, Mode::empty())?);
        }
        let next = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder = Some(match openat(here, name, next, Mode::empty()) {
            // Some systems answer so to a link where a folder is wanted.
            Err(Errno::NOTDIR) if is_link(here, name) => return Err(Errno::LOOP.into()),
            opened => opened?,
        });
    }
    Err(Errno::INVAL.into())
}

fn is_link(folder: BorrowedFd<'_>, name: &std::ffi::OsStr) -> bool {
    rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| {
        rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Symlink
    })
}

/// Whether an error says that a link leads out of the root, or was not followed.
pub(super) fn is_escape(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::XDEV | Errno::LOOP))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn without_openat2_a_path_is_walked_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/c"), "here").unwrap();
        symlink("a", folder.path().join("inside")).unwrap();
        symlink("/etc/passwd", folder.path().join("outside")).unwrap();
        let root = open_root(folder.path()).unwrap();
        let walk = |path: &str| walk(root.as_fd(), Path::new(path), OFlags::RDONLY);
        let mut text = String::new();
        fs::File::from(walk("a/b/c").unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "here");
        for bad in ["inside/b/c", "outside", "../x", "/etc/passwd"] {
            let error = walk(bad).unwrap_err();
            assert!(is_escape(&error), "{bad}: {error}");
        }
        assert_eq!(walk("a/none").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
