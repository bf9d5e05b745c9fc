//! What `brigade enqueue upload` means by a file, a folder or a URL: one upload by reference a file.
//!
//! The worker reads the bytes, so its settings decide what is allowed, and a path is one that it sees: a file
//! that is not here may be there. A folder is listed here, and is expected to be the same there.

use std::{
    collections::VecDeque,
    fs::FileType,
    os::unix::fs::FileTypeExt,
    path::{Component, Path, PathBuf},
};

use clap::Args;

use super::{CommandError, Exit, enqueue::Location, option_flags::ObjectFlags, output};
use crate::{
    job::{
        Operation,
        operation::{PutOptions, SourceRef, UploadFileobj},
    },
    terminal::escaped,
};

const NO_UTF_8: &str = "its name is no UTF-8, and messages are";

/// Arguments of `brigade enqueue upload`.
#[derive(Debug, Args)]
pub(super) struct UploadArgs {
    /// A file, a folder, or an http or https URL
    #[arg(value_name = "PATH-OR-URL")]
    source: String,
    /// s3://BUCKET/KEY; for a folder, or when it ends in /, the prefix of the keys
    object: Location,
    /// Only where there is no such object
    #[arg(long)]
    if_none_match: bool,
    #[command(flatten)]
    headers: ObjectFlags,
}

/// What is to be uploaded, and what is not.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// At least one; of a folder in the order of their paths.
    pub(super) operations: Vec<Operation>,
    /// In the order of their paths.
    pub(super) left_out: Vec<LeftOut>,
}

/// Something in a folder that is not uploaded.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LeftOut {
    path: PathBuf,
    why: String,
    /// It is, or may hold, a file that was to be uploaded.
    is_missing: bool,
}

impl LeftOut {
    /// A file that no worker would take.
    pub(super) fn refused(upload: &Operation, why: String) -> Self {
        let path = match upload {
            Operation::UploadFileobj(UploadFileobj {
                source: SourceRef::File(path),
                ..
            }) => path.clone(),
            other => PathBuf::from(other.key().unwrap_or_default()),
        };
        Self::missing(path, why)
    }

    /// A file, or a folder that may hold some.
    fn missing(path: PathBuf, why: impl Into<String>) -> Self {
        Self {
            path,
            why: why.into(),
            is_missing: true,
        }
    }

    /// Names each on standard error; whether a file is missing.
    pub(super) fn say(all: &[Self]) -> Exit {
        for LeftOut { path, why, .. } in all {
            let path = path.to_string_lossy();
            output::say(format_args!("left out: {}: {why}", escaped(&path)));
        }
        match all.iter().any(|it| it.is_missing) {
            true => Exit::Failed,
            false => Exit::Done,
        }
    }
}

/// One upload a file. Links are not followed, and nothing but files is uploaded.
pub(super) fn uploads(args: UploadArgs) -> Result<Uploads, CommandError> {
    let options = PutOptions {
        headers: args.headers.0,
        if_none_match: args.if_none_match,
        ..PutOptions::default()
    };
    let Location { bucket, key } = args.object;
    let upload = |key: String, source: SourceRef| {
        Operation::UploadFileobj(UploadFileobj {
            bucket: bucket.clone(),
            key,
            source,
            options: options.clone(),
        })
    };
    if args.source.contains("://") {
        let path = args.source.split(['?', '#']).next().unwrap_or_default();
        let key = completed(key, path.rsplit('/').next().unwrap_or_default());
        return Ok(Uploads::one(upload(key, SourceRef::Url(args.source))));
    }
    let path = absolute(Path::new(&args.source))?;
    if !path.is_dir() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let key = completed(key, &name);
        return Ok(Uploads::one(upload(key, SourceRef::File(path))));
    }
    let prefix = if key.is_empty() || key.ends_with('/') {
        key
    } else {
        format!("{key}/")
    };
    let (files, left_out) = files_of(&path)?;
    if files.is_empty() {
        LeftOut::say(&left_out);
        return Err(CommandError::new(
            Exit::Failed,
            format!("{} holds no files", path.display()),
        ));
    }
    let job = |file: PathBuf| {
        let name = file.strip_prefix(&path).unwrap_or(&file).to_string_lossy();
        upload(format!("{prefix}{name}"), SourceRef::File(file.clone()))
    };
    Ok(Uploads {
        operations: files.into_iter().map(job).collect(),
        left_out,
    })
}

impl Uploads {
    fn one(operation: Operation) -> Self {
        Self {
            operations: vec![operation],
            left_out: Vec::new(),
        }
    }
}

/// The path as a message carries it: absolute, without `..`, and text.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    let failed = |error: std::io::Error| {
        CommandError::new(Exit::Failed, format!("{}: {error}", path.display()))
    };
    let mut whole = std::path::absolute(path).map_err(failed)?;
    // Dropping `a/..` from the text would be wrong where `a` is a link.
    if whole.components().any(|part| part == Component::ParentDir) {
        whole = whole.canonicalize().map_err(failed)?;
    }
    if whole.to_str().is_none() {
        let why = format!("{}: {NO_UTF_8}", whole.display());
        return Err(CommandError::usage(why));
    }
    Ok(whole)
}

/// `key`, or that prefix and the source's own name.
fn completed(key: String, name: &str) -> String {
    if key.is_empty() || key.ends_with('/') {
        format!("{key}{name}")
    } else {
        key
    }
}

/// The files beneath a folder, and what else is there. Fails when the folder itself can't be read.
fn files_of(root: &Path) -> Result<(Vec<PathBuf>, Vec<LeftOut>), CommandError> {
    let mut folders = VecDeque::from([root.to_owned()]);
    let (mut files, mut left_out) = (Vec::new(), Vec::new());
    while let Some(folder) = folders.pop_front() {
        let unread = |error: std::io::Error| format!("the folder can't be read: {error}");
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if folder == root => {
                let why = format!("{}: {error}", folder.display());
                return Err(CommandError::new(Exit::Failed, why));
            }
            Err(error) => {
                left_out.push(LeftOut::missing(folder, unread(error)));
                continue;
            }
        };
        for entry in entries {
            let (path, kind) = match entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))
            {
                Ok(entry) => entry,
                Err(error) => {
                    left_out.push(LeftOut::missing(folder.clone(), unread(error)));
                    continue;
                }
            };
            if let Some(why) = no_file(kind) {
                left_out.push(LeftOut {
                    path,
                    why: why.to_owned(),
                    is_missing: false,
                });
            } else if path.to_str().is_none() {
                left_out.push(LeftOut::missing(path, NO_UTF_8));
            } else if kind.is_dir() {
                folders.push_back(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    left_out.sort();
    Ok((files, left_out))
}

/// What it is, if it is neither a file nor a folder.
fn no_file(kind: FileType) -> Option<&'static str> {
    if kind.is_dir() || kind.is_file() {
        None
    } else if kind.is_symlink() {
        Some("a symbolic link")
    } else if kind.is_fifo() {
        Some("a named pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn keys(source: &str, object: &str) -> Vec<(String, SourceRef)> {
        let args = UploadArgs {
            source: source.to_owned(),
            object: object.parse().unwrap(),
            headers: ObjectFlags::default(),
            if_none_match: false,
        };
        let uploads = uploads(args).map_err(|error| format!("{error:?}")).unwrap();
        let pairs = uploads
            .operations
            .into_iter()
            .map(|operation| match operation {
                Operation::UploadFileobj(upload) => (upload.key, upload.source),
                other => panic!("{other:?}"),
            });
        pairs.collect()
    }

    #[test]
    fn a_folder_is_one_job_a_file_beneath_the_prefix() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        for name in ["b", "a", "sub/c"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc", folder.path().join("link")).unwrap();
        let source = |name: &str| SourceRef::File(folder.path().join(name));
        let expected = ["a", "b", "sub/c"].map(|name| (format!("p/{name}"), source(name)));
        let path = folder.path().to_str().unwrap();
        assert_eq!(keys(path, "s3://b/p"), expected);
        assert_eq!(keys(path, "s3://b/p/"), expected);
    }

    #[test]
    fn what_is_no_file_or_has_no_name_in_utf_8_is_left_out_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let here = |name: &str| folder.path().join(name);
        let odd = std::ffi::OsStr::from_bytes(b"caf\xe9");
        std::fs::write(here("a"), "a").unwrap();
        std::fs::write(folder.path().join(odd), "x").unwrap();
        std::fs::create_dir(here("sub")).unwrap();
        std::fs::create_dir(here("sub").join(odd)).unwrap();
        std::fs::write(here("sub").join(odd).join("b"), "b").unwrap();
        std::os::unix::fs::symlink(here("a"), here("link")).unwrap();
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, here("pipe"), mode).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(here("socket")).unwrap();

        let (files, left_out) = files_of(folder.path()).unwrap_or_default();
        assert_eq!(files, [here("a")]);
        let mut expected = [
            (folder.path().join(odd), NO_UTF_8, true),
            (here("link"), "a symbolic link", false),
            (here("pipe"), "a named pipe", false),
            (here("socket"), "a socket", false),
            (here("sub").join(odd), NO_UTF_8, true),
        ]
        .map(|(path, why, is_missing)| LeftOut {
            path,
            why: why.to_owned(),
            is_missing,
        });
        expected.sort();
        assert_eq!(left_out, expected);
        assert_eq!(LeftOut::say(&left_out), Exit::Failed);
        assert_eq!(LeftOut::say(&left_out[1..4]), Exit::Done);
    }

    #[test]
    fn one_source_has_the_key_or_its_own_name_beneath_a_prefix() {
        let url = "https://cdn.example.com/x/a.bin?sig=1/2";
        let source = SourceRef::Url(url.to_owned());
        assert_eq!(keys(url, "s3://b/k"), [("k".to_owned(), source.clone())]);
        assert_eq!(keys(url, "s3://b/p/"), [("p/a.bin".to_owned(), source)]);
        let file = SourceRef::File("/only/there".into());
        assert_eq!(keys("/only/there", "s3://b"), [("there".to_owned(), file)]);
    }
}
