//! Which settings are secret, and how a value is shown without giving a secret away.

/// Keys whose values are secret, or hold a password. Each may be read from a file: `…_FILE`.
pub(super) const SECRET_KEYS: [&str; 3] = ["amqp.url", "ledger.url", TOKEN_KEY];

/// Secret as a whole; the others are URLs of which only the password is.
const TOKEN_KEY: &str = "http.admin_token";

const MASK: &str = "***";

/// Whether no error may quote the value: a wrong URL can't be masked with certainty.
pub(super) fn is_secret(key: &str) -> bool {
    SECRET_KEYS.contains(&key)
}

/// Whether a secret is a list, whose items are masked one by one.
pub(super) fn is_list(key: &str) -> bool {
    key == "amqp.url"
}

/// A sound value as `config show` prints it.
pub(super) fn masked(key: &str, value: &str) -> String {
    match key {
        TOKEN_KEY if value.is_empty() => String::new(),
        TOKEN_KEY => MASK.to_owned(),
        _ => masked_url(value),
    }
}

/// Hides the password of a URL, and parameters that may be one; any other text stays as it is.
///
/// A password with an unescaped `/`, `?` or `@` is hidden too: rather too much is hidden than too little.
pub(super) fn masked_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => match user.split_once(':') {
            Some((name, _)) => (format!("{name}:{MASK}@"), rest),
            None => (format!("{user}@"), rest),
        },
        None => (String::new(), rest),
    };
    let Some((place, query)) = rest.split_once('?') else {
        return format!("{scheme}://{user}{rest}");
    };
    let query: Vec<String> = query.split('&').map(masked_parameter).collect();
    format!("{scheme}://{user}{place}?{}", query.join("&"))
}

fn masked_parameter(pair: &str) -> String {
    match pair.split_once('=') {
        Some((name, _)) if may_be_secret(name) => format!("{name}={MASK}"),
        _ => pair.to_owned(),
    }
}

fn may_be_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "secret", "token", "auth", "key"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_they_stand_in_a_url() {
        for (url, shown) in [
            (
                "amqp://guest:guest@127.0.0.1:5672/%2f",
                "amqp://guest:***@127.0.0.1:5672/%2f",
            ),
            ("amqp://user:p/w?x@y@host/v", "amqp://user:***@host/v"),
            (
                "postgres://host/db?user=u&password=p&sslmode=require",
                "postgres://host/db?user=u&password=***&sslmode=require",
            ),
            (
                "postgres://u:p@host/db?sslpassword=q",
                "postgres://u:***@host/db?sslpassword=***",
            ),
            ("amqp://host:5672/v", "amqp://host:5672/v"),
            ("amqp://user@host", "amqp://user@host"),
            ("sqlite://brigade.db", "sqlite://brigade.db"),
            ("plain text", "plain text"),
        ] {
            assert_eq!(masked_url(url), shown);
        }
    }

    #[test]
    fn a_token_is_hidden_whole() {
        assert_eq!(masked(TOKEN_KEY, "hunter2"), MASK);
        assert_eq!(masked(TOKEN_KEY, ""), "");
    }
}
