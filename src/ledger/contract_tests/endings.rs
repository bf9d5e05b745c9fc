//! Endings, answers of batches, and what a row keeps of them.

use super::*;

pub(in crate::ledger) async fn an_ending_whose_answer_was_lost_may_be_given_again(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    for state in [State::Completed, State::DeadLettered, State::Retrying] {
        let name = state.as_str();
        let taken = take(&ledger, request(name)).await;
        let ending = ending(name, taken, state);
        let first = record(&ledger, ending.clone()).await;
        let second = record(&ledger, ending.clone()).await;
        assert_eq!(
            (first.state, first.attempts),
            (second.state, second.attempts)
        );
        if state.is_final() {
            // Another word on a job that has its last one is not taken.
            let other = Ending {
                state: State::Interrupted,
                ..ending
            };
            assert_eq!(commit(&ledger, other).await, Committed::Superseded);
        }
    }
}

pub(in crate::ledger) async fn an_ending_names_the_last_error_until_the_job_completes(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    let taken = take(&ledger, request("j")).await;
    let parked = Ending {
        failure: Some(failure("SlowDown")),
        ..ending("j", taken, State::Retrying)
    };
    let reported = ReportedError {
        class: "permanent".to_owned(),
        code: "SlowDown".to_owned(),
        message: "it went wrong".to_owned(),
        request_id: Some("REQ1".to_owned()),
    };
    let row = record(&ledger, parked).await;
    assert_eq!(row.error.as_ref(), Some(&reported));

    let taken = take(&ledger, request("j")).await;
    let row = record(&ledger, ending("j", taken, State::Interrupted)).await;
    assert_eq!(row.error.as_ref(), Some(&reported));

    let taken = take(&ledger, request("j")).await;
    let other = Ending {
        failure: Some(Failure::ours(FailureClass::Cancelled, "deadline", "late")),
        ..ending("j", taken, State::Retrying)
    };
    let error = record(&ledger, other).await.error.unwrap();
    assert_eq!((error.code.as_str(), error.request_id), ("deadline", None));

    let taken = take(&ledger, request("j")).await;
    let result = json!({"etag": "\"x\"", "version_id": null, "size": 7});
    let done = Ending {
        result: Some(result.clone()),
        ..ending("j", taken, State::Completed)
    };
    let row = record(&ledger, done).await;
    assert_eq!((row.error, row.result), (None, Some(result)));
}

pub(in crate::ledger) async fn a_parked_job_tells_when_it_comes_back(database: &impl TestDatabase) {
    let ledger = database.ledger("a").await;
    let taken = take(&ledger, request("j")).await;
    let parked = Ending {
        parks: 2,
        failure: Some(Failure::ours(FailureClass::Throttled, "SlowDown", "slower")),
        ..ending("j", taken, State::Retrying)
    };
    let row = record(&ledger, parked).await;
    let next = row.next_try().unwrap();
    assert_eq!(next.reason.as_str(), "throttled");
    // Taken and parked within a minute, by the database's own clock.
    let wait = next.at.since(taken.started_at);
    let minute = Duration::from_secs(60);
    assert!((minute..2 * minute).contains(&wait), "{wait:?}");
    assert_eq!(ledger.get(&id("j")).await.unwrap(), Some(row));

    let taken = take(&ledger, request("j")).await;
    let running = ledger.get(&id("j")).await.unwrap().unwrap();
    assert_eq!(running.next_try(), None);
    let row = record(&ledger, ending("j", taken, State::Completed)).await;
    assert_eq!((row.next_try(), row.leased_until), (None, None));
}

pub(in crate::ledger) async fn failed_attempts_are_kept_once_the_newest_first(
    database: &impl TestDatabase,
) {
    let ledger = database.ledger("a").await;
    let run = |code: &str, count: usize, ending: Ending| {
        let mut failed = AttemptLog::default();
        for number in 0..count {
            let at = Timestamp::from_micros(i64::try_from(number).unwrap());
            failed.note(at, "put_object", 7, &failure(&format!("{code}{number}")));
        }
        Ending { failed, ..ending }
    };
    let codes = |row: &JobRecord| -> Vec<String> {
        row.failed
            .iter()
            .map(|attempt| attempt.code.clone())
            .collect()
    };
    let taken = take(&ledger, request("j")).await;
    let parked = run("A", 3, ending("j", taken, State::Retrying));
    record(&ledger, parked.clone()).await;
    let row = record(&ledger, parked).await;
    assert_eq!(codes(&row), ["A2", "A1", "A0"]);

    let taken = take(&ledger, request("j")).await;
    record(&ledger, ending("j", taken, State::Requeued)).await;
    let taken = take(&ledger, request("j")).await;
    let row = record(&ledger, run("B", 1, ending("j", taken, State::Completed))).await;
    assert_eq!(codes(&row), ["B0", "A2", "A1", "A0"]);
    assert_eq!(ledger.get(&id("j")).await.unwrap(), Some(row));

    // However often a job fails, its row stays small; the oldest attempts go.
    let mut last = None;
    for turn in 0..40 {
        let taken = take(&ledger, request("k")).await;
        let parked = run(&format!("C{turn}-"), 3, ending("k", taken, State::Retrying));
        last = Some(record(&ledger, parked).await);
    }
    let codes = codes(&last.unwrap());
    assert_eq!(codes[..4], ["C39-2", "C39-1", "C39-0", "C38-2"]);
    assert!((40..110).contains(&codes.len()), "{codes:?}");
}

pub(in crate::ledger) async fn answers_come_in_the_order_of_the_questions(
    database: &impl TestDatabase,
) {
    let (a, b) = (database.ledger("a").await, database.ledger("b").await);
    run(&b, "done", State::Completed).await;
    run(&b, "dead", State::DeadLettered).await;
    run(&b, "parked", State::Retrying).await;
    take(&b, request("leased")).await;
    let names = ["new2", "parked", "dead", "leased", "new1", "done", "new0"];
    for names in [names.to_vec(), names.iter().rev().copied().collect()] {
        let requests: Vec<_> = names.iter().map(|name| request(name)).collect();
        let claims = a.claim(&requests).await.unwrap();
        assert_eq!(claims.len(), names.len());
        let mut endings = Vec::new();
        for (name, claim) in names.iter().zip(claims) {
            match (*name, claim) {
                ("done", Claim::Finished(row)) => assert_eq!(row.id, id("done")),
                ("dead", Claim::Dead { record, .. }) => assert_eq!(record.id, id("dead")),
                ("leased", Claim::LeasedElsewhere) => {}
                ("new0" | "new1" | "new2" | "parked", Claim::Taken(taken)) => {
                    endings.push(ending(name, taken, State::Requeued));
                }
                (name, claim) => panic!("{name}: {claim:?}"),
            }
        }
        endings[1].fence = Fence(99);
        let committed = a.commit(&endings).await.unwrap();
        assert_eq!(committed.len(), endings.len());
        for (position, (ending, committed)) in endings.iter().zip(committed).enumerate() {
            match committed {
                Committed::Superseded => assert_eq!(position, 1),
                Committed::Recorded(row) => assert_eq!(row.id, ending.id),
            }
        }
    }
    assert_eq!(a.claim(&[]).await.unwrap(), []);
    assert_eq!(a.commit(&[]).await.unwrap(), []);
    assert!(a.renew(&[]).await.unwrap().is_empty());
}

pub(in crate::ledger) async fn a_refused_row_leaves_nothing_behind(database: &impl TestDatabase) {
    let ledger = database.ledger("a").await;
    // No message has an empty bucket; the schema refuses it all the same.
    let bad = ClaimRequest {
        bucket: String::new(),
        ..request("bad")
    };
    let refused = ledger.claim(&[request("a"), bad, request("z")]).await;
    assert!(
        matches!(refused, Err(LedgerError::Refused(_))),
        "{refused:?}"
    );
    for name in ["a", "bad", "z"] {
        assert_eq!(ledger.get(&id(name)).await.unwrap(), None, "{name}");
    }
    take(&ledger, request("a")).await;
}

pub(in crate::ledger) async fn odd_text_comes_back_as_it_went_in(database: &impl TestDatabase) {
    let ledger = database.ledger("a").await;
    let odd =
        "\"'; drop table jobs; -- \\ {1,2} \u{7f}\u{1}\n\t%_ é 漢字 \u{1f600} \u{fffe} $1 ?1 null";
    let request = ClaimRequest {
        key: Some(odd.to_owned()),
        ..request("a.b_c:d-E")
    };
    let taken = take(&ledger, request).await;
    let mut met = failure(odd);
    met.message = format!("{odd}\0");
    met.request_id = Some(odd.to_owned());
    let ending = Ending {
        failure: Some(met),
        result: Some(json!({odd: [odd, null, 1.5, true]})),
        ..ending("a.b_c:d-E", taken, State::DeadLettered)
    };
    let row = record(&ledger, ending.clone()).await;
    assert_eq!(row.key.as_deref(), Some(odd));
    assert_eq!(row.result, ending.result);
    let error = row.error.unwrap();
    assert_eq!(
        (error.code.as_str(), error.request_id.as_deref()),
        (odd, Some(odd))
    );
    assert_eq!(error.message, format!("{odd}\u{fffd}"));
}
