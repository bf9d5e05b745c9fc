//! The real files that the demo uploads: those of a folder, small ones, the same set each time.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::DirEntry,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use bytes::Bytes;

/// Larger files are left out, in bytes; no more than so many are taken.
const LARGEST: u64 = 256 << 10;
const MOST: usize = 400;
/// Folders of machinery, not of work.
const SKIPPED: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// At most [`MOST`] files by their path relative to `folder`, with `/` between parts: the same ones each time, those
/// nearest to the top first. Hidden files and folders are nobody's to show, and may hold secrets.
pub(super) fn read(folder: &Path) -> anyhow::Result<BTreeMap<String, Bytes>> {
    let mut files = BTreeMap::new();
    let mut folders = VecDeque::from([PathBuf::new()]);
    while let Some(relative) = folders.pop_front() {
        for entry in entries(&folder.join(&relative))? {
            if files.len() >= MOST {
                return Ok(files);
            }
            let (kind, path) = (entry.file_type()?, relative.join(entry.file_name()));
            let (Some(name), Some(text)) =
                (entry.file_name().to_str().map(str::to_owned), path.to_str())
            else {
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            if kind.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    folders.push_back(path);
                }
            } else if kind.is_file() && entry.metadata()?.len() <= LARGEST {
                let bytes = std::fs::read(entry.path())?;
                files.insert(text.to_owned(), Bytes::from(bytes));
            }
        }
    }
    if files.is_empty() {
        bail!(
            "{} holds no file of at most {LARGEST} bytes",
            folder.display()
        );
    }
    Ok(files)
}

/// What is in a folder, in the order of names.
fn entries(folder: &Path) -> anyhow::Result<Vec<DirEntry>> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect);
    let mut entries: Vec<DirEntry> = entries.with_context(|| format!("{}", folder.display()))?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

/// The MIME type by the name's ending; plain bytes when in doubt.
pub(super) fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "md" => "text/markdown",
        "rs" | "txt" | "lock" | "toml" | "sql" => "text/plain",
        "json" => "application/json",
        "html" => "text/html",
        "yml" | "yaml" => "application/yaml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &tempfile::TempDir, name: &str, size: usize) {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![b'x'; size]).unwrap();
    }

    #[test]
    fn files_of_a_checkout_are_found_and_machinery_and_hidden_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "a.md", 3);
        write(&folder, "src/b.rs", 0);
        for other in [
            "target/debug/c",
            ".git/config",
            ".env",
            ".ssh/id_ed25519",
            "src/.secret",
        ] {
            write(&folder, other, 3);
        }
        write(&folder, "large", LARGEST as usize + 1);
        let files = read(folder.path()).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a.md", "src/b.rs"]);
        assert_eq!(files["a.md"], "xxx");
    }

    #[test]
    fn the_limit_holds_inside_a_folder_and_the_files_are_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..MOST + 50 {
            write(&folder, &format!("many/{number:04}"), 1);
        }
        write(&folder, "top", 1);
        let files = read(folder.path()).unwrap();
        assert_eq!(files.len(), MOST);
        assert!(files.contains_key("top") && files.contains_key("many/0000"));
        assert!(
            !files.contains_key(&format!("many/{:04}", MOST - 1)),
            "not the first by name"
        );
    }
}
