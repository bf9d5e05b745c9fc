//! Whatever the text, an origin off the list is never admitted, as a URL or as a redirect.
#![no_main]

use bucket_brigade::job::place::{Origin, Origins, SourceUrl};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let listed = Origins::new(Origin::parse("cdn.example.com").into_iter().collect());
    let admitted = |url: SourceUrl| {
        if let Ok(url) = listed.admit(url) {
            assert_eq!(url.origin.to_string(), "https://cdn.example.com");
            assert!(url.path_and_query().starts_with('/'));
        }
    };
    if let Ok(url) = SourceUrl::parse(text) {
        admitted(url);
    }
    if let Ok(target) = SourceUrl::parse("https://cdn.example.com/a/b").and_then(|url| url.join(text)) {
        admitted(target);
    }
    drop(Origin::parse(text));
});
