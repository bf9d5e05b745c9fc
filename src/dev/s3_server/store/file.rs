//! One file on disk: the bytes of an object or part, then a record that says what it is.
//!
//! Owns the format and the life of a file. The record stands behind the bytes because size and MD5 are
//! known only then; a file that was not finished has no valid record and is removed at the next start.
//! A file under a name of its own is never written twice, so that a read which has begun keeps its bytes
//! while the object is replaced.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use s3s::crypto::{Checksum, Md5};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::AsyncWriteExt, task::spawn_blocking};
use uuid::Uuid;

/// Bodies up to this size are gathered in memory and written at once.
const IN_MEMORY: usize = 256 * 1024;
const MAGIC: [u8; 4] = *b"BBS3";
/// The record's length as `u32`, then the magic number.
const FOOTER: u64 = 8;

/// A file that lives as long as something refers to it, and longer if it is kept.
#[derive(Debug)]
pub(in crate::dev::s3_server) struct DataFile {
    path: PathBuf,
    kept: AtomicBool,
}

impl DataFile {
    fn new(directory: &Path) -> Self {
        Self {
            // Version 7 sorts by time: of two files for one key, the later name is the newer object.
            path: directory.join(Uuid::now_v7().simple().to_string()),
            kept: AtomicBool::new(false),
        }
    }

    /// A file from an earlier run.
    pub(super) fn existing(path: PathBuf) -> Self {
        Self {
            path,
            kept: AtomicBool::new(true),
        }
    }

    /// The index refers to it: it outlives this process.
    pub(super) fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// The index refers to it no longer: it goes with its last reader.
    pub(super) fn doom(&self) {
        self.kept.store(false, Ordering::Relaxed);
    }

    /// Opens it at an offset into the bytes.
    pub(in crate::dev::s3_server) fn open_at(&self, offset: u64) -> io::Result<fs::File> {
        let mut file = fs::File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    }

    /// Reads a range of the bytes.
    pub(in crate::dev::s3_server) fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let length = range.end - range.start;
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        self.open_at(range.start)?
            .take(length)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed)
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a stored file could not be removed");
        }
    }
}

/// What was written.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) file: Arc<DataFile>,
    pub(super) size: u64,
    pub(super) md5: [u8; 16],
}

/// A file that is being received. Dropped before it is sealed, it leaves nothing behind.
pub(in crate::dev::s3_server) struct Draft {
    data: DataFile,
    memory: Vec<u8>,
    spilled: Option<tokio::fs::File>,
    size: u64,
    md5: Md5,
}

impl Draft {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            data: DataFile::new(directory),
            memory: Vec::new(),
            spilled: None,
            size: 0,
            md5: Md5::new(),
        }
    }

    /// Appends bytes.
    pub(in crate::dev::s3_server) async fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.md5.update(bytes);
        self.size += bytes.len() as u64;
        self.memory.extend_from_slice(bytes);
        if self.memory.len() >= IN_MEMORY {
            self.spill().await?;
        }
        Ok(())
    }

    async fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.spilled {
            Some(file) => file,
            none => none.insert(tokio::fs::File::create_new(&self.data.path).await?),
        };
        file.write_all(&self.memory).await?;
        self.memory.clear();
        Ok(())
    }

    /// Ends the file with the record that `record` makes of size and MD5.
    pub(super) async fn seal<R: Serialize>(
        mut self,
        record: impl FnOnce(u64, [u8; 16]) -> R,
    ) -> io::Result<Sealed> {
        let md5 = self.md5.finalize();
        let end = encode(&record(self.size, md5))?;
        self.memory.extend_from_slice(&end);
        match self.spilled {
            None => tokio::fs::write(&self.data.path, self.memory).await?,
            Some(mut file) => {
                file.write_all(&self.memory).await?;
                file.flush().await?;
            }
        }
        Ok(Sealed {
            file: Arc::new(self.data),
            size: self.size,
            md5,
        })
    }
}

/// Copies ranges of files into a new one, one behind the other, without taking them into memory.
pub(super) async fn concatenate<R: Serialize>(
    directory: &Path,
    sources: Vec<(Arc<DataFile>, Range<u64>)>,
    record: R,
) -> io::Result<Arc<DataFile>> {
    let data = Arc::new(DataFile::new(directory));
    let written = Arc::clone(&data);
    let end = encode(&record)?;
    let copy = move || {
        let mut target = fs::File::create_new(&written.path)?;
        for (source, range) in sources {
            let length = range.end - range.start;
            let mut part = source.open_at(range.start)?.take(length);
            if io::copy(&mut part, &mut target)? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        target.write_all(&end)
    };
    spawn_blocking(copy).await.map_err(io::Error::other)??;
    Ok(data)
}

/// The MD5 of a range of a file.
pub(super) async fn md5_of(file: Arc<DataFile>, range: Range<u64>) -> io::Result<[u8; 16]> {
    let hash = move || {
        let mut left = file.open_at(range.start)?.take(range.end - range.start);
        let mut md5 = Md5::new();
        let mut buffer = vec![0; IN_MEMORY];
        loop {
            match left.read(&mut buffer)? {
                0 => return Ok(md5.finalize()),
                read => md5.update(&buffer[..read]),
            }
        }
    };
    spawn_blocking(hash).await.map_err(io::Error::other)?
}

fn encode(record: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut end = serde_json::to_vec(record)?;
    let length = u32::try_from(end.len()).map_err(io::Error::other)?;
    end.extend_from_slice(&length.to_be_bytes());
    end.extend_from_slice(&MAGIC);
    Ok(end)
}

/// The record of a file, or `None` if the file was not finished.
pub(super) fn read_record<R: DeserializeOwned>(path: &Path) -> io::Result<Option<R>> {
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    let Some(footer_at) = size.checked_sub(FOOTER) else {
        return Ok(None);
    };
    let mut length = [0; 4];
    let mut magic = [0; 4];
    file.seek(SeekFrom::Start(footer_at))?;
    file.read_exact(&mut length)?;
    file.read_exact(&mut magic)?;
    let length = u64::from(u32::from_be_bytes(length));
    let Some(record_at) = footer_at.checked_sub(length).filter(|_| magic == MAGIC) else {
        return Ok(None);
    };
    file.seek(SeekFrom::Start(record_at))?;
    Ok(serde_json::from_reader(file.take(length)).ok())
}
