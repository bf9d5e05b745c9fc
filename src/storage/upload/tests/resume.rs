//! The run after one that was stopped.

use super::*;
use crate::job::{
    BegunUpload,
    options::{ENCRYPTION, LEGAL_HOLD},
};

/// Runs once and stops after the beginning, as a worker does that is killed.
async fn begun(file: &File) -> Memory {
    let stage = Stage::new([created(), Answer::error(400, "ExpiredToken")]);
    let memory = Memory::default();
    let end = run_with(&stage, file.upload(), &memory).await;
    let expected = Some((FailureClass::Credentials, "ExpiredToken"));
    assert_eq!(code_of(&end), expected, "{end:?}");
    Memory::of(memory.begun())
}

#[tokio::test(start_paused = true)]
async fn the_next_run_sends_only_what_s3_does_not_list_and_what_is_not_as_long_as_planned() {
    let file = File::new(5 * PART);
    let memory = begun(&file).await;
    let stage = Stage::new([
        listed(&[(1, PART), (2, PART - 1)], Some(2)),
        listed(&[(4, PART), (9, PART)], None),
        part("\"p2\""),
        part("\"p3\""),
        part("\"p5\""),
        completed(),
        object(5 * PART),
    ]);
    let end = run_with(&stage, file.upload(), &memory).await;
    assert_eq!(size_of(&end), Some(5 * PART), "{end:?}");
    assert_eq!(
        asked(&stage),
        [
            "list", "list", "part 2", "part 3", "part 5", "complete", "head"
        ]
    );
    let seen = stage.seen();
    let bytes = |part: u64| &file.bytes[((part - 1) * PART) as usize..(part * PART) as usize];
    for (request, number) in [(2, 2), (3, 3), (4, 5)] {
        assert!(
            seen[request].body.as_bytes() == bytes(number),
            "part {number}"
        );
    }
    let completion = &seen[5].body;
    for etag in ["old-1", "p2", "p3", "old-4", "p5"] {
        assert!(completion.contains(etag), "{completion}");
    }
    assert!(!completion.contains("old-2") && !completion.contains("old-9"));
    assert_eq!(memory.notes(), ["completed"]);
}

#[tokio::test(start_paused = true)]
async fn a_sha256_is_checked_over_parts_that_are_not_sent_again() {
    let file = File::new(3 * PART);
    let wrong = PutOptions {
        sha256: Some([7; 32]),
        ..PutOptions::default()
    };
    let right = PutOptions {
        sha256: Some(Sha256::digest(&file.bytes).into()),
        ..PutOptions::default()
    };
    for (options, expected) in [(right, None), (wrong, Some("checksum_mismatch"))] {
        let memory = begun(&file).await;
        let stage = Stage::new([
            listed(&[(1, PART), (3, PART)], None),
            part("\"p2\""),
            completed(),
            object(3 * PART),
        ]);
        let end = run_with(&stage, file.upload_with(options), &memory).await;
        assert_eq!(code_of(&end).map(|(_, code)| code), expected, "{end:?}");
        assert_eq!(asked(&stage)[..2], ["list", "part 2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_has_changed_between_runs_is_begun_anew_and_the_old_upload_is_aborted() {
    let file = File::new(2 * PART);
    let memory = begun(&file).await;
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    let handle = fs::File::options().write(true).open(&file.path).unwrap();
    handle.set_modified(later).unwrap();
    let stage = Stage::new([
        listed(&[(1, PART)], None),
        aborted(),
        created(),
        part("\"p1\""),
        part("\"p2\""),
        completed(),
        object(2 * PART),
    ]);
    let end = run_with(&stage, file.upload(), &memory).await;
    assert_eq!(size_of(&end), Some(2 * PART), "{end:?}");
    assert_eq!(
        asked(&stage),
        [
            "list", "abort", "create", "part 1", "part 2", "complete", "head"
        ]
    );
    assert_eq!(memory.notes(), ["doomed", "gone", "begun", "completed"]);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_gone_was_completed_if_the_object_is_ours_and_is_begun_anew_otherwise() {
    let file = File::new(PART);
    let memory = begun(&file).await;
    let stage = Stage::new([gone(), object(PART)]);
    let end = run_with(&stage, file.upload(), &memory).await;
    assert_eq!(size_of(&end), Some(PART), "{end:?}");
    assert_eq!(asked(&stage), ["list", "head"]);

    let memory = begun(&file).await;
    let missing = Answer::status(404);
    let stage = Stage::new([
        gone(),
        missing,
        created(),
        part("\"p1\""),
        completed(),
        object(PART),
    ]);
    let end = run_with(&stage, file.upload(), &memory).await;
    assert_eq!(size_of(&end), Some(PART), "{end:?}");
    assert_eq!(
        asked(&stage),
        ["list", "head", "create", "part 1", "complete", "head"]
    );
    assert_eq!(memory.notes(), ["gone", "begun", "completed"]);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_completed_is_done_whatever_became_of_its_source() {
    let changes: [fn(&File); 3] = [
        |file| fs::remove_file(&file.path).unwrap(),
        |file| fs::write(&file.path, vec![b'x'; 2 * PART as usize]).unwrap(),
        |file| fs::write(&file.path, "small").unwrap(),
    ];
    for change in changes {
        let file = File::new(PART);
        let memory = begun(&file).await;
        change(&file);
        let stage = Stage::new([gone(), object(PART)]);
        let end = run_with(&stage, file.upload(), &memory).await;
        assert_eq!(size_of(&end), Some(PART), "{end:?}");
        assert_eq!(asked(&stage), ["list", "head"]);
        assert!(memory.notes().is_empty(), "the sweep forgets it");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_nobody_completed_is_buried_when_its_source_is_gone() {
    let foreign = Answer::status(200)
        .header("content-length", PART)
        .header("x-amz-meta-brigade-job", "job-2");
    let begun_still = listed(&[(1, PART)], None);
    let (none, head) = (Answer::status(404), vec!["list", "head"]);
    for (answers, expected, notes) in [
        ([gone(), none], head.clone(), vec!["gone"]),
        ([gone(), foreign], head.clone(), vec!["gone"]),
        ([gone(), object(PART - 1)], head, vec!["gone"]),
        (
            [begun_still, aborted()],
            vec!["list", "abort"],
            vec!["doomed", "gone"],
        ),
    ] {
        let file = File::new(PART);
        let memory = begun(&file).await;
        fs::remove_file(&file.path).unwrap();
        let stage = Stage::new(answers);
        let end = run_with(&stage, file.upload(), &memory).await;
        let failure = Some((FailureClass::JobLocal, "source_not_found"));
        assert_eq!(code_of(&end), failure, "{end:?}");
        assert_eq!(asked(&stage), expected);
        assert_eq!(memory.notes(), notes);
    }
}

/// Two parts that begin with a list of what is there, and go up anew.
fn anew(first: Answer, size: u64) -> Vec<Answer> {
    vec![
        first,
        aborted(),
        created(),
        part("\"p1\""),
        part("\"p2\""),
        completed(),
        object(size),
    ]
}

const ANEW: [&str; 7] = [
    "list", "abort", "create", "part 1", "part 2", "complete", "head",
];

#[tokio::test(start_paused = true)]
async fn an_upload_begun_before_the_operators_defaults_changed_is_begun_anew_with_them() {
    let file = File::new(2 * PART);
    let memory = begun(&file).await;
    let mut settings = settings();
    settings.put_defaults = Headers::default().with(ENCRYPTION, "aws:kms");
    let answers = anew(listed(&[(1, PART)], None), 2 * PART);
    let stage = Stage::with(answers, &settings, &shared(keys()));
    let end = run_with(&stage, file.upload(), &memory).await;
    assert_eq!(size_of(&end), Some(2 * PART), "{end:?}");
    assert_eq!(asked(&stage), ANEW);
    assert_eq!(stage.seen()[2].headers[ENCRYPTION], "aws:kms");
    assert_eq!(memory.notes(), ["doomed", "gone", "begun", "completed"]);
}

fn locked() -> PutOptions {
    PutOptions {
        headers: Headers::default().with(LEGAL_HOLD, true),
        ..PutOptions::default()
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_said_less_than_the_job_says_now_is_begun_anew() {
    let file = File::new(2 * PART);
    let memory = begun(&file).await;
    let stage = Stage::new(anew(listed(&[(1, PART)], None), 2 * PART));
    let end = run_with(&stage, file.upload_with(locked()), &memory).await;
    assert_eq!(size_of(&end), Some(2 * PART), "{end:?}");
    assert_eq!(asked(&stage), ANEW);
    assert_eq!(stage.seen()[2].headers[LEGAL_HOLD], "ON");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_said_less_than_the_job_says_now_is_not_what_the_job_asks_for() {
    let file = File::new(PART);
    let memory = begun(&file).await;
    let stage = Stage::new([gone(), created(), part("\"p1\""), completed(), object(PART)]);
    let end = run_with(&stage, file.upload_with(locked()), &memory).await;
    assert_eq!(size_of(&end), Some(PART), "{end:?}");
    assert_eq!(
        asked(&stage),
        ["list", "create", "part 1", "complete", "head"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_completed_before_the_operators_defaults_changed_is_done() {
    let file = File::new(PART);
    let memory = begun(&file).await;
    let mut settings = settings();
    settings.put_defaults = Headers::default().with(ENCRYPTION, "aws:kms");
    let stage = Stage::with([gone(), object(PART)], &settings, &shared(keys()));
    let end = run_with(&stage, file.upload(), &memory).await;
    assert_eq!(size_of(&end), Some(PART), "{end:?}");
    assert_eq!(asked(&stage), ["list", "head"]);
}

/// The same as an older version has it on record, which did not keep what was said.
async fn begun_by_an_older_version(file: &File) -> Memory {
    let begun = begun(file).await.begun();
    Memory::of(BegunUpload {
        said: None,
        ..begun
    })
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_an_older_version_is_gone_on_with_only_if_the_job_says_nothing_of_the_object()
{
    let file = File::new(2 * PART);
    let memory = begun_by_an_older_version(&file).await;
    let stage = Stage::new([
        listed(&[(1, PART)], None),
        part("\"p2\""),
        completed(),
        object(2 * PART),
    ]);
    let end = run_with(&stage, file.upload(), &memory).await;
    assert_eq!(size_of(&end), Some(2 * PART), "{end:?}");
    assert_eq!(asked(&stage), ["list", "part 2", "complete", "head"]);

    let memory = begun_by_an_older_version(&file).await;
    let stage = Stage::new(anew(listed(&[(1, PART)], None), 2 * PART));
    let end = run_with(&stage, file.upload_with(locked()), &memory).await;
    assert_eq!(size_of(&end), Some(2 * PART), "{end:?}");
    assert_eq!(asked(&stage), ANEW);
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_which_the_same_is_said_is_gone_on_with_whoever_says_it() {
    let file = File::new(2 * PART);
    let said = PutOptions {
        headers: Headers::default().with(ENCRYPTION, "aws:kms"),
        ..PutOptions::default()
    };
    let first = Stage::new([created(), Answer::error(400, "ExpiredToken")]);
    let memory = Memory::default();
    drop(run_with(&first, file.upload_with(said), &memory).await);
    let memory = Memory::of(memory.begun());
    let mut settings = settings();
    settings.put_defaults = Headers::default().with(ENCRYPTION, "aws:kms");
    let answers = [
        listed(&[(1, PART)], None),
        part("\"p2\""),
        completed(),
        object(2 * PART),
    ];
    let stage = Stage::with(answers, &settings, &shared(keys()));
    let end = run_with(&stage, file.upload(), &memory).await;
    assert_eq!(size_of(&end), Some(2 * PART), "{end:?}");
    assert_eq!(asked(&stage), ["list", "part 2", "complete", "head"]);
}
