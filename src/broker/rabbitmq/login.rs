//! What an AMQP URL says of the broker beside AMQP: where its management API is likely to be, and who asks.

use lapin::uri::{AMQPScheme, AMQPUri};
use secrecy::{ExposeSecret, SecretString};

/// The parts of an AMQP URL.
#[derive(Debug, Clone)]
pub struct Login {
    /// `host:15672`, for a broker on its usual port without TLS; elsewhere nobody can tell.
    pub management: Option<String>,
    /// The user.
    pub user: String,
    /// The password.
    pub password: SecretString,
    /// The virtual host.
    pub vhost: String,
}

impl Login {
    /// Reads one URL; the error does not show it.
    pub fn parse(url: &SecretString) -> Result<Self, String> {
        let uri: AMQPUri = url
            .expose_secret()
            .parse()
            .map_err(|error: String| format!("amqp.url is no AMQP URL: {error}"))?;
        let usual = uri.scheme == AMQPScheme::AMQP && uri.authority.port == 5672;
        let userinfo = uri.authority.userinfo;
        Ok(Self {
            management: usual.then(|| format!("{}:15672", uri.authority.host)),
            user: userinfo.username,
            password: userinfo.password.into(),
            vhost: uri.vhost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_management_api_is_guessed_only_beside_the_usual_port() {
        let login = |url: &str| Login::parse(&url.into()).unwrap();
        let usual = login("amqp://me:hush@h/%2f");
        assert_eq!(usual.management.as_deref(), Some("h:15672"));
        assert_eq!((usual.user.as_str(), usual.vhost.as_str()), ("me", "/"));
        assert!(!format!("{usual:?}").contains("hush"));
        assert_eq!(login("amqp://h:5673").management, None);
        assert_eq!(login("amqps://h").management, None);
    }
}
