//! Files and URLs end to end: what the operator allows happens, and all else has its reason.

use std::fs;

use bucket_brigade::{
    dev::s3_server::{Fault, Rule, S3Operation},
    job::{Lane, State},
};
use serde_json::{Value, json};

use crate::{
    cli::{json as json_of, run, text},
    stage::{self, Stage},
};

/// A stage whose workers may write beneath the test's own folder.
async fn stage_with_folder() -> (Stage, String) {
    let stage = Stage::new().await;
    let folder = stage.folder();
    (stage.set("destinations.file_roots", &folder), folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_read_into_a_file_and_the_result_names_it() {
    let (mut stage, folder) = stage_with_folder().await;
    let worker = stage.worker().await;
    stage.until_consuming(&worker).await;
    stage.request(Lane::Upload, stage::put("put", "k")).await;
    let path = format!("{folder}/out");
    let get = [
        "enqueue", "get", "s3://b/k", "--to", &path, "--id", "get", "--wait", "--output", "json",
    ];
    let report = json_of(&run(&stage, &get).await);
    assert_eq!(report["outcome"], "completed", "{report}");
    assert_eq!(report["result"]["file"], path);
    assert_eq!(fs::read_to_string(&path).unwrap(), "text of k");

    // Finished is finished: what became of the file since is nobody's business.
    fs::remove_file(&path).unwrap();
    let again = json_of(&run(&stage, &get).await);
    assert_eq!(again["result"]["file"], path);
    assert!(!fs::exists(&path).unwrap());

    let none = run(
        &stage,
        &["enqueue", "get", "s3://b/none", "--to", &path, "--wait"],
    )
    .await;
    assert_eq!(none.status.code(), Some(1), "{}", text(&none.stderr));
    assert!(!fs::exists(&path).unwrap());
    worker.drain(stage::PATIENCE).await;
    stage.published.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_not_allowed_is_a_dead_letter_that_names_the_setting() {
    let (mut stage, folder) = stage_with_folder().await;
    std::os::unix::fs::symlink("/tmp", format!("{folder}/link")).unwrap();
    let worker = stage.worker().await;
    let get = |file: String| {
        json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k",
            "destination": {"file": file}})
    };
    let upload = |source: Value| json!({"version": 1, "operation": "upload_fileobj", "bucket": "b", "key": "k", "source": source});
    let rows = [
        (
            "seen",
            Lane::Read,
            get("/etc/cron.d/x".to_owned()),
            "destinations.file_roots",
        ),
        (
            "found",
            Lane::Read,
            get(format!("{folder}/link/x")),
            "destinations.file_roots",
        ),
        (
            "file",
            Lane::Upload,
            upload(json!({"file": "/etc/passwd"})),
            "sources.file_roots",
        ),
        (
            "url",
            Lane::Upload,
            upload(json!({"url": "http://169.254.169.254/"})),
            "sources.url_hosts",
        ),
    ];
    for (id, lane, job, _) in &rows {
        stage.publish(*lane, stage::message(id, job)).await;
    }
    for (id, lane, _, setting) in rows {
        let letter = stage::eventually("the letter is there", async || {
            let letters = stage.dead(lane).await;
            letters
                .into_iter()
                .find(|letter| letter.message_id.as_deref() == Some(id))
        })
        .await;
        assert_eq!(
            letter.text("brigade-reason"),
            Some("forbidden_source"),
            "{id}"
        );
        assert_eq!(
            letter.text("brigade-error-code"),
            Some("forbidden_source"),
            "{id}"
        );
        let error = letter.text("brigade-error").unwrap_or_default();
        assert!(error.contains(setting), "{id}: {error}");
    }
    // What only shows itself later has a row; what the message shows has none.
    assert_eq!(stage.until("found", State::DeadLettered).await.attempts, 0);
    assert_eq!(stage.rows().await.len(), 1);
    assert_eq!(stage.s3.journal().total(), 0);
    worker.drain(stage::PATIENCE).await;
    let totals = stage.total_queue_check().await;
    assert_eq!((totals.dead, totals.lost), (4, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_cut_at_ten_random_places_is_whole_and_nothing_is_fetched_twice() {
    const SIZE: u64 = 64 << 20;
    const CUTS: u64 = 10;
    let (stage, folder) = stage_with_folder().await;
    // Cuts in quick succession cost attempts.
    let mut stage = stage.set("retry.max_attempts", "11");
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let content = (0..SIZE)
        .map(|_| char::from(random.u8(b'a'..=b'z')))
        .collect::<String>();
    stage
        .store([("large".to_owned(), content.clone())].into_iter())
        .await;
    // Each request is cut somewhere in the first tenth of the object, counted from where it begins. A rule that
    // struck is spent, and leaves the next request to the one behind it.
    for _ in 0..CUTS {
        let rule = Rule::new(Fault::CutBody(random.u64(1..SIZE / CUTS)));
        stage
            .s3
            .faults()
            .add(rule.operation(S3Operation::GetObject).first(1));
    }
    let worker = stage.worker().await;
    let path = format!("{folder}/large");
    let get = json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "large",
        "destination": {"file": path}});
    stage.publish(Lane::Read, stage::message("get", &get)).await;
    let row = stage.until("get", State::Completed).await;
    assert!(
        fs::read(&path).unwrap() == content.as_bytes(),
        "not the same bytes, seed {seed}"
    );
    assert_eq!(u64::from(row.attempts), CUTS + 1, "seed {seed}");
    let page = worker.view().metrics.render().unwrap();
    let fetched = stage::metric(&page, r#"brigade_s3_bytes_total{direction="in"}"#) as u64;
    assert_eq!(fetched, SIZE, "seed {seed}");
    let names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    let left = names
        .iter()
        .filter(|name| name.to_string_lossy().starts_with(".brigade-"));
    assert_eq!(left.count(), 0);
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_leaves_no_hidden_file_once_its_download_is_there() {
    let (stage, folder) = stage_with_folder().await;
    let mut stage = stage.set("ledger.lease", "3s");
    stage
        .store([("k".to_owned(), "text".to_owned())].into_iter())
        .await;
    let hidden = || {
        let names = fs::read_dir(&folder).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".brigade-")).count()
    };
    let path = format!("{folder}/out");
    let get = json!({"version": 1, "operation": "get_object", "bucket": "b", "key": "k",
        "destination": {"file": path}});
    stage.declare().await;
    stage.publish(Lane::Read, stage::message("get", &get)).await;
    let reads = Rule::new(Fault::Hang).operation(S3Operation::GetObject);
    let held = stage.s3.faults().add(reads);
    let mut worker = stage.process();
    stage::eventually("the download is under way", async || {
        (held.fired() >= 1).then_some(())
    })
    .await;
    worker.kill();
    assert_eq!(hidden(), 1);
    held.remove();
    // A lease that has not run out parks the job for longer than it lasts.
    stage.until_lease_ran_out("get").await;
    let worker = stage.worker().await;
    stage.until("get", State::Completed).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    assert_eq!(hidden(), 0);
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}
