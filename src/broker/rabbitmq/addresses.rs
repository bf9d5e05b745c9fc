//! The addresses of one broker or cluster, tried in turn from a random one on.

use std::time::Duration;

use lapin::Connection;
use secrecy::SecretString;

use super::endpoint::Endpoint;

/// At least one address, and whose turn it is.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    list: Vec<Endpoint>,
    turn: usize,
}

impl Addresses {
    /// Reads the URLs; `timeout` is for one try at one address. The error names the one that is wrong, and shows none.
    pub(super) fn parse(
        urls: &[SecretString],
        timeout: Duration,
        heartbeat: Duration,
    ) -> Result<Self, String> {
        let count = urls.len();
        let mut list = Vec::with_capacity(count);
        for (at, url) in urls.iter().enumerate() {
            let endpoint = Endpoint::parse(url, timeout, heartbeat).map_err(|why| match count {
                1 => format!("amqp.url is no AMQP URL: {why}"),
                _ => format!(
                    "address {} of {count} in amqp.url is no AMQP URL: {why}",
                    at + 1
                ),
            })?;
            list.push(endpoint);
        }
        let Some(first) = list.first() else {
            return Err("amqp.url has no address".to_owned());
        };
        if let Some(other) = list.iter().find(|it| it.vhost() != first.vhost()) {
            return Err(format!(
                "the addresses in amqp.url must have one virtual host, but {} has {:?} and {} has {:?}",
                first.address(),
                first.vhost(),
                other.address(),
                other.vhost(),
            ));
        }
        Ok(Self {
            turn: fastrand::usize(..count),
            list,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The one whose turn it is.
    pub(super) fn current(&self) -> &Endpoint {
        &self.list[self.turn]
    }

    /// Gives the turn to the next one.
    pub(super) fn advance(&mut self) {
        self.turn = (self.turn + 1) % self.list.len();
    }

    /// Each once, until one connects, all within `patience`: each has an equal share of what is left of it. The
    /// error has a sentence for each.
    pub(super) async fn connect(
        &mut self,
        name: &str,
        patience: Duration,
    ) -> Result<Connection, String> {
        let mut rest = patience;
        let mut failed = Vec::new();
        for left in (1..=self.list.len()).rev() {
            let began = tokio::time::Instant::now();
            let share = rest / u32::try_from(left).unwrap_or(u32::MAX);
            match self.current().connect(name, share).await {
                Ok(opened) => return Ok(opened.connection),
                Err(why) => failed.push(why),
            }
            // The look at who it is that does not answer is beyond the share, and not at the cost of the others.
            rest -= began.elapsed().min(share);
            self.advance();
        }
        Err(failed.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(urls: &[&str]) -> Result<Addresses, String> {
        let urls: Vec<SecretString> = urls.iter().map(|url| (*url).into()).collect();
        let heartbeat = Duration::from_secs(10);
        Addresses::parse(&urls, Duration::from_secs(5), heartbeat)
    }

    #[test]
    fn each_has_its_turn_and_the_first_is_left_to_chance() {
        let mut begun_with = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut given = addresses(&["amqp://a", "amqp://b", "amqp://c"]).unwrap();
            let mut seen = Vec::new();
            for _ in 0..given.len() {
                seen.push(given.current().address());
                given.advance();
            }
            assert_eq!(seen[0], given.current().address(), "the round is over");
            begun_with.insert(seen[0].clone());
            seen.sort_unstable();
            assert_eq!(seen, ["a:5672", "b:5672", "c:5672"]);
        }
        assert_eq!(begun_with.len(), 3);
    }

    #[test]
    fn one_that_is_wrong_is_named_by_its_place_and_not_shown() {
        let why = addresses(&["amqp://a", "amqp://u:hush@b?heartbeat=often"]).unwrap_err();
        assert!(
            why.contains("address 2 of 2") && !why.contains("hush"),
            "{why}"
        );
        let why = addresses(&["amqp://u:hush@b?heartbeat=often"]).unwrap_err();
        assert!(why.starts_with("amqp.url is no AMQP URL: "), "{why}");
        let why = addresses(&["amqp://u:hush@a/x", "amqp://u:hush@b/y"]).unwrap_err();
        assert!(
            why.contains("a:5672 has \"x\"") && why.contains("b:5672 has \"y\""),
            "{why}"
        );
        assert!(!why.contains("hush"), "{why}");
    }

    #[tokio::test]
    async fn an_address_that_swallows_everything_leaves_time_for_the_others() {
        // Accepts and never answers; refuses.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = (silent.local_addr().unwrap(), silent);
        let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = refused.local_addr().unwrap();
        drop(refused);
        let urls = [format!("amqp://{}", silent.0), format!("amqp://{gone}")];
        let mut given = addresses(&[&urls[0], &urls[1]]).unwrap();
        let began = tokio::time::Instant::now();
        let connecting = given.connect("test", Duration::from_millis(600));
        let why = connecting.await.unwrap_err();
        assert!(
            why.contains(&format!("no answer from {} within", silent.0)),
            "{why}"
        );
        assert!(
            why.contains(&format!("connection refused at {gone}")),
            "{why}"
        );
        // The look at who it is that does not answer has its own second.
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
    }
}
