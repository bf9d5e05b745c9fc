//! Ways to other origins and addresses than the operator allows: none gets through, and each has its code.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    escape_tests::{FORBIDDEN, code, rules},
    *,
};

fn fixed(address: &str) -> Resolver {
    let address: IpAddr = address.parse().unwrap();
    Resolver::new(move |_| Box::pin(async move { Ok(vec![address]) }))
}

#[tokio::test]
async fn no_url_leads_anywhere_but_to_a_listed_origin() {
    let listed = ["cdn.example.com", "http://files.example:8080"];
    // Whatever gets as far as a connection is refused there with another code.
    let sources = Sources::with_resolver(
        rules(vec![], &listed, true),
        Resolver::new(|_| Box::pin(async { Err(std::io::Error::other("no look-ups here")) })),
    );
    let rows = [
        ("https://evil.example/", FORBIDDEN),
        ("https://cdn.example.com.evil.example/", FORBIDDEN),
        ("https://evilcdn.example.com/", FORBIDDEN),
        ("https://sub.cdn.example.com/", FORBIDDEN),
        ("https://cdn.example.com@evil.example/", FORBIDDEN),
        ("https://evil.example@cdn.example.com/", FORBIDDEN),
        ("https://@cdn.example.com/", FORBIDDEN),
        ("https://user:pass@cdn.example.com/", FORBIDDEN),
        ("https://cdn.example.com:pw@evil.example/", FORBIDDEN),
        ("https://cdn.example.com%40evil.example/", "source_refused"),
        ("https://evil.example#@cdn.example.com/", FORBIDDEN),
        ("https://evil.example?@cdn.example.com/", FORBIDDEN),
        ("https://evil.example\\@cdn.example.com/", "source_refused"),
        ("https:\\\\cdn.example.com/", "source_refused"),
        ("https:/cdn.example.com/", "source_refused"),
        ("https:cdn.example.com/", "source_refused"),
        ("https:///cdn.example.com/", "source_unreachable"),
        ("//cdn.example.com/", "source_refused"),
        ("cdn.example.com/", "source_refused"),
        ("http://cdn.example.com/", FORBIDDEN),
        ("https://cdn.example.com:8443/", FORBIDDEN),
        ("https://cdn.example.com:80/", FORBIDDEN),
        ("https://cdn.example.com:0443/", "source_unreachable"),
        ("https://cdn.example.com:65536/", "source_refused"),
        ("https://cdn.example.com:0/", "source_refused"),
        ("https://cdn.example.com:+443/", "source_refused"),
        ("http://files.example/", FORBIDDEN),
        ("https://files.example:8080/", FORBIDDEN),
        ("https://cdn.example.com../", "source_refused"),
        ("https://.cdn.example.com/", FORBIDDEN),
        ("https://*/", "source_refused"),
        ("https://./", "source_refused"),
        ("file:///etc/passwd", FORBIDDEN),
        ("FILE:///etc/passwd", FORBIDDEN),
        ("ftp://cdn.example.com/", FORBIDDEN),
        ("gopher://cdn.example.com/", FORBIDDEN),
        ("data:text/plain,hi", FORBIDDEN),
        ("javascript:alert(1)", FORBIDDEN),
        ("unix:/run/docker.sock", FORBIDDEN),
        ("ws://cdn.example.com/", FORBIDDEN),
        ("blob:https://cdn.example.com/x", FORBIDDEN),
        ("view-source:https://cdn.example.com/", FORBIDDEN),
        (
            "https://cdn.example.com/\r\nHost: evil.example",
            "source_refused",
        ),
        ("https://cdn.exa\nmple.com/", "source_refused"),
        ("https://cdn.exa\tmple.com/", "source_refused"),
        ("https://cdn.example.com/\0", "source_refused"),
        (" https://cdn.example.com/", "source_refused"),
        ("https://cdn.example.com /", "source_refused"),
        ("https://cdn%2eexample.com%2eevil.example/", FORBIDDEN),
        ("https://cdn.example.com%2fevil.example/", "source_refused"),
        ("https://cdn.example.com%00.evil.example/", "source_refused"),
        ("https://%65vil.example/", FORBIDDEN),
        ("https://сdn.example.com/", FORBIDDEN), // a Cyrillic first letter
        ("https://cdn\u{3002}example.com.evil.example/", FORBIDDEN),
        ("https://127.0.0.1/", FORBIDDEN),
        ("https://2130706433/", FORBIDDEN),
        ("https://0x7f000001/", FORBIDDEN),
        ("https://0177.0.0.1/", FORBIDDEN),
        ("https://127.1/", FORBIDDEN),
        ("https://0/", FORBIDDEN),
        ("https://[::1]/", FORBIDDEN),
        ("https://[::ffff:127.0.0.1]/", FORBIDDEN),
        ("https://[::ffff:7f00:1]/", FORBIDDEN),
        ("https://[fe80::1%25eth0]/", "source_refused"),
        ("https://[fe80::1%eth0]/", "source_refused"),
        ("https://[::1/", "source_refused"),
        ("https://169.254.169.254/latest/meta-data/", FORBIDDEN),
        ("https://[fd00:ec2::254]/", FORBIDDEN),
        ("https://metadata.google.internal/", FORBIDDEN),
        ("https://localhost/", FORBIDDEN),
        ("", "source_refused"),
        ("https://", "source_refused"),
        ("::", FORBIDDEN),
    ];
    assert!(rows.len() >= 40);
    for (url, expected) in rows {
        assert_eq!(
            code(&sources, SourceRef::Url(url.to_owned())).await,
            expected,
            "{url:?}"
        );
    }
    for good in [
        "https://CDN.example.com./a",
        "https://cdn.example.com:443/a?b#c",
    ] {
        let end = code(&sources, SourceRef::Url(good.to_owned())).await;
        assert_eq!(end, "source_unreachable", "{good}");
    }
}

#[tokio::test]
async fn a_listed_name_that_leads_to_an_address_which_is_not_public_is_refused() {
    let url = || SourceRef::Url("http://cdn.example.com/a".to_owned());
    for address in [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "2001::1",
    ] {
        let rules = rules(vec![], &["http://cdn.example.com"], false);
        let sources = Sources::with_resolver(rules, fixed(address));
        let Err(failure) = sources.open(&url()).await else {
            panic!("{address} got through")
        };
        assert_eq!(failure.code, FORBIDDEN, "{address}");
        assert!(
            failure.message.contains("sources.allow_private_addresses"),
            "{failure}"
        );
    }
    // One address of several is enough.
    let both = Resolver::new(|_| {
        Box::pin(async {
            Ok(vec![
                "1.1.1.1".parse().unwrap(),
                "10.0.0.1".parse().unwrap(),
            ])
        })
    });
    let rules = rules(vec![], &["http://cdn.example.com"], false);
    let sources = Sources::with_resolver(rules, both);
    assert_eq!(code(&sources, url()).await, FORBIDDEN);
    // So is a literal that the operator listed, without the other setting.
    let literal = self::rules(vec![], &["http://127.0.0.1:9"], false);
    let literal = Sources::new(literal);
    let end = code(&literal, SourceRef::Url("http://127.0.0.1:9/".to_owned())).await;
    assert_eq!(end, FORBIDDEN);
}

/// Answers every request with `answer`, a whole HTTP response; gives the port and the number of requests.
async fn origin(answer: impl Fn(u16) -> String + Send + 'static) -> (u16, Arc<AtomicU32>, JoinSet) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    let count = Arc::clone(&asked);
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let Ok(_) = stream.read(&mut request).await else {
                continue;
            };
            count.fetch_add(1, Ordering::Relaxed);
            drop(stream.write_all(answer(port).as_bytes()).await);
        }
    });
    (port, asked, tasks)
}

type JoinSet = tokio::task::JoinSet<()>;

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn a_redirect_leads_only_to_a_listed_origin_and_at_most_five_times() {
    for (location, expected) in [
        ("http://169.254.169.254/latest/meta-data/", FORBIDDEN),
        ("http://[fd00:ec2::254]/", FORBIDDEN),
        ("http://127.0.0.1:1/", FORBIDDEN),
        ("https://files.example/", FORBIDDEN),
        ("//evil.example/", FORBIDDEN),
        ("file:///etc/passwd", FORBIDDEN),
        ("gopher://files.example/", FORBIDDEN),
        ("http://user@files.example/", FORBIDDEN),
        ("http:\\\\evil.example", "source_refused"),
        ("data:,x", FORBIDDEN),
        ("/again", "too_many_redirects"),
    ] {
        let (port, asked, _tasks) = origin(move |_| redirect(location)).await;
        let host = format!("http://files.example:{port}");
        let sources = Sources::with_resolver(rules(vec![], &[&host], true), fixed("127.0.0.1"));
        let end = code(&sources, SourceRef::Url(format!("{host}/a"))).await;
        assert_eq!(end, expected, "{location}");
        let requests = if expected == "too_many_redirects" {
            6
        } else {
            1
        };
        assert_eq!(asked.load(Ordering::Relaxed), requests, "{location}");
    }
}

#[tokio::test]
async fn the_address_that_was_judged_is_the_one_that_is_connected_to() {
    let (port, asked, _tasks) =
        origin(|_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned()).await;
    let host = format!("http://files.example:{port}");
    // The name server changes its mind after the first answer, as in a rebinding attack.
    let looks = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&looks);
    let fickle = Resolver::new(move |name| {
        assert_eq!(name, "files.example");
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        let address = if first { "127.0.0.1" } else { "127.0.0.2" };
        Box::pin(async move { Ok(vec![address.parse().unwrap()]) })
    });
    let sources = Sources::with_resolver(rules(vec![], &[&host], true), fickle);
    let mut source = sources
        .open(&SourceRef::Url(format!("{host}/a")))
        .await
        .unwrap();
    assert_eq!(source.read_part(10).await.unwrap(), "ok");
    assert_eq!(
        (looks.load(Ordering::Relaxed), asked.load(Ordering::Relaxed)),
        (1, 1)
    );
    // Every redirect is looked up and judged anew: public first, private then.
    let turned = Resolver::new(move |_| Box::pin(async { Ok(vec!["10.0.0.1".parse().unwrap()]) }));
    let strict = Sources::with_resolver(rules(vec![], &[&host], false), turned);
    assert_eq!(
        code(&strict, SourceRef::Url(format!("{host}/a"))).await,
        FORBIDDEN
    );
}

#[tokio::test]
async fn what_an_origin_answers_has_its_code_and_class() {
    use FailureClass::{JobLocal, Throttled, TimedOut, Unavailable};
    for (status, expected, class) in [
        (404, "source_not_found", JobLocal),
        (410, "source_not_found", JobLocal),
        (401, "source_access_denied", JobLocal),
        (403, "source_access_denied", JobLocal),
        (400, "source_refused", JobLocal),
        (304, "source_refused", JobLocal),
        (204, "source_refused", JobLocal),
        (206, "source_changed", JobLocal),
        (408, "source_unavailable", TimedOut),
        (429, "source_unavailable", Throttled),
        (500, "source_unavailable", Unavailable),
        (503, "source_unavailable", Unavailable),
    ] {
        let answer = format!("HTTP/1.1 {status} X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n");
        let (port, _, _tasks) = origin(move |_| answer.clone()).await;
        let host = format!("http://files.example:{port}");
        let sources = Sources::with_resolver(rules(vec![], &[&host], true), fixed("127.0.0.1"));
        let Err(failure) = sources.open(&SourceRef::Url(format!("{host}/a"))).await else {
            panic!("{status} got through")
        };
        assert_eq!(
            (failure.code.as_str(), failure.class),
            (expected, class),
            "{status}"
        );
        assert!(!failure.called);
    }
}

#[tokio::test]
async fn a_url_that_is_too_large_is_refused_by_its_announcement_and_by_count() {
    let most = 1 << 20;
    let announced = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", most + 1);
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(most + 1));
    for answer in [announced, endless] {
        let (port, _, _tasks) = origin(move |_| answer.clone()).await;
        let host = format!("http://files.example:{port}");
        let sources = Sources::with_resolver(rules(vec![], &[&host], true), fixed("127.0.0.1"));
        let failure = match sources.open(&SourceRef::Url(format!("{host}/a"))).await {
            Err(failure) => failure,
            Ok(mut source) => source.read_part(2 * most).await.unwrap_err(),
        };
        assert_eq!(failure.code, "source_too_large");
    }
}
