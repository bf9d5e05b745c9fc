//! The image builds. Its `Dockerfile` is read and its build steps are run, as far as a machine without Docker can:
//! `COPY` takes only what `.dockerignore` lets through, `RUN` runs in the stage's own folder, with the debug profile.
//!
//! A stage's file system is a folder, and only the stage's `WORKDIR` is real to what runs, so `RUN` steps must keep to
//! relative paths. The base images are not pulled: the compiler is that of the test.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::process::ended_within;

/// A build of everything from nothing takes a few minutes of two cores; a hung one must not hang the tests.
const PATIENCE: Duration = Duration::from_secs(900);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The patterns of `.dockerignore`, as the builder reads them: the last that matches a path or a folder above it decides.
struct Ignore(Vec<(bool, Vec<String>)>);

impl Ignore {
    fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pattern = |line: &str| {
            let (ignores, line) = match line.strip_prefix('!') {
                Some(rest) => (false, rest),
                None => (true, line),
            };
            let parts = line.trim_matches('/').split('/');
            (ignores, parts.map(str::to_owned).collect())
        };
        Self(lines.map(pattern).collect())
    }

    fn ignores(&self, path: &Path) -> bool {
        let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
        let mut ignored = false;
        for (ignores, pattern) in &self.0 {
            let covers = (1..=parts.len()).any(|n| matches(pattern, &parts[..n]));
            if covers {
                ignored = *ignores;
            }
        }
        ignored
    }

    /// Whether something beneath an ignored folder may be let through.
    fn may_hold(&self, folder: &Path) -> bool {
        let folder = folder.to_str().unwrap();
        self.0.iter().any(|(ignores, pattern)| {
            let pattern = pattern.join("/");
            !ignores && (pattern.starts_with(&format!("{folder}/")) || pattern.starts_with("**"))
        })
    }
}

/// Part by part; `**` is any number of parts.
fn matches(pattern: &[String], parts: &[&str]) -> bool {
    match (pattern.split_first(), parts.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            (0..=parts.len()).any(|n| matches(rest, &parts[n..]))
        }
        (Some((first, rest)), Some((part, others))) => {
            is_like(first.as_bytes(), part.as_bytes()) && matches(rest, others)
        }
        _ => false,
    }
}

/// One part; `*` is any text, `?` any character.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|n| is_like(rest, &text[n..])),
        (Some((b'?', rest)), Some((_, others))) => is_like(rest, others),
        (Some((a, rest)), Some((b, others))) => a == b && is_like(rest, others),
        _ => false,
    }
}

/// Copies what `.dockerignore` lets through.
fn context(to: &Path) {
    let ignore = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
    let ignore = Ignore::parse(&ignore);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let ignored = ignore.ignores(&path);
            if entry.file_type().unwrap().is_dir() {
                if !ignored || ignore.may_hold(&path) {
                    folders.push(path);
                }
            } else if !ignored {
                copy(&entry.path(), &to.join(&path));
            }
        }
    }
}

/// Copies a file, or what is in a folder. The times stay, as they do in a build.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
        return;
    }
    std::fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    let time = std::fs::metadata(from).unwrap().modified().unwrap();
    let file = std::fs::File::options().append(true).open(to).unwrap();
    file.set_modified(time).unwrap();
}

/// Instruction and arguments of each line, continued lines joined, comments left out.
fn instructions(dockerfile: &str) -> Vec<(String, String)> {
    let lines = dockerfile
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let (mut found, mut line) = (Vec::new(), String::new());
    for part in lines {
        match part.strip_suffix('\\') {
            Some(begun) => line.push_str(begun),
            None => {
                line.push_str(part);
                let whole = std::mem::take(&mut line);
                if let Some((name, rest)) = whole.trim().split_once(' ') {
                    found.push((name.to_owned(), rest.trim().to_owned()));
                }
            }
        }
    }
    found
}

/// One stage while it is built.
struct Stage {
    name: String,
    root: PathBuf,
    workdir: PathBuf,
    variables: BTreeMap<String, String>,
    entrypoint: Vec<String>,
}

impl Stage {
    /// Where a path of the image is on this machine.
    fn place(&self, path: &str) -> PathBuf {
        let path = self.workdir.join(path);
        assert!(
            !path.components().any(|part| part == Component::ParentDir),
            "{path:?}"
        );
        let path = path.strip_prefix("/").unwrap().to_owned();
        self.root.join(path)
    }

    fn copies(&self, arguments: &str, context: &Path, stages: &[Self]) {
        let (flags, paths): (Vec<&str>, Vec<&str>) = arguments
            .split_whitespace()
            .partition(|word| word.starts_with("--"));
        let from = flags.iter().find_map(|flag| flag.strip_prefix("--from="));
        let from = from.map(|name| {
            let stage = stages.iter().find(|stage| stage.name == name);
            stage.unwrap_or_else(|| panic!("COPY {arguments}: no stage {name}"))
        });
        let (to, sources) = paths.split_last().unwrap();
        for source in sources {
            let place = match from {
                Some(stage) => stage.place(source),
                None => context.join(source.trim_start_matches("./")),
            };
            assert!(
                place.exists(),
                "COPY {arguments}: {source} is not there: .dockerignore, or an earlier step, leaves it out"
            );
            let to_folder = to.ends_with('/') || *to == "." || sources.len() > 1;
            let target = match place.file_name() {
                Some(name) if place.is_file() && to_folder => self.place(to).join(name),
                _ => self.place(to),
            };
            copy(&place, &target);
        }
    }

    /// Runs a step with the compiler of this test. What cargo makes on the way is kept beside what the tests were built
    /// from, so that only what differs is built; what it hands out stays in the stage.
    fn runs(&self, script: &str) {
        for word in script.split([' ', '"', '\'', '=']) {
            assert!(
                !word.starts_with('/'),
                "RUN … {word}: an absolute path can't be tried here"
            );
        }
        let cargo = PathBuf::from(env!("CARGO"));
        let path = std::env::var("PATH").unwrap();
        let kept = Path::new(env!("CARGO_BIN_EXE_brigade"))
            .ancestors()
            .nth(2)
            .unwrap();
        let log = self.root.join("log");
        // The other tests run meanwhile, and some of them by the clock.
        let mut child = Command::new("nice")
            .args(["-n", "15", "sh", "-euc", script])
            .current_dir(self.place("."))
            .env_clear()
            .envs(&self.variables)
            .env(
                "PATH",
                format!("{}:{path}", cargo.parent().unwrap().display()),
            )
            .env("CARGO_BUILD_BUILD_DIR", kept)
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_NET_OFFLINE", "true")
            .envs(
                ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"]
                    .into_iter()
                    .filter_map(|name| Some((name, std::env::var(name).ok()?))),
            )
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let ended = ended_within(&mut child, PATIENCE);
        let said = std::fs::read_to_string(&log).unwrap();
        let ended = ended.unwrap_or_else(|| panic!("RUN {script} does not end:\n{said}"));
        assert!(ended.success(), "RUN {script}: {ended}\n{said}");
    }
}

/// The stages of the Dockerfile, built one after the other beneath `folder`.
fn build(folder: &Path) -> Vec<Stage> {
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let context_folder = folder.join("context");
    context(&context_folder);
    let mut stages: Vec<Stage> = Vec::new();
    for (name, rest) in instructions(&dockerfile) {
        if name == "FROM" {
            let (_, stage) = rest.split_once(" AS ").expect("every stage has a name");
            stages.push(Stage {
                name: stage.to_owned(),
                root: folder.join(stage),
                workdir: "/".into(),
                variables: BTreeMap::new(),
                entrypoint: Vec::new(),
            });
            continue;
        }
        let (stage, before) = stages
            .split_last_mut()
            .expect("the first instruction is FROM");
        match name.as_str() {
            "WORKDIR" => {
                stage.workdir = stage.workdir.join(rest);
                std::fs::create_dir_all(stage.place(".")).unwrap();
            }
            "ARG" => {
                let (name, default) = rest.split_once('=').unwrap();
                let value = if name == "PROFILE" { "dev" } else { default };
                stage.variables.insert(name.to_owned(), value.to_owned());
            }
            "ENV" => {
                let (name, value) = rest.split_once('=').unwrap();
                stage.variables.insert(name.to_owned(), value.to_owned());
            }
            "COPY" => stage.copies(&rest, &context_folder, before),
            "RUN" => stage.runs(&rest),
            "ENTRYPOINT" => stage.entrypoint = serde_json::from_str(&rest).unwrap(),
            "LABEL" | "USER" | "EXPOSE" | "STOPSIGNAL" | "HEALTHCHECK" | "CMD" => {}
            other => panic!("{other} {rest}: say here what it does"),
        }
    }
    stages
}

#[test]
fn the_image_builds_from_what_dockerignore_lets_through() {
    // Always the same folder: cargo names what it builds after the place, and would pile it up.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    let began = Instant::now();
    let stages = build(&folder);
    println!("built in {:?}", began.elapsed());
    for stage in stages.iter().filter(|stage| !stage.entrypoint.is_empty()) {
        let program = stage.place(&stage.entrypoint[0]);
        assert!(
            program.is_file(),
            "{}: {:?} is missing",
            stage.name,
            stage.entrypoint
        );
    }
    let worker = stages.iter().find(|stage| stage.name == "worker").unwrap();
    let data = worker.place("/var/lib/brigade");
    assert!(data.is_dir(), "the ledger's folder is missing");
    let brigade = worker.place(&worker.entrypoint[0]);
    let run = |arguments: &[&str]| {
        Command::new(&brigade)
            .env_clear()
            .args(arguments)
            .output()
            .unwrap()
    };
    let sound = run(&["config", "check"]);
    assert!(sound.status.success(), "{sound:?}");
    // What the image leaves out: the embedded S3 server, and whatever kills a worker for a test.
    assert_eq!(
        run(&["demo"]).status.code(),
        Some(64),
        "the demo is in the image"
    );
}

#[test]
fn dockerignore_is_read_as_the_builder_reads_it() {
    let ignore = Ignore::parse("# all\n*\n!src\n!a/b.sh\n**/*.tmp\n");
    for (path, ignored) in [
        ("Cargo.toml", true),
        ("src", false),
        ("src/lib.rs", false),
        ("src/deep/x.tmp", true),
        ("a", true),
        ("a/b.sh", false),
        ("a/c.sh", true),
        ("src2", true),
    ] {
        assert_eq!(ignore.ignores(Path::new(path)), ignored, "{path}");
    }
    assert!(ignore.may_hold(Path::new("a")) && !ignore.may_hold(Path::new("target")));
}
