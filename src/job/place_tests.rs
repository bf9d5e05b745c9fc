//! What a URL or a path may look like, as tables.

use super::*;

fn origins(texts: &[&str]) -> Origins {
    Origins::new(
        texts
            .iter()
            .map(|text| Origin::parse(text).unwrap())
            .collect(),
    )
}

#[test]
fn an_origin_is_a_host_or_scheme_host_and_port() {
    for (text, shown) in [
        ("cdn.example.com", "https://cdn.example.com"),
        ("CDN.Example.com.", "https://cdn.example.com"),
        ("http://files.internal:8080", "http://files.internal:8080"),
        ("https://cdn.example.com:443", "https://cdn.example.com"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("bücher.example", "https://xn--bcher-kva.example"),
    ] {
        assert_eq!(
            Origin::parse(text).map(|origin| origin.to_string()),
            Ok(shown.to_owned())
        );
    }
    for bad in [
        "",
        ".",
        "a b",
        "cdn.example.com:8443",
        "https://a.example/path",
        "ftp://a.example",
        "http://u:p@a.example",
        "http://a.example?q",
        "http://a.example#f",
        "http://a.example:0",
        "http://",
        "*.example.com",
        "http:a.example",
        "a.example%2f",
        "http://a.example:99999",
    ] {
        assert!(Origin::parse(bad).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn the_same_origin_is_known_in_every_notation() {
    let listed = origins(&["cdn.example.com", "http://10.0.0.1:8080", "bücher.example"]);
    for url in [
        "https://cdn.example.com/a?b=c#d",
        "HTTPS://CDN.EXAMPLE.COM/a",
        "https://cdn.example.com./a",
        "https://cdn.example.com:443/a",
        "https://cdn%2eexample.com/a",
        "http://10.1:8080/",
        "http://0x0a000001:8080/",
        "http://012.0.0.1:8080/",
        "http://167772161:8080/",
        "https://xn--bcher-kva.example/",
        "https://BÜCHER.example/",
    ] {
        assert!(listed.check(url).is_ok(), "{url}: {:?}", listed.check(url));
    }
}

#[test]
fn a_request_line_holds_path_and_query_and_no_fragment() {
    let url = |text| SourceUrl::parse(text).unwrap().path_and_query();
    assert_eq!(url("https://a.example"), "/");
    assert_eq!(url("https://a.example/a/../b%20c?d=é#f"), "/b%20c?d=%C3%A9");
}

#[test]
fn a_redirect_is_read_as_strictly_as_a_message() {
    let base = SourceUrl::parse("https://a.example/x/y").unwrap();
    let to = |location| base.join(location).map(|url| url.origin.to_string());
    assert_eq!(to("../z"), Ok("https://a.example".to_owned()));
    assert_eq!(to("//b.example/"), Ok("https://b.example".to_owned()));
    for bad in [
        "\\\\b.example",
        "http://u@b.example",
        "ftp://b.example",
        "data:,x",
        "/a b",
        "http://",
    ] {
        assert!(to(bad).is_err(), "{bad:?} was followed");
    }
}

#[test]
fn a_path_is_covered_by_the_longest_root_and_never_by_dots() {
    let roots = Roots::new("sources.file_roots", vec!["/srv".into(), "/srv/in".into()]);
    let covering = |file: &str| {
        let found = roots.covering(Path::new(file));
        found.map(|(root, below)| (root.to_owned(), below))
    };
    assert_eq!(
        covering("/srv/in//a/./b"),
        Ok(("/srv/in".into(), "a/b".into()))
    );
    assert_eq!(covering("/srv/a"), Ok(("/srv".into(), "a".into())));
    for bad in [
        "/srv",
        "/srv/",
        "/srv/in/../../etc",
        "/srvx/a",
        "/etc/passwd",
        "/",
        "srv/a",
        "/srv/..",
    ] {
        let Err(Refused::Forbidden(why)) = covering(bad) else {
            panic!("{bad} was covered")
        };
        assert!(why.contains("sources.file_roots"), "{why}");
    }
    let none = Roots::new("sources.file_roots", vec![]);
    assert!(none.covering(Path::new("/srv/a")).is_err());
}
