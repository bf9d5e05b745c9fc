//! S3 as one worker sees it: objects that all share, the weather of the schedule, and a look at each call.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{chance::Chance, fault::Weather, mark::Mark};
use crate::{
    job::{Lane, State},
    storage::respond::{Asked, Respond, Turn},
};

/// How long a slow answer takes; below the time-out of an attempt.
const SLOW: Duration = Duration::from_secs(8);

#[derive(Debug)]
pub(super) struct SimStore {
    pub(super) mark: Arc<Mark>,
    /// A request takes so long at most, in milliseconds.
    pub(super) latency: u64,
}

/// A request, as far as it matters here.
struct Call {
    lane: Lane,
    /// Whose; several for one that carries keys of many.
    jobs: Vec<String>,
    keys: Vec<String>,
    asked: Asked,
}

/// A call on its way.
struct OnItsWay {
    mark: Arc<Mark>,
    number: u64,
    /// What was done, while its answer has not arrived: whoever called may have let go of it.
    owes: Vec<String>,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.mark.with(|held| held.calls.remove(&self.number));
        for id in &self.owes {
            self.mark.world.facts(id, |facts| facts.unanswered += 1);
        }
    }
}

impl Respond for SimStore {
    fn respond(&self, asked: Asked) -> BoxFuture<'static, Turn> {
        let mark = Arc::clone(&self.mark);
        let call = Call::read(asked);
        let id = call.jobs.first().cloned().unwrap_or_default();
        let nth = mark.world.facts(&id, |facts| {
            facts.calls += 1;
            facts.calls
        });
        if mark.is_dead() {
            return Box::pin(std::future::pending());
        }
        let mut generation = 0;
        mark.check_circuit(call.lane, &id, &mut generation);
        call.check_leases(&mark);
        let weather = weather(&mark, call.lane, &id, nth);
        let number = mark.with(|held| {
            let number = held.number();
            held.calls
                .insert(number, (call.lane, id.clone(), generation));
            number
        });
        let mut on_its_way = OnItsWay {
            mark: Arc::clone(&mark),
            number,
            owes: Vec::new(),
        };
        let mut chance = Chance::of(mark.world.seed, &id, nth ^ 0xffff);
        let latency = Duration::from_millis(chance.between(0, self.latency));
        mark.say(format_args!(
            "S3 {} {}{}",
            call.asked.method,
            call.asked.target,
            weather.map(|it| format!(" ({it:?})")).unwrap_or_default()
        ));
        Box::pin(async move {
            mark.before().await;
            tokio::time::sleep(latency / 2).await;
            let has_effect = matches!(
                weather,
                None | Some(Weather::IsSlow | Weather::LosesAnswers)
            );
            let answer = has_effect.then(|| call.take_effect(&mark));
            if answer.is_some() {
                on_its_way.owes.clone_from(&call.jobs);
            }
            let rest = if weather == Some(Weather::IsSlow) {
                SLOW
            } else {
                latency / 2
            };
            tokio::time::sleep(rest).await;
            mark.after().await;
            match (weather, answer) {
                (None | Some(Weather::IsSlow), Some(answer)) => {
                    on_its_way.owes.clear();
                    answer
                }
                (weather, _) => ill(weather, call.asked.method == "HEAD"),
            }
        })
    }
}

/// What the weather makes of this call.
fn weather(mark: &Mark, lane: Lane, id: &str, nth: u64) -> Option<Weather> {
    let state = mark.world.state();
    let mut active = state.weather.iter();
    active.find_map(|(event, (weather, of, permille))| {
        let concerns = of.is_none_or(|of| of == lane);
        let salt = nth.wrapping_mul(31) ^ *event as u64;
        let hit = Chance::of(mark.world.seed, id, salt).permille(*permille);
        (concerns && hit).then_some(*weather)
    })
}

impl Call {
    fn read(asked: Asked) -> Self {
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let key = path
            .trim_start_matches('/')
            .split_once('/')
            .map_or("", |(_, key)| key);
        let prefix = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("prefix="));
        let keys: Vec<String> = match asked.method.as_str() {
            "POST" => {
                let keys = asked.body.split("<Key>").skip(1);
                keys.filter_map(|rest| rest.split_once("</Key>"))
                    .map(|(key, _)| key.to_owned())
                    .collect()
            }
            _ => vec![prefix.unwrap_or(key).to_owned()],
        };
        let lane = match asked.method.as_str() {
            _ if keys.iter().any(|key| key.starts_with('u')) => Lane::Upload,
            "POST" | "DELETE" => Lane::Cleanup,
            _ => Lane::Read,
        };
        let jobs: BTreeSet<String> = keys.iter().map(|key| job_of(key)).collect();
        Self {
            lane,
            jobs: jobs.into_iter().collect(),
            keys,
            asked,
        }
    }

    /// A job that is not its worker's, or has ended, must not be called for.
    fn check_leases(&self, mark: &Mark) {
        let world = &mark.world;
        if world.leases_are_doubtful() {
            return;
        }
        let now = world.ledger.now();
        for id in &self.jobs {
            let Some(row) = world.row(id) else {
                world.broken(
                    "call without lease",
                    format!("{} calls S3 for {id}, which has no row", mark.name),
                );
                continue;
            };
            let is_rerun = row.state == State::Completed && self.lane == Lane::Read;
            let is_ours = row.state == State::Running
                && row.worker.as_deref() == Some(&*mark.name)
                && row.leased_until.is_some_and(|until| now < until);
            if row.state.is_final() && !is_rerun {
                let text = format!("{} calls S3 for {id}, which is {:?}", mark.name, row.state);
                world.broken("effect after its end", text);
            } else if !is_ours && !is_rerun {
                let text = format!(
                    "{} calls S3 for {id}, which is {:?} of {:?} until {:?}, now {now}",
                    mark.name, row.state, row.worker, row.leased_until
                );
                world.broken("call without lease", text);
            }
        }
    }

    /// What S3 does, and how it answers when all is well.
    fn take_effect(&self, mark: &Mark) -> Turn {
        let world = &mark.world;
        let key = self.keys.first().cloned().unwrap_or_default();
        let id = job_of(&key);
        match self.asked.method.as_str() {
            "PUT" => {
                if self.asked.is_conditional && world.state().objects.contains_key(&key) {
                    return error(412, "PreconditionFailed", false);
                }
                world.state().objects.insert(key, id.clone());
                world.facts(&id, |facts| facts.effects += 1);
                Turn::Answer(200, with_id(&[("etag", "\"e\"")]), String::new())
            }
            "HEAD" => {
                let owner = world.state().objects.get(&key).cloned();
                let is_there = owner.is_some() || (self.lane == Lane::Read && !key.ends_with('7'));
                if !is_there {
                    return Turn::Answer(404, with_id(&[]), String::new());
                }
                let owner = owner.unwrap_or_default();
                let headers = [
                    ("etag", "\"e\""),
                    ("content-length", "5"),
                    ("x-amz-meta-brigade-job", owner.as_str()),
                ];
                Turn::Answer(200, with_id(&headers), String::new())
            }
            "GET" if self.asked.target.contains("list-type") => {
                let xml = format!(
                    "<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated><KeyCount>1</KeyCount><Contents><Key>{key}.a</Key><Size>1</Size></Contents></ListBucketResult>"
                );
                Turn::Answer(200, with_id(&[]), xml)
            }
            "GET" if key.ends_with('7') => error(404, "NoSuchKey", false),
            "GET" => Turn::Answer(200, with_id(&[("etag", "\"e\"")]), "hello".to_owned()),
            "POST" => {
                let deleted = self.keys.iter();
                let deleted: String = deleted
                    .map(|key| format!("<Deleted><Key>{key}</Key></Deleted>"))
                    .collect();
                let xml = format!("<DeleteResult>{deleted}</DeleteResult>");
                Turn::Answer(200, with_id(&[]), xml)
            }
            _ => Turn::Answer(204, with_id(&[]), String::new()),
        }
    }
}

/// A key is its job's id, and perhaps a number after a dot.
fn job_of(key: &str) -> String {
    key.split('.').next().unwrap_or_default().to_owned()
}

fn with_id(headers: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let id = ("x-amz-request-id", "REQ1");
    let headers = headers.iter().chain([&id]);
    headers
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect()
}

fn error(status: u16, code: &str, is_head: bool) -> Turn {
    let xml = format!("<Error><Code>{code}</Code><Message>so it is</Message></Error>");
    let body = if is_head { String::new() } else { xml };
    Turn::Answer(status, with_id(&[]), body)
}

fn ill(weather: Option<Weather>, is_head: bool) -> Turn {
    let Some(weather) = weather else {
        return Turn::Silence;
    };
    match weather {
        Weather::Throttles => error(503, "SlowDown", is_head),
        Weather::ThrottlesWithHint => match error(503, "SlowDown", is_head) {
            Turn::Answer(status, mut headers, body) => {
                headers.push(("retry-after", "3".to_owned()));
                Turn::Answer(status, headers, body)
            }
            other => other,
        },
        Weather::Fails => error(500, "InternalError", is_head),
        Weather::Resets | Weather::LosesAnswers => Turn::Reset,
        Weather::IsSilent | Weather::IsSlow => Turn::Silence,
        Weather::NoConnection => Turn::NoConnection,
        Weather::Conflicts => error(409, "OperationAborted", is_head),
        Weather::Expired => error(403, "ExpiredToken", is_head),
        Weather::Denies => error(403, "AccessDenied", is_head),
        Weather::NoBucket => error(404, "NoSuchBucket", is_head),
        Weather::Stranger => page(404, is_head),
        Weather::Lies => page(200, is_head),
        Weather::Panics => Turn::Panic,
    }
}

fn page(status: u16, is_head: bool) -> Turn {
    let body = if is_head { "" } else { "<html>Welcome</html>" };
    let headers = vec![("content-type", "text/html".to_owned())];
    Turn::Answer(status, headers, body.to_owned())
}
