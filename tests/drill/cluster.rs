//! Three nodes, three replicas a queue: one is killed or hangs, and the worker goes on with the others.
//!
//! Each S3 call takes 250 ms, so that the lane's 64 slots are what limits throughput, with two nodes as with
//! three.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use bucket_brigade::dev::s3_server::{Fault, Rule};
use lapin::{Connection, ConnectionProperties};
use tokio::time::sleep;

use crate::{
    drills::{FAULT_AT, mended},
    rabbit::Rabbit,
    scene::{Scene, Shown},
    stage::eventually,
    wire::Wire,
};

/// Every drill of these, in the order of the table.
pub(crate) const NAMES: [&str; 3] = ["cluster-kill-node", "cluster-kill-leader", "cluster-pause"];
/// Full throughput comes back within this, from the fault on.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

const CALL: Duration = Duration::from_millis(250);
/// How long a node is away, at least: the others must see it go before it is back.
const AWAY: Duration = Duration::from_secs(15);

pub(crate) async fn run(name: &str, jobs: usize) -> Shown {
    let cluster = Cluster::start(name);
    let mut wires = Vec::new();
    for node in &cluster.nodes {
        wires.push(Wire::to(node.address.clone()).await);
    }
    // Nobody but the cluster's own drop stops a node.
    let mut rabbit = Rabbit::shared();
    rabbit.url.clone_from(&cluster.nodes[0].url);
    let mut scene = Scene::over(rabbit, wires, jobs).await;
    scene.stage.s3.faults().add(Rule::new(Fault::Delay(CALL)));
    let leader = cluster.leader(&format!("{}.upload", scene.stage.prefix));
    let (used, victim) = match name {
        "cluster-kill-node" => ((leader + 1) % 3, (leader + 1) % 3),
        "cluster-kill-leader" => ((leader + 1) % 3, leader),
        // The hardest: the node that is in use leads the queue too.
        _ => (leader, leader),
    };
    scene
        .wires()
        .enumerate()
        .filter(|it| it.0 != used)
        .for_each(|it| it.1.cut());
    let worker = scene.stage.process();
    scene.until_share(FAULT_AT / 2).await;
    scene.wires().for_each(Wire::mend);
    scene.until_share(FAULT_AT).await;
    let before = scene.mean_rate();

    let (away, back) = match name {
        "cluster-pause" => ("pause", "resume"),
        _ => ("kill", "start"),
    };
    let began = Instant::now();
    cluster.script(away, victim);
    let full_after = scene.until_full(before).await;
    eprintln!(
        "  {before:.0} jobs/s before, then by the second: {}",
        scene.course(began)
    );
    sleep(AWAY.saturating_sub(began.elapsed())).await;
    cluster.script(back, victim);
    // The account is taken at another node: on 3.10 one that hung is restarted once it is back.
    let other = &cluster.nodes[(victim + 1) % 3].url;
    scene.stage.rabbit.url.clone_from(other);
    cluster.until_whole().await;
    mended(scene, full_after, vec![worker]).await
}

struct Cluster {
    directory: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    /// As RabbitMQ calls it.
    name: String,
    url: String,
    /// `host:port`.
    address: String,
}

impl Cluster {
    fn start(name: &str) -> Self {
        let nodes = std::env::var("RABBITMQ_NODES");
        let nodes = nodes.expect("RABBITMQ_NODES is not set: run the drills with `make drill`");
        let directory = PathBuf::from(nodes).join(format!("{name}-{:x}", fastrand::u32(..)));
        let urls = script(&["cluster", directory.to_str().unwrap()]);
        let node = |(at, url): (usize, &str)| {
            let file = directory.join((at + 1).to_string()).join("node");
            let about = std::fs::read_to_string(file).unwrap();
            let name = about.lines().find_map(|line| line.strip_prefix("name="));
            Node {
                name: name.unwrap().to_owned(),
                url: url.to_owned(),
                address: url.split(['@', '/']).nth(3).unwrap().to_owned(),
            }
        };
        let nodes = urls.trim().split(',').enumerate().map(node).collect();
        Self { directory, nodes }
    }

    /// A command of `scripts/rabbitmq` for the node of that index.
    fn script(&self, verb: &str, node: usize) {
        let directory = self.directory.join((node + 1).to_string());
        script(&[verb, directory.to_str().unwrap()]);
    }

    /// The index of the node that leads the queue.
    fn leader(&self, queue: &str) -> usize {
        let first = self.directory.join("1");
        let list = ["--silent", "list_queues", "name", "leader"];
        let rows = script(&[&["ctl", first.to_str().unwrap()][..], &list].concat());
        let leader = rows
            .lines()
            .find_map(|row| row.strip_prefix(queue)?.strip_prefix('\t'));
        let leader = leader
            .unwrap_or_else(|| panic!("no {queue} in {rows}"))
            .trim();
        let named = self.nodes.iter().position(|node| node.name == leader);
        named.unwrap_or_else(|| panic!("{leader} is none of ours"))
    }

    /// Waits until every node takes connections.
    async fn until_whole(&self) {
        for node in &self.nodes {
            eventually("the node takes connections", async || {
                let connecting = Connection::connect(&node.url, ConnectionProperties::default());
                let connection = tokio::time::timeout(Duration::from_secs(5), connecting);
                let connection = connection.await.ok()?.ok()?;
                connection.close(200, "done".into()).await.ok()
            })
            .await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");
        for node in 1..=3 {
            let directory = self.directory.join(node.to_string());
            drop(Command::new(script).arg("kill").arg(directory).output());
        }
    }
}

fn script(arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");
    let done = Command::new(script).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{arguments:?}: {error}");
    String::from_utf8(done.stdout).unwrap()
}
