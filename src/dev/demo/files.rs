//! The real files that the demo uploads: those of a folder, small ones, the same set each time.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use bytes::Bytes;

/// Larger files are left out, in bytes; no more than so many are taken.
const LARGEST: u64 = 256 << 10;
const MOST: usize = 400;
/// Folders of machinery, not of work.
const SKIPPED: [&str; 4] = [".git", "target", "node_modules", "__pycache__"];

/// The files by their path relative to `folder`, with `/` between parts.
pub(super) fn read(folder: &Path) -> anyhow::Result<BTreeMap<String, Bytes>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        let entries = std::fs::read_dir(folder.join(&relative));
        let entries = entries.with_context(|| format!("{}", folder.join(&relative).display()))?;
        for entry in entries {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, relative.join(entry.file_name()));
            let Some(name) = path.to_str() else { continue };
            if kind.is_dir() {
                if !SKIPPED.contains(&entry.file_name().to_string_lossy().as_ref()) {
                    folders.push(path);
                }
            } else if kind.is_file() && entry.metadata()?.len() <= LARGEST {
                let bytes = std::fs::read(entry.path())?;
                files.insert(name.to_owned(), Bytes::from(bytes));
            }
        }
        if files.len() >= MOST {
            break;
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

    #[test]
    fn files_of_a_checkout_are_found_and_machinery_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, size: usize| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![b'x'; size]).unwrap();
        };
        write("a.md", 3);
        write("src/b.rs", 0);
        write("target/debug/c", 3);
        write(".git/config", 3);
        write("large", LARGEST as usize + 1);
        let files = read(folder.path()).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a.md", "src/b.rs"]);
        assert_eq!(files["a.md"], "xxx");
    }
}
