//! RabbitMQ: reachable, of a good version, with the right queues, and nobody's jobs lying dead.

use std::{collections::BTreeMap, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::oneshot;

use super::Finding;
use crate::{
    broker::{
        Names,
        rabbitmq::{ConnectError, DeadQueues, Login, Producer, topology},
    },
    config::Settings,
    http::client,
    job::Lane,
};

pub(super) async fn examine(
    settings: &Settings,
    management: Option<String>,
    timeout: Duration,
    ledger_is_down: oneshot::Receiver<bool>,
) -> Vec<Finding> {
    let prefix = settings.amqp.prefix.as_str();
    let (good, mut findings) = addresses(settings, timeout).await;
    let queues = match DeadQueues::connect(&good, prefix, timeout).await {
        Ok(queues) => queues,
        Err(why) => {
            let cure = "start RabbitMQ, or correct address, user, password and virtual host in \
                        amqp.url (AMQP_URL)";
            let why = format!("{why} ({})", settings.amqp.url_named);
            return vec![Finding::mend("broker", why, cure)];
        }
    };
    let login = match good.first().map(Login::parse) {
        Some(Ok(login)) => login,
        Some(Err(why)) => return vec![Finding::mend("broker", why, "correct amqp.url")],
        None => return findings,
    };
    let management = management.or_else(|| login.management.clone());
    let management = Management {
        authority: management,
        login,
        timeout,
    };
    findings.push(broker(&management).await);
    findings.extend(topology(settings, timeout).await);
    let ledger_is_down = ledger_is_down.await.unwrap_or(false);
    for lane in Lane::ALL {
        findings.extend(queues_of(&queues, lane, ledger_is_down).await);
    }
    findings.extend(consumer_timeout(settings, &management).await);
    queues.close().await;
    findings
}

/// The addresses to go on with: those that take a connection, or all when none does. A warning for each other one.
async fn addresses(settings: &Settings, timeout: Duration) -> (Vec<SecretString>, Vec<Finding>) {
    let urls = &settings.amqp.url;
    if urls.len() == 1 {
        return (urls.clone(), Vec::new());
    }
    let tries = urls.iter().map(|url| async move {
        let one = std::slice::from_ref(url);
        let producer = Producer::connect(one, &settings.amqp.prefix, timeout).await?;
        producer.close().await;
        Ok::<_, ConnectError>(url.clone())
    });
    let (mut good, mut findings) = (Vec::new(), Vec::new());
    for tried in futures_util::future::join_all(tries).await {
        match tried {
            Ok(url) => good.push(url),
            Err(why) => {
                let cure = "start that node, or take its address out of amqp.url; workers go on with the others";
                findings.push(Finding::warn("broker address", why.to_string(), cure));
            }
        }
    }
    if good.is_empty() {
        return (urls.clone(), Vec::new());
    }
    (good, findings)
}

/// The management API, as far as there is one.
struct Management {
    authority: Option<String>,
    login: Login,
    timeout: Duration,
}

impl Management {
    /// The JSON at that path; the error says why there is none.
    async fn get(&self, path: &str) -> Result<Value, String> {
        let authority = self
            .authority
            .as_deref()
            .ok_or("name the management API with --management to learn more")?;
        let login = (
            self.login.user.as_str(),
            self.login.password.expose_secret(),
        );
        match client::get_as(authority, path, login, self.timeout).await {
            Ok(answer) if answer.code == 200 => Ok(answer.json()),
            Ok(answer) => Err(format!(
                "the management API at {authority} answered HTTP {}",
                answer.code
            )),
            Err(error) => Err(format!("no management API at {authority}: {error}")),
        }
    }
}

async fn broker(management: &Management) -> Finding {
    let overview = match management.get("/api/overview").await {
        Ok(overview) => overview,
        Err(why) => return Finding::ok("broker", format!("reachable, version unknown ({why})")),
    };
    let Some(version) = overview["rabbitmq_version"].as_str() else {
        return Finding::ok("broker", "reachable, its management API names no version");
    };
    let said = format!("RabbitMQ {version}");
    match numbers(version) {
        Some(numbers) if numbers < (3, 10, 0) => Finding::mend(
            "broker",
            said,
            "update to 3.10 or later: older ones have no at-least-once dead-lettering",
        ),
        Some((4, 3, patch)) if patch < 5 => Finding::warn(
            "broker",
            said,
            "update to 4.3.5 or later: earlier ones of that line have known quorum queue faults",
        ),
        _ => Finding::ok("broker", said),
    }
}

fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split(['.', '-', '+']).map(str::parse);
    let mut next = || parts.next()?.ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

/// Objects with the same problem are one finding.
async fn topology(settings: &Settings, timeout: Duration) -> Vec<Finding> {
    let checking = topology::check(&settings.amqp.url, &settings.amqp.prefix);
    let differences = match tokio::time::timeout(timeout, checking).await {
        Ok(Ok(differences)) => differences,
        Ok(Err(error)) => {
            let cure = "see that the broker is well, then run `brigade topology check`";
            return vec![Finding::mend("topology", error.to_string(), cure)];
        }
        Err(_) => {
            let cure = "see that the broker is well, then run `brigade topology check`";
            return vec![Finding::mend("topology", "no answer in time", cure)];
        }
    };
    if differences.is_empty() {
        return vec![Finding::ok(
            "topology",
            "exchanges and queues are as they should be",
        )];
    }
    let mut problems: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for difference in differences {
        let objects = problems.entry(difference.problem).or_default();
        objects.push(difference.object);
    }
    let cure = "do what it says; `brigade topology check` compares again";
    problems
        .into_iter()
        .map(|(problem, objects)| {
            let message = format!("{}: {problem}", objects.join(", "));
            Finding::mend("topology", message, cure)
        })
        .collect()
}

async fn queues_of(queues: &DeadQueues, lane: Lane, ledger_is_down: bool) -> Vec<Finding> {
    let (own, dead) = match queues.look(lane).await {
        Ok(looks) => looks,
        Err(error) => {
            let cure = "see that the broker is well and that this user may look at its queues";
            return vec![Finding::mend(
                format!("queue {lane}"),
                error.to_string(),
                cure,
            )];
        }
    };
    let mut findings = Vec::new();
    // A queue that is missing is the topology's finding.
    if let Some(own) = own {
        let check = format!("queue {lane}");
        let (ready, consumers) = (own.ready, own.consumers);
        findings.push(if ready > 0 && consumers == 0 {
            let message = format!("{ready} jobs wait and nobody consumes");
            let cure = if ledger_is_down {
                "mend the ledger first, see the finding of that name: while it can't be written, workers \
                 take no jobs"
            } else {
                "start a worker for this lane; if one runs, `brigade circuit show` says whether it is \
                 paused, and its /readyz what it waits for"
            };
            Finding::warn(check, message, cure)
        } else {
            Finding::ok(check, format!("{ready} jobs wait, {consumers} consumers"))
        });
    }
    if let Some(dead) = dead {
        let check = format!("dead letters {lane}");
        findings.push(match dead.ready {
            0 => Finding::ok(check, "none"),
            count => {
                let cure =
                    format!("`brigade dead list --lane {lane}` says why; replay or discard them");
                Finding::warn(check, format!("{count} dead letters"), cure)
            }
        });
    }
    findings
}

/// AMQP does not show the time-out; a policy or an argument on a queue can be read by HTTP, the node's own
/// setting can't.
async fn consumer_timeout(settings: &Settings, management: &Management) -> Vec<Finding> {
    let names = Names::new(settings.amqp.prefix.clone());
    let deadline = settings.limits.job_deadline;
    let vhost = percent_encoded(&management.login.vhost);
    let mut findings = Vec::new();
    for lane in Lane::ALL {
        let queue = names.lane_queue(lane);
        let path = format!("/api/queues/{vhost}/{}", percent_encoded(&queue));
        let Ok(shown) = management.get(&path).await else {
            continue;
        };
        let policy = &shown["effective_policy_definition"]["consumer-timeout"];
        let argument = &shown["arguments"]["x-consumer-timeout"];
        let found = policy.as_u64().or(argument.as_u64());
        let Some(timeout) = found.map(Duration::from_millis) else {
            continue;
        };
        let message = format!(
            "{queue} has {}, limits.job_deadline is {}",
            humantime::format_duration(timeout),
            humantime::format_duration(deadline)
        );
        let check = format!("consumer time-out {lane}");
        findings.push(if timeout > deadline {
            Finding::ok(check, message)
        } else {
            let cure = "raise consumer-timeout in the policy, or lower limits.job_deadline: else the \
                        broker takes long jobs back while they run";
            Finding::mend(check, message, cure)
        });
    }
    if findings.is_empty() {
        // The settings themselves are checked when they are read.
        let message = format!(
            "limits.job_deadline {} is below amqp.consumer_timeout {}; the broker's own value can't be \
             read, `rabbitmqctl environment` shows consumer_timeout",
            humantime::format_duration(deadline),
            humantime::format_duration(settings.amqp.consumer_timeout)
        );
        findings.push(Finding::ok("consumer time-out", message));
    }
    findings
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_their_numbers() {
        assert_eq!(numbers("3.10.8"), Some((3, 10, 8)));
        assert_eq!(numbers("4.3.0-rc.1"), Some((4, 3, 0)));
        assert_eq!(numbers("next"), None);
        assert!(numbers("3.9.29") < Some((3, 10, 0)));
    }

    #[test]
    fn a_virtual_host_is_one_segment_of_a_path() {
        assert_eq!(percent_encoded("/"), "%2F");
        assert_eq!(percent_encoded("a b.c"), "a%20b.c");
    }
}
