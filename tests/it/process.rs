//! A real worker process: started, signalled, killed, measured.

use std::{
    io::{PipeReader, Write},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::fs::{OFlags, fcntl_setfl};

#[cfg(feature = "failpoints")]
use bucket_brigade::job::Lane;

use crate::stage::{Stage, eventually};

/// A `brigade worker` that is killed with the test.
pub(crate) struct WorkerProcess {
    child: Child,
    log: PathBuf,
}

impl WorkerProcess {
    /// Starts one with these settings; its log goes to the file.
    pub(crate) fn start(settings: &[(String, String)], keys: (&str, &str), log: PathBuf) -> Self {
        Self::spawn(command(settings, keys), log)
    }

    /// Starts one with these variables too.
    pub(crate) fn start_with(
        settings: &[(String, String)],
        keys: (&str, &str),
        variables: &[(&str, &str)],
        log: PathBuf,
    ) -> Self {
        let mut command = command(settings, keys);
        command.envs(variables.iter().copied());
        Self::spawn(command, log)
    }

    /// Starts one on one lane in which that variable arms a crash point.
    #[cfg(feature = "failpoints")]
    pub(crate) fn start_armed(
        settings: &[(String, String)],
        keys: (&str, &str),
        log: PathBuf,
        lane: &str,
        (variable, point): (&str, &str),
    ) -> Self {
        let mut command = command(settings, keys);
        command.args(["--lanes", lane]);
        command.env(variable, point);
        Self::spawn(command, log)
    }

    fn spawn(command: Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).unwrap();
        Self::spawn_on(command, file, log)
    }

    fn spawn_on(mut command: Command, stderr: impl Into<Stdio>, log: PathBuf) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for the end; the exit code.
    pub(crate) async fn wait(&mut self) -> Option<i32> {
        self.ended().await.code()
    }

    /// Waits for the end; the signal that was it.
    #[cfg(feature = "failpoints")]
    pub(crate) async fn wait_for_signal(&mut self) -> Option<i32> {
        std::os::unix::process::ExitStatusExt::signal(&self.ended().await)
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    async fn ended(&mut self) -> ExitStatus {
        eventually("the worker process ends", async || {
            self.child.try_wait().unwrap()
        })
        .await
    }

    /// What the system says of it in that file of `/proc`.
    pub(crate) fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// User and system time so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on every Linux that Rust runs on.
        Duration::from_millis(ticks * 10)
    }
}

/// The exit status of a process that ends within `patience`; a slower one still runs.
pub(crate) fn ended_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let began = std::time::Instant::now();
    loop {
        let ended = child.try_wait().unwrap();
        if ended.is_some() || began.elapsed() > patience {
            return ended;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Stage {
    /// A real worker process.
    pub(crate) fn process(&self) -> WorkerProcess {
        let log = self
            .directory
            .path()
            .join(format!("worker-{:x}.log", fastrand::u32(..)));
        WorkerProcess::start(&self.pairs(), self.s3.keys(), log)
    }

    /// A real worker process whose standard error is a pipe that is full. Nobody reads it while the reader is held.
    pub(crate) fn unread_process(&self) -> (WorkerProcess, PipeReader) {
        let (reader, mut writer) = std::io::pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        while writer.write(&[b'.'; 4096]).is_ok() {}
        fcntl_setfl(&writer, OFlags::empty()).unwrap();
        let command = command(&self.pairs(), self.s3.keys());
        let worker = WorkerProcess::spawn_on(command, writer, PathBuf::new());
        (worker, reader)
    }

    /// A real worker process on one lane that dies at a crash point, given as `NAME:HITS`.
    #[cfg(feature = "failpoints")]
    pub(crate) fn armed_process(&self, lane: Lane, crash_at: &str) -> WorkerProcess {
        self.armed(lane, ("BRIGADE_TEST_CRASH_AT", crash_at))
    }

    /// One in which a task panics there.
    #[cfg(feature = "failpoints")]
    pub(crate) fn panicking_process(&self, lane: Lane, panic_at: &str) -> WorkerProcess {
        self.armed(lane, ("BRIGADE_TEST_PANIC_AT", panic_at))
    }

    #[cfg(feature = "failpoints")]
    fn armed(&self, lane: Lane, point: (&str, &str)) -> WorkerProcess {
        let log = self.directory.path().join("armed.log");
        WorkerProcess::start_armed(&self.pairs(), self.s3.keys(), log, lane.as_str(), point)
    }
}

fn command(settings: &[(String, String)], keys: (&str, &str)) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brigade"));
    command.env_clear().arg("worker");
    for (key, value) in settings {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command
        .env("AWS_ACCESS_KEY_ID", keys.0)
        .env("AWS_SECRET_ACCESS_KEY", keys.1);
    command
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- worker log ---\n{}", self.log());
        }
    }
}
