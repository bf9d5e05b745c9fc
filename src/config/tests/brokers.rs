//! Several broker addresses: how they are written, and how a wrong one is named.

use secrecy::ExposeSecret;

use super::*;

const TWO: [&str; 2] = ["amqp://u:p@a:5671/%2f?heartbeat=3", "amqps://u:p@b"];

fn urls(given: &Given) -> Vec<String> {
    let settings = given.settings();
    let urls = settings.amqp.url.iter();
    urls.map(|url| url.expose_secret().to_owned()).collect()
}

#[test]
fn several_addresses_are_a_list_in_a_file_and_have_commas_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let secret = written(&directory, "amqp", &format!("{}\n", TWO.join(",")));
    let in_file = format!("[amqp]\nurl = [{:?}, {:?}]\n", TWO[0], TWO[1]);
    for given in [
        given().file(&directory, &in_file),
        given().env("AMQP_URL", &TWO.join(", ")),
        given().env("AMQP_URL", &format!("[{:?}, {:?}]", TWO[0], TWO[1])),
        given().env("AMQP_URL_FILE", secret.to_str().unwrap()),
        given().flag("amqp.url", &TWO.join(",")),
    ] {
        assert_eq!(urls(&given), TWO);
        let shown = given.entry("amqp.url").value;
        assert_eq!(shown, "amqp://u:***@a:5671/%2f?heartbeat=3,amqps://u:***@b");
    }
    let one = given().env("AMQP_URL", TWO[1]);
    assert_eq!(urls(&one), [TWO[1]]);
}

#[test]
fn a_wrong_address_is_named_by_its_place_and_not_shown() {
    // A comma in a password, a host alone, options that are no numbers.
    for (value, number) in [
        ("amqp://u:hush,er@a,amqp://b", "number 1 of 3"),
        ("amqp://a,amqp://u:1,hush@b", "number 3 of 3"),
        ("amqp://a,hush:5672", "number 2 of 2"),
        ("amqp://a,amqp://b?heartbeat=hush", "number 2 of 2"),
    ] {
        let problems = given().env("AMQP_URL", value).problems().join("\n");
        assert!(
            problems.contains(&format!(
                "{number} is not; the value is not shown (from AMQP_URL)"
            )),
            "{problems}"
        );
        assert!(!problems.contains("hush"), "{problems}");
    }
    let problem = given().env("AMQP_URL", "amqp://a,hush").problem();
    assert!(problem.contains("(a comma is %2C)"), "{problem}");
    for nothing in ["", ",", "[]", "[1"] {
        let problem = given().env("AMQP_URL", nothing).problem();
        assert!(
            problem.starts_with("amqp.url must be a URL like "),
            "{problem}"
        );
    }
}

#[test]
fn all_addresses_have_one_virtual_host() {
    for same in [
        "amqp://a/%2f,amqp://b,amqp://c:5672/%2F?heartbeat=5",
        "amqp://a/x,amqps://b/x",
    ] {
        given().env("AMQP_URL", same).loaded();
    }
    assert_eq!(
        given()
            .env("AMQP_URL", "amqp://u:hush@a/x,amqp://b/x,amqp://c/")
            .problem(),
        "amqp.url must name one virtual host, but number 3 names another than the first (amqp.url from AMQP_URL)"
    );
}

#[test]
fn a_message_about_a_connection_can_name_the_setting_and_where_it_came_from() {
    let directory = tempfile::tempdir().unwrap();
    let defaults = given().settings();
    assert_eq!(
        defaults.amqp.url_named,
        "AMQP_URL is not set, so amqp.url has its default"
    );
    assert_eq!(
        defaults.ledger.url_named,
        "DATABASE_URL is not set, so ledger.url has its default"
    );
    let settings = given()
        .file(&directory, "[ledger]\nurl = \"sqlite://x.db\"\n")
        .flag("amqp.url", TWO[0])
        .settings();
    assert_eq!(settings.amqp.url_named, "amqp.url from the command line");
    assert!(settings.ledger.url_named.starts_with("ledger.url from /"));
    assert!(settings.ledger.url_named.ends_with("brigade.toml"));
}
