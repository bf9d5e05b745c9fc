//! Ways out of the folders that the operator allows: none gets through, and each has its code.

use std::{
    fs,
    io::Write,
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use super::*;
use crate::job::place::Origin;

pub(super) const FORBIDDEN: &str = "forbidden_source";

pub(super) fn rules(roots: Vec<PathBuf>, hosts: &[&str], private: bool) -> SourceRules {
    let origins = hosts.iter().map(|host| Origin::parse(host).unwrap());
    SourceRules {
        file_roots: Roots::new("sources.file_roots", roots),
        url_hosts: Origins::new(origins.collect()),
        allow_private_addresses: private,
        max_bytes: 1 << 20,
    }
}

pub(super) async fn code(sources: &Sources, source: SourceRef) -> String {
    match sources.open(&source).await {
        Ok(_) => format!("{source:?} GOT THROUGH"),
        Err(failure) => {
            assert!(!failure.called, "{source:?}: a source is no call of S3");
            failure.code
        }
    }
}

/// A root with a good file, and a secret beside it.
fn stage() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::write(root.join("good"), "good").unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    fs::create_dir(folder.path().join("root-twin")).unwrap();
    fs::write(folder.path().join("root-twin/secret"), "secret").unwrap();
    (folder, root)
}

#[tokio::test]
async fn no_path_leads_out_of_a_root_or_to_anything_but_a_file() {
    let (folder, root) = stage();
    let out = folder.path();
    let link = |target: &Path, name: &str| symlink(target, root.join(name)).unwrap();
    link(&out.join("secret"), "absolute");
    link(Path::new("../secret"), "relative");
    link(Path::new("sub/../../secret"), "roundabout");
    link(Path::new("relative"), "chain");
    link(out, "folder");
    link(Path::new(".."), "up");
    link(Path::new("/"), "slash");
    link(Path::new("/proc/self/root"), "proc_root");
    link(Path::new("/proc/self/environ"), "environ");
    link(Path::new("/proc/self/fd/0"), "stdin");
    link(Path::new("/dev/zero"), "zero");
    link(Path::new("loop"), "loop");
    link(&root.join("good"), "absolute_inside");
    link(Path::new("gone"), "dangling");
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();

    let sources = Sources::new(rules(
        vec![root.clone(), "/proc/self".into(), "/dev".into()],
        &[],
        false,
    ));
    let rows = [
        ("absolute", FORBIDDEN),
        ("relative", FORBIDDEN),
        ("roundabout", FORBIDDEN),
        ("chain", FORBIDDEN),
        ("folder/secret", FORBIDDEN),
        ("up/secret", FORBIDDEN),
        ("slash/etc/passwd", FORBIDDEN),
        ("proc_root/etc/passwd", FORBIDDEN),
        ("environ", FORBIDDEN),
        ("stdin", FORBIDDEN),
        ("zero", FORBIDDEN),
        ("loop", FORBIDDEN),
        ("absolute_inside", FORBIDDEN),
        ("dangling", "source_not_found"),
        ("../secret", FORBIDDEN),
        ("../root-twin/secret", FORBIDDEN),
        ("sub/../../secret", FORBIDDEN),
        ("sub/..", FORBIDDEN),
        (".", FORBIDDEN),
        ("", FORBIDDEN),
        ("sub", "source_not_a_file"),
        ("pipe", "source_not_a_file"),
        ("socket", "source_not_a_file"),
        ("none", "source_not_found"),
        ("good/more", "source_not_found"),
        ("..%2fsecret", "source_not_found"),
        ("..\\secret", "source_not_found"),
    ];
    for (name, expected) in rows {
        let path = root.join(name);
        assert_eq!(
            code(&sources, SourceRef::File(path)).await,
            expected,
            "{name:?}"
        );
    }
    let long = format!("{}/{}", root.display(), "x".repeat(300));
    for (path, expected) in [
        ("/etc/passwd", FORBIDDEN),
        (&*out.join("secret").to_string_lossy(), FORBIDDEN),
        (&*out.join("root-twin/secret").to_string_lossy(), FORBIDDEN),
        ("good", FORBIDDEN),
        ("//etc/passwd", FORBIDDEN),
        ("/proc/self/environ", FORBIDDEN),
        ("/proc/self/root/etc/passwd", FORBIDDEN),
        ("/proc/self/cwd/Cargo.toml", FORBIDDEN),
        ("/proc/self/exe", FORBIDDEN),
        ("/dev/zero", "source_not_a_file"),
        ("/dev/null", "source_not_a_file"),
        ("/dev/stdin", FORBIDDEN),
        ("/dev/fd/0", FORBIDDEN),
        (&long, "source_not_found"),
    ] {
        assert_eq!(
            code(&sources, SourceRef::File(path.into())).await,
            expected,
            "{path:?}"
        );
    }
    symlink("good", root.join("inside")).unwrap();
    let mut inside = sources
        .open(&SourceRef::File(root.join("inside")))
        .await
        .unwrap();
    assert_eq!(inside.read_part(100).await.unwrap(), "good");
    let off = Sources::new(SourceRules::nothing());
    assert_eq!(
        code(&off, SourceRef::File(root.join("good"))).await,
        FORBIDDEN
    );
}

#[tokio::test]
async fn a_root_that_is_gone_is_a_trouble_that_passes() {
    let sources = Sources::new(rules(vec!["/none/such".into()], &[], false));
    let Err(failure) = sources.open(&SourceRef::File("/none/such/a".into())).await else {
        panic!("it was opened")
    };
    assert_eq!(failure.class, FailureClass::Unavailable);
    assert_eq!(failure.verdict(), crate::job::failure::Verdict::Neutral);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_a_folder_for_a_link_never_leads_out() {
    let (folder, root) = stage();
    fs::write(root.join("sub/file"), "good").unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "secret").unwrap();
    symlink(&outside, root.join("link")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swaps = Arc::new(AtomicU32::new(0));
    let swapper = tokio::task::spawn_blocking({
        let (root, stop, swaps) = (root.clone(), Arc::clone(&stop), Arc::clone(&swaps));
        move || {
            let (sub, link) = (root.join("sub"), root.join("link"));
            while !stop.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &sub, cwd, &link, exchange).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let sources = Sources::new(rules(vec![root.clone()], &[], false));
    let (mut opened, mut refused) = (0, 0);
    // Until both ways were met often enough; each is sure to come, as the swapper never rests.
    while opened < 200 || refused < 200 {
        match sources.open(&SourceRef::File(root.join("sub/file"))).await {
            Ok(mut source) => {
                assert_eq!(source.read_part(100).await.unwrap(), "good");
                opened += 1;
            }
            Err(failure) => {
                assert!(
                    [FORBIDDEN, "source_unreadable"].contains(&failure.code.as_str()),
                    "{failure}"
                );
                refused += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapper.await.unwrap();
    assert!(swaps.load(Ordering::Relaxed) > 400);
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    fs::File::create(&file)
        .unwrap()
        .write_all(&vec![0; (1 << 20) + 1])
        .unwrap();
    let sources = Sources::new(rules(vec![folder.path().to_owned()], &[], false));
    assert_eq!(
        code(&sources, SourceRef::File(file)).await,
        "source_too_large"
    );
}
