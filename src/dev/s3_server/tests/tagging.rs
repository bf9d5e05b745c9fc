//! Tags of objects that are there already, as the SDK sees them.

use aws_sdk_s3::types::{Tag, Tagging};

use super::*;

#[tokio::test]
async fn new_tags_replace_the_old_ones_and_leave_the_object_as_it_was() {
    let (server, client) = server().await;
    let object = client.put_object().bucket("b").key("k").tagging("old=1");
    let object = object.metadata("who", "me").body(b"text".to_vec().into());
    object.send().await.unwrap();
    let head = async || {
        let head = client.head_object().bucket("b").key("k").send().await;
        let head = head.unwrap();
        (head.e_tag, head.last_modified, head.metadata)
    };
    let before = head().await;
    let put = |key: &str, names: &[&str]| {
        let tags = names
            .iter()
            .map(|name| Tag::builder().key(*name).value("x"));
        let tags = tags.map(|tag| tag.build().unwrap()).collect();
        let tags = Tagging::builder().set_tag_set(Some(tags)).build().unwrap();
        let put = client.put_object_tagging().bucket("b").key(key);
        put.tagging(tags).send()
    };
    put("k", &["new", "also"]).await.unwrap();
    let tags = client.get_object_tagging().bucket("b").key("k").send();
    let tags = tags.await.unwrap().tag_set;
    let names: Vec<_> = tags.iter().map(|tag| tag.key.as_str()).collect();
    assert_eq!(names, ["also", "new"]);
    assert_eq!(head().await, before);
    assert_eq!(server.object("b", "k").unwrap(), b"text");

    let eleven = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];
    for (key, names, code) in [
        ("none", &["x"][..], "NoSuchKey"),
        ("k", &["x", "x"], "InvalidTag"),
        ("k", &eleven, "InvalidTag"),
    ] {
        let refused = put(key, names).await.unwrap_err().into_service_error();
        assert_eq!(refused.meta().code(), Some(code));
    }
}
