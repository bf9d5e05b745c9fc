//! What `brigade enqueue upload` means by a file, a folder or a URL: one upload by reference a file.
//!
//! The worker reads the bytes, so its settings decide what is allowed, and a path is one that it sees: a file
//! that is not here may be there. A folder is listed here, and is expected to be the same there.

use std::{
    collections::VecDeque,
    path::{Component, Path, PathBuf},
};

use clap::Args;

use super::{CommandError, Exit, enqueue::Location};
use crate::job::{
    Operation,
    operation::{PutOptions, SourceRef, UploadFileobj},
};

/// Arguments of `brigade enqueue upload`.
#[derive(Debug, Args)]
pub(super) struct UploadArgs {
    /// A file, a folder, or an http or https URL
    #[arg(value_name = "PATH-OR-URL")]
    source: String,
    /// s3://BUCKET/KEY; for a folder, or when it ends in /, the prefix of the keys
    object: Location,
    /// MIME type of the objects
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Only where there is no such object
    #[arg(long)]
    if_none_match: bool,
}

/// The uploads, at least one; of a folder in the order of their paths. Links are not followed.
pub(super) fn operations(args: UploadArgs) -> Result<Vec<Operation>, CommandError> {
    let options = PutOptions {
        content_type: args.content_type,
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
        return Ok(vec![upload(key, SourceRef::Url(args.source))]);
    }
    let path = absolute(Path::new(&args.source))?;
    if !path.is_dir() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let key = completed(key, &name);
        return Ok(vec![upload(key, SourceRef::File(path))]);
    }
    let prefix = if key.is_empty() || key.ends_with('/') {
        key
    } else {
        format!("{key}/")
    };
    let files = files_of(&path)?;
    if files.is_empty() {
        return Err(CommandError::new(
            Exit::Failed,
            format!("{} holds no files", path.display()),
        ));
    }
    let job = |file: PathBuf| {
        let name = file.strip_prefix(&path).unwrap_or(&file).to_string_lossy();
        upload(format!("{prefix}{name}"), SourceRef::File(file.clone()))
    };
    Ok(files.into_iter().map(job).collect())
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
        let why = format!("{} is no UTF-8, and messages are", whole.display());
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

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let mut folders = VecDeque::from([folder.to_owned()]);
    let mut files = Vec::new();
    while let Some(folder) = folders.pop_front() {
        let failed = |error: std::io::Error| {
            CommandError::new(Exit::Failed, format!("{}: {error}", folder.display()))
        };
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                folders.push_back(entry.path());
            } else if kind.is_file() {
                files.push(absolute(&entry.path())?);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(source: &str, object: &str) -> Vec<(String, SourceRef)> {
        let args = UploadArgs {
            source: source.to_owned(),
            object: object.parse().unwrap(),
            content_type: None,
            if_none_match: false,
        };
        let operations = operations(args)
            .map_err(|error| format!("{error:?}"))
            .unwrap();
        let pairs = operations.into_iter().map(|operation| match operation {
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
    fn one_source_has_the_key_or_its_own_name_beneath_a_prefix() {
        let url = "https://cdn.example.com/x/a.bin?sig=1/2";
        let source = SourceRef::Url(url.to_owned());
        assert_eq!(keys(url, "s3://b/k"), [("k".to_owned(), source.clone())]);
        assert_eq!(keys(url, "s3://b/p/"), [("p/a.bin".to_owned(), source)]);
        let file = SourceRef::File("/only/there".into());
        assert_eq!(keys("/only/there", "s3://b"), [("there".to_owned(), file)]);
    }
}
