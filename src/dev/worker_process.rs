//! A `brigade worker` of its own process for the demo: started with settings, watched over HTTP, ended by
//! SIGTERM, and killed if its owner goes away first.

use std::{fs::File, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::http::client;

/// How long a worker may take to become ready, or to answer.
const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);

/// A running worker.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    child: Child,
    pid: u32,
    http: SocketAddr,
    log: PathBuf,
}

impl WorkerProcess {
    /// Starts `brigade worker` with the variables in `settings`; its log goes to the file `log`.
    pub(super) fn start(
        settings: &[(String, String)],
        http: SocketAddr,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own path")?;
        let output = File::create(&log).with_context(|| format!("{}", log.display()))?;
        let child = Command::new(program)
            .arg("worker")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .env("BRIGADE_HTTP__LISTEN", http.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            // Ctrl-C at the terminal is the demo's to hear; it ends the worker in its own time.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("the worker can't be started")?;
        let pid = child.id().context("the worker ended at once")?;
        Ok(Self {
            child,
            pid,
            http,
            log,
        })
    }

    /// Waits until `/readyz` says 200.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + START;
        let mut last = String::new();
        while tokio::time::Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("the worker ended with {status}:\n{}", self.log_tail());
            }
            match client::get(&self.http.to_string(), "/readyz", ANSWER).await {
                Ok(answer) if answer.code == 200 => return Ok(()),
                Ok(answer) => last = answer.json()["reasons"].to_string(),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!(
            "the worker is not ready after {START:?}: {last}\n{}",
            self.log_tail()
        )
    }

    /// `/api/status`.
    pub(super) async fn status(&self) -> anyhow::Result<Value> {
        let answer = client::get(&self.http.to_string(), "/api/status", ANSWER).await;
        Ok(answer.context("the worker does not answer")?.json())
    }

    /// The most memory that the worker has held so far, in bytes; `None` where the system doesn't say.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// SIGTERM, then waits for the drain; the exit code is an error when it is not 0.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pid = pid.context("the worker has no process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("the worker can't be told to stop")?;
        let status = tokio::time::timeout(START, self.child.wait()).await;
        match status.context("the worker does not stop")?? {
            status if status.success() => Ok(()),
            status => bail!("the worker ended with {status}:\n{}", self.log_tail()),
        }
    }

    /// The end of the worker's log.
    pub(super) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
