//! Both ends of a large upload that nobody wants to keep: a source that goes on for as long as it is told to, and does
//! not say for how long; and an S3 that takes parts, counts their bytes and forgets them.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const CHUNK: usize = 256 * 1024;

/// A source without a length.
pub(crate) struct Endless {
    /// `http://host:port`.
    pub(crate) origin: String,
    _serving: JoinSet<()>,
}

impl Endless {
    /// Every path gives `size` bytes.
    pub(crate) async fn start(size: u64) -> Self {
        let (origin, serving) = serve(move |stream| send(stream, size)).await;
        Self {
            origin,
            _serving: serving,
        }
    }
}

/// An S3 for multipart uploads.
pub(crate) struct Sink {
    pub(crate) url: String,
    received: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

impl Sink {
    pub(crate) async fn start() -> Self {
        let received = Arc::<AtomicU64>::default();
        let count = Arc::clone(&received);
        let (url, serving) = serve(move |stream| take(stream, Arc::clone(&count))).await;
        Self {
            url,
            received,
            _serving: serving,
        }
    }

    /// Bytes of parts so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

async fn serve<F>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> (String, JoinSet<()>)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answering = answer(stream);
            // A peer that hangs up is its own business.
            connections.spawn(async move { drop(answering.await) });
        }
    });
    (format!("http://{address}"), serving)
}

/// The request line and the headers, in lower case; none at the end of the connection.
async fn head(
    reader: &mut BufReader<TcpStream>,
) -> io::Result<Option<(String, BTreeMap<String, String>)>> {
    let mut line = String::new();
    if reader.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let request = line.trim().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).await?;
        match line.trim().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_ascii_lowercase());
            }
            None => return Ok(Some((request, headers))),
        }
    }
}

async fn send(stream: TcpStream, size: u64) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    head(&mut reader).await?;
    let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    reader.write_all(start).await?;
    let chunk = vec![b'x'; CHUNK];
    let mut left = size;
    while left > 0 {
        let length = CHUNK.min(usize::try_from(left).unwrap());
        reader
            .write_all(format!("{length:x}\r\n").as_bytes())
            .await?;
        reader.write_all(&chunk[..length]).await?;
        reader.write_all(b"\r\n").await?;
        left -= length as u64;
    }
    reader.write_all(b"0\r\n\r\n").await?;
    reader.shutdown().await
}

async fn take(stream: TcpStream, received: Arc<AtomicU64>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(CHUNK, stream);
    let mut bytes = vec![0; CHUNK];
    while let Some((request, headers)) = head(&mut reader).await? {
        if headers.get("expect").is_some_and(|it| it == "100-continue") {
            reader.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let length = headers.get("content-length").map(|it| it.parse::<u64>());
        let mut left = length.and_then(Result::ok).unwrap_or(0);
        let is_part = request.contains("partNumber=");
        while left > 0 {
            let most = CHUNK.min(usize::try_from(left).unwrap());
            let read = reader.read(&mut bytes[..most]).await?;
            if read == 0 {
                return Ok(());
            }
            left -= read as u64;
            if is_part {
                received.fetch_add(read as u64, Ordering::Relaxed);
            }
        }
        let (status, headers, body) = answer(&request);
        let answer = format!(
            "HTTP/1.1 {status}\r\nx-amz-request-id: r\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        reader.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

fn answer(request: &str) -> (&'static str, &'static str, &'static str) {
    if request.starts_with("HEAD") {
        // The completion was a good answer; who may not look takes nothing back.
        return ("404 Not Found", "", "");
    }
    if request.contains("partNumber=") {
        return ("200 OK", "etag: \"part\"\r\n", "");
    }
    if request.contains("uploads") {
        let begun = "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId></InitiateMultipartUploadResult>";
        return ("200 OK", "content-type: application/xml\r\n", begun);
    }
    let done = "<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>";
    ("200 OK", "content-type: application/xml\r\n", done)
}
