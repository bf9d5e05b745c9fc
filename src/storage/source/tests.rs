//! What an open source gives: parts, places to go on from, and whether it is still the same.

use std::{fs, io::Write, time::Duration};

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::job::place::Origin;

fn sources(roots: Vec<PathBuf>, hosts: &[&str]) -> Sources {
    let origins = hosts.iter().map(|host| Origin::parse(host).unwrap());
    Sources::new(SourceRules {
        file_roots: Roots::new("sources.file_roots", roots),
        url_hosts: Origins::new(origins.collect()),
        allow_private_addresses: true,
        max_bytes: u64::MAX,
    })
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8).collect()
}

async fn all(source: &mut Source, part: usize) -> Result<Vec<u8>, Failure> {
    let mut got = Vec::new();
    loop {
        let bytes = source.read_part(part).await?;
        if bytes.is_empty() {
            return Ok(got);
        }
        got.extend_from_slice(&bytes);
    }
}

#[tokio::test]
async fn a_file_comes_in_full_parts_from_any_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let content = bytes(1000);
    fs::write(&file, &content).unwrap();
    let sources = sources(vec![folder.path().to_owned()], &[]);
    let mut source = sources.open(&SourceRef::File(file)).await.unwrap();
    assert_eq!(source.size, Some(1000));
    let mut lengths = Vec::new();
    while let part @ 1.. = source.read_part(300).await.unwrap().len() {
        lengths.push(part);
    }
    assert_eq!(lengths, [300, 300, 300, 100]);
    for offset in [0, 1, 999, 1000] {
        source.skip_to(offset).await.unwrap();
        assert_eq!(
            all(&mut source, 64).await.unwrap(),
            content[offset as usize..]
        );
    }
    assert_eq!(
        source.skip_to(1001).await.unwrap_err().code,
        "source_changed"
    );
}

#[tokio::test]
async fn a_file_that_is_touched_replaced_or_longer_is_not_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let sources = sources(vec![folder.path().to_owned()], &[]);
    let place = SourceRef::File(file.clone());
    let open = || sources.open(&place);
    fs::write(&file, "one").unwrap();
    let mut first = open().await.unwrap();
    assert!(first.unchanged().await.unwrap());
    assert!(first.identity.is_same(&open().await.unwrap().identity));

    let mut longer = fs::OpenOptions::new().append(true).open(&file).unwrap();
    longer.write_all(b" and more").unwrap();
    assert!(!first.unchanged().await.unwrap());
    assert_eq!(
        all(&mut first, 100).await.unwrap(),
        b"one",
        "what came later is not its"
    );

    // As long and as old, but another file.
    fs::write(&file, "one").unwrap();
    let before = open().await.unwrap().identity;
    let other = folder.path().join("other");
    fs::write(&other, "two").unwrap();
    let age = fs::metadata(&file).unwrap().modified().unwrap();
    fs::File::options()
        .write(true)
        .open(&other)
        .unwrap()
        .set_modified(age)
        .unwrap();
    fs::rename(&other, &file).unwrap();
    assert!(!before.is_same(&open().await.unwrap().identity));
}

#[test]
fn an_identity_that_is_not_known_is_never_the_same() {
    let unknown = SourceIdentity::from_text(None);
    assert!(!unknown.is_same(&unknown.clone()));
    let known = SourceIdentity::from_text(Some("etag:\"a\"".to_owned()));
    assert!(known.is_same(&SourceIdentity::from_text(
        known.as_text().map(str::to_owned)
    )));
}

/// How an origin behaves.
#[derive(Clone)]
struct Served {
    content: Vec<u8>,
    etag: Option<&'static str>,
    ranges: bool,
    /// Ends the connection after so many bytes of a body, request by request.
    cuts: Vec<usize>,
}

impl Served {
    /// Serves until dropped; requests as they came are in the channel.
    async fn serve(
        self,
    ) -> (
        String,
        tokio::sync::mpsc::UnboundedReceiver<String>,
        JoinSet<()>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut cuts = self.cuts.clone().into_iter();
            while let Ok((stream, _)) = listener.accept().await {
                let cut = cuts.next().unwrap_or(usize::MAX);
                seen.send(self.answer(stream, cut).await).unwrap();
            }
        });
        (url, requests, tasks)
    }

    async fn answer(&self, mut stream: TcpStream, cut: usize) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            request.push(byte[0]);
        }
        let request = String::from_utf8(request).unwrap().to_ascii_lowercase();
        let offset = request
            .split("range: bytes=")
            .nth(1)
            .and_then(|rest| rest.split('-').next()?.parse::<usize>().ok())
            .filter(|_| self.ranges);
        let total = self.content.len();
        let body = &self.content[offset.unwrap_or(0)..];
        let mut head = match offset {
            Some(first) => format!(
                "HTTP/1.1 206 P\r\nContent-Range: bytes {first}-{}/{total}\r\n",
                total - 1
            ),
            None => "HTTP/1.1 200 OK\r\n".to_owned(),
        };
        if let Some(etag) = self.etag {
            head += &format!("ETag: {etag}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        drop(stream.write_all(&body[..cut.min(body.len())]).await);
        drop(stream.shutdown().await);
        request
    }
}

#[tokio::test]
async fn a_url_that_is_cut_goes_on_from_where_it_was() {
    let content = bytes(5 << 20);
    let origin = Served {
        content: content.clone(),
        etag: Some("\"v1\""),
        ranges: true,
        cuts: vec![0, 1, 2 << 20, 1 << 20],
    };
    let (url, mut requests, _tasks) = origin.serve().await;
    let sources = sources(vec![], &[&url]);
    let mut source = sources
        .open(&SourceRef::Url(format!("{url}/a?b=1")))
        .await
        .unwrap();
    assert_eq!(source.identity.as_text(), Some("etag:\"v1\""));
    assert!(
        all(&mut source, 100_000).await.unwrap() == content,
        "not the same bytes"
    );
    assert!(source.unchanged().await.unwrap());
    let first = requests.recv().await.unwrap();
    assert!(first.starts_with("get /a?b=1 http/1.1\r\n"), "{first}");
    let mut places = Vec::new();
    while let Ok(request) = requests.try_recv() {
        let range = request.split("range: bytes=").nth(1);
        places.push(range.map_or(0, |rest| rest.split('-').next().unwrap().parse().unwrap()));
        assert!(
            range.is_none() || request.contains("if-range: \"v1\""),
            "{request}"
        );
    }
    assert_eq!(places, [0, 1, (2 << 20) + 1, (3 << 20) + 1]);
}

#[tokio::test]
async fn a_url_without_ranges_is_read_to_the_place_and_one_that_changed_is_not() {
    let content = bytes(100_000);
    let good = Served {
        content: content.clone(),
        etag: Some("\"v1\""),
        ranges: false,
        cuts: vec![],
    };
    let (url, _requests, _tasks) = good.clone().serve().await;
    let mut source = sources(vec![], &[&url])
        .open(&SourceRef::Url(url))
        .await
        .unwrap();
    source.skip_to(77_777).await.unwrap();
    assert!(all(&mut source, 1000).await.unwrap() == content[77_777..]);
    source.skip_to(10).await.unwrap();
    assert!(all(&mut source, 1000).await.unwrap() == content[10..]);

    // Weak, so that nothing says that two answers are of one thing: never resumed.
    let weak = Served {
        etag: Some("W/\"v1\""),
        cuts: vec![10],
        ..good
    };
    let (url, _requests, _tasks) = weak.serve().await;
    let mut source = sources(vec![], &[&url])
        .open(&SourceRef::Url(url))
        .await
        .unwrap();
    assert_eq!(source.identity.as_text(), None);
    let failure = all(&mut source, 1000).await.unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.class),
        ("source_cut", FailureClass::Unavailable)
    );
}

#[tokio::test]
async fn a_url_that_changes_between_two_requests_fails_plainly() {
    for ranges in [false, true] {
        let first = Served {
            content: bytes(100_000),
            etag: Some("\"v1\""),
            ranges,
            cuts: vec![500],
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            first.answer(stream, 500).await;
            let second = Served {
                etag: Some("\"v2\""),
                ..first
            };
            while let Ok((stream, _)) = listener.accept().await {
                second.answer(stream, usize::MAX).await;
            }
        });
        let mut source = sources(vec![], &[&url])
            .open(&SourceRef::Url(url))
            .await
            .unwrap();
        let failure = all(&mut source, 1000).await.unwrap_err();
        assert_eq!(failure.code, "source_changed", "ranges: {ranges}");
    }
}

#[tokio::test]
async fn an_origin_that_is_down_gives_no_verdict() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let failure = sources(vec![], &[&url])
        .open(&SourceRef::Url(url))
        .await
        .unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.class),
        ("source_unreachable", FailureClass::Unavailable)
    );
    assert_eq!(failure.verdict(), crate::job::failure::Verdict::Neutral);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe";
        stream.write_all(head.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut source = sources(vec![], &[&url])
        .open(&SourceRef::Url(url))
        .await
        .unwrap();
    let began = tokio::time::Instant::now();
    let failure = source.read_part(10).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::TimedOut);
    assert!(began.elapsed() <= Duration::from_secs(31));
}

proptest! {
    #[test]
    fn whatever_the_text_an_origin_off_the_list_is_never_admitted(
        text in prop_oneof![
            "\\PC{0,60}",
            "(?i)(https?|ftp|file):[/\\\\]{0,3}[a-z0-9.@:%#?\\[\\]/\\\\-]{0,40}",
            "https?://([a-z]{1,8}[@:.#?/%\\\\]){0,4}cdn.example.com[@:.#?/%\\\\]?[a-z0-9.]{0,12}",
        ]
    ) {
        let listed = Origins::new(vec![Origin::parse("cdn.example.com").unwrap()]);
        if let Ok(url) = listed.check(&text) {
            prop_assert_eq!(url.origin.to_string(), "https://cdn.example.com");
            // A second reading, by the HTTP library, finds the same host.
            let authority = text.split("//").nth(1).unwrap().split(['/', '?', '#']).next().unwrap();
            prop_assert!(!authority.contains('@'), "{}", text);
            prop_assert!(url.path_and_query().starts_with('/'));
        }
    }
}
