//! `brigade circuit show|force-open|force-closed|auto`: the breakers of running workers, over their HTTP
//! servers. A breaker belongs to one process, so each worker is asked on its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{
    CommandError, Exit, Outcome, Output, Shared,
    output::{Rows, print, print_json, say},
};
use crate::{
    config::Settings,
    http::client::{self, Answer},
    job::{Circuit, Lane, Timestamp},
    resilience::Mode,
    terminal::escaped,
};

/// Arguments of `brigade circuit`.
#[derive(Debug, Args)]
pub(super) struct CircuitArgs {
    #[command(subcommand)]
    command: CircuitCommand,
    /// A worker's HTTP server, such as http://10.0.0.7:9464; may be repeated; default: http.listen
    #[arg(long, global = true, value_name = "URL", value_parser = parse_url)]
    url: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum CircuitCommand {
    /// State and mode of each circuit, what S3 answered last, and what waits for it
    Show,
    /// Refuse all calls until told otherwise
    ForceOpen(Named),
    /// Let all calls through, whatever fails
    ForceClosed(Named),
    /// Let the breaker decide again
    Auto(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// upload or download
    #[arg(value_parser = parse_circuit)]
    name: Circuit,
}

fn parse_circuit(name: &str) -> Result<Circuit, String> {
    Circuit::parse(name).ok_or_else(|| "circuits are upload and download".to_owned())
}

/// The authority of a plain HTTP URL.
pub(super) fn parse_url(url: &str) -> Result<String, String> {
    let rule = "must be http://HOST:PORT";
    let authority = url.strip_prefix("http://").ok_or(rule)?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(_) if !authority.contains(['/', '@']) => Ok(authority.to_owned()),
        _ => Err(rule.to_owned()),
    }
}

/// Where the worker of this machine is asked: an address that means all of them is reached by loopback.
pub(super) fn authority(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port()).to_string()
}

pub(super) async fn run(shared: &Shared, args: CircuitArgs) -> Outcome {
    let settings = shared.load(Vec::new())?.settings;
    let mut urls = args.url;
    if urls.is_empty() {
        urls.push(authority(settings.http.listen));
    }
    let (mut workers, mut worst) = (Vec::new(), Exit::Done);
    for authority in &urls {
        match ask(shared, &settings, authority, &args.command).await {
            Ok(mut worker) => {
                worker["url"] = format!("http://{authority}").into();
                workers.push(worker);
            }
            Err(CommandError { exit, error }) => {
                say(format!("http://{authority}: {error:#}"));
                if worst != Exit::Unreachable {
                    worst = exit;
                }
            }
        }
    }
    match shared.output {
        Output::Json => print_json(&json!({ "workers": workers }))?,
        Output::Text if workers.is_empty() => {}
        Output::Text => {
            print(table_of(&workers))?;
            for line in causes(&workers).into_iter().chain(unguarded(&workers)) {
                print(escaped(&line))?;
            }
        }
    }
    Ok(worst)
}

/// The worker's name and circuits by name; when it was only asked, its lanes and reasons too.
async fn ask(
    shared: &Shared,
    settings: &Settings,
    authority: &str,
    command: &CircuitCommand,
) -> Result<Value, CommandError> {
    let (named, mode) = match command {
        CircuitCommand::Show => {
            let answer = client::get(authority, "/api/status", shared.timeout).await;
            let mut status = understood(answer, settings)?;
            if !status["circuits"].is_object() {
                return Err(CommandError::new(Exit::Failed, "this is no worker"));
            }
            let told = ["worker", "circuits", "lanes", "ready", "reasons"];
            return Ok(told
                .map(|name| (name.to_owned(), status[name].take()))
                .into_iter()
                .collect());
        }
        CircuitCommand::ForceOpen(named) => (named, Mode::ForceOpen),
        CircuitCommand::ForceClosed(named) => (named, Mode::ForceClosed),
        CircuitCommand::Auto(named) => (named, Mode::Auto),
    };
    let token = settings.http.admin_token.as_ref();
    let token = token.map_or("", |token| token.expose_secret());
    let name = named.name.as_str();
    let path = format!("/api/circuits/{name}");
    let body = json!({ "mode": mode.as_str() }).to_string();
    let answer = client::post(authority, &path, token, &body, shared.timeout).await;
    let circuit = understood(answer, settings)?;
    Ok(json!({"worker": null, "circuits": {name: circuit}}))
}

/// The JSON of a 200; everything else is explained.
fn understood(answer: std::io::Result<Answer>, settings: &Settings) -> Result<Value, CommandError> {
    let answer = answer.map_err(CommandError::unreachable)?;
    let said = answer.json();
    let said = said["error"].as_str().unwrap_or("it gave no reason");
    let cure = match (answer.code, &settings.http.admin_token) {
        (200, _) => return Ok(answer.json()),
        (401, None) => "set http.admin_token here to the worker's token",
        (401, Some(_)) => "the http.admin_token of these settings is not the worker's",
        (404, _) => {
            "a worker without http.admin_token lets nobody move its circuits, and a worker has only \
             the circuits of its lanes"
        }
        _ => "is this a worker's address?",
    };
    let message = format!("HTTP {}: {said}: {cure}", answer.code);
    Err(CommandError::new(Exit::Failed, message))
}

fn table_of(workers: &[Value]) -> Rows {
    let head = [
        "worker",
        "circuit",
        "state",
        "since",
        "mode",
        "failures",
        "next probe",
        "waiting",
        "parked",
    ];
    let mut rows = Rows::headed(head);
    for worker in workers {
        for (circuit, it) in worker["circuits"].as_object().into_iter().flatten() {
            let wait = it["retry_in_seconds"].as_f64();
            let lane = Lane::ALL.into_iter().find(|lane| {
                let guard = lane.circuit();
                guard.is_some_and(|guard| guard.as_str() == circuit)
            });
            let lane = lane.map_or(&Value::Null, |lane| &worker["lanes"][lane.as_str()]);
            let jobs = |name: &str| {
                lane[name]
                    .as_u64()
                    .map_or_else(String::new, |jobs| jobs.to_string())
            };
            rows.add([
                name_of(worker).to_owned(),
                circuit.clone(),
                it["state"].as_str().unwrap_or_default().to_owned(),
                time_of(&it["since"]),
                it["mode"].as_str().unwrap_or_default().to_owned(),
                it["consecutive_failures"].to_string(),
                wait.map_or_else(String::new, |seconds| format!("in {seconds} s")),
                jobs("queue_ready"),
                jobs("parked"),
            ]);
        }
    }
    rows
}

fn name_of(worker: &Value) -> &str {
    let name = worker["worker"].as_str().or(worker["url"].as_str());
    name.unwrap_or_default()
}

/// A worker's time in whole seconds.
fn time_of(time: &Value) -> String {
    let time = time.as_str().and_then(Timestamp::parse_rfc3339);
    time.map_or_else(String::new, |time| format!("{time:.0}"))
}

/// What S3 answered last, a line a circuit that is not closed; one that is held by an operator has no cause in S3.
fn causes(workers: &[Value]) -> Vec<String> {
    let mut causes = Vec::new();
    for worker in workers {
        for (circuit, it) in worker["circuits"].as_object().into_iter().flatten() {
            let last = &it["last_failure"];
            if it["state"] == "closed" || it["mode"] == "force_open" || last.is_null() {
                continue;
            }
            let text = |name: &str| last[name].as_str().unwrap_or("?");
            causes.push(format!(
                "{} {circuit}: last failure at {}: {}, {} to {} in bucket {} at {}: {}",
                name_of(worker),
                time_of(&last["at"]),
                text("class"),
                text("code"),
                text("operation"),
                text("bucket"),
                text("endpoint"),
                text("message"),
            ));
        }
    }
    causes
}

/// The jobs of lanes without a circuit, where there are any: such a lane goes on while S3 is away, and parks.
fn unguarded(workers: &[Value]) -> Vec<String> {
    let mut lines = Vec::new();
    for worker in workers {
        for lane in Lane::ALL.iter().filter(|lane| lane.circuit().is_none()) {
            let jobs = |name: &str| worker["lanes"][lane.as_str()][name].as_u64().unwrap_or(0);
            let (waiting, parked) = (jobs("queue_ready"), jobs("parked"));
            if waiting + parked > 0 {
                lines.push(format!(
                    "{} lane {lane}: it has no circuit; {waiting} jobs wait, {parked} are parked",
                    name_of(worker)
                ));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_url_has_a_port_and_no_path() {
        assert_eq!(parse_url("http://h:9464/").as_deref(), Ok("h:9464"));
        assert_eq!(parse_url("http://[::1]:9464").as_deref(), Ok("[::1]:9464"));
        for bad in [
            "h:9464",
            "https://h:9464",
            "http://h",
            "http://h:1/x",
            "http://u@h:1",
        ] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cause_is_told_of_a_circuit_that_failures_hold_open_and_parked_deletes_are_not_forgotten() {
        let last = json!({"at": "2026-11-24T23:31:02.5Z", "class": "unavailable", "code": "SlowDown",
            "message": "slower", "endpoint": "http://s3", "operation": "put_object", "bucket": "b"});
        let circuit =
            |state: &str, mode: &str| json!({"state": state, "mode": mode, "last_failure": last});
        let workers = |circuit: Value| {
            [json!({"worker": "w", "circuits": {"upload": circuit},
                "lanes": {"cleanup": {"queue_ready": 0, "parked": 7}}})]
        };
        let said = "w upload: last failure at 2026-11-24T23:31:02Z: unavailable, SlowDown to put_object \
                    in bucket b at http://s3: slower";
        assert_eq!(causes(&workers(circuit("open", "auto"))), [said]);
        assert_eq!(causes(&workers(circuit("half_open", "auto"))), [said]);
        for (state, mode) in [("closed", "auto"), ("open", "force_open")] {
            assert!(causes(&workers(circuit(state, mode))).is_empty());
        }
        let unguarded = unguarded(&workers(circuit("open", "auto")));
        assert_eq!(unguarded.len(), 1);
        assert!(unguarded[0].contains("7 are parked"), "{unguarded:?}");
    }

    #[test]
    fn a_worker_that_listens_everywhere_is_asked_on_loopback() {
        let of = |listen: &str| authority(listen.parse().unwrap());
        assert_eq!(of("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(of("[::]:9464"), "[::1]:9464");
        assert_eq!(of("10.1.2.3:80"), "10.1.2.3:80");
    }
}
