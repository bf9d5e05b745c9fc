use proptest::prelude::*;

use super::*;

#[test]
fn the_bucket_label_is_bounded() {
    let metrics = Metrics::try_new(2).unwrap();
    for bucket in ["a", "b", "c", "d", "a"] {
        let took = Duration::from_millis(1);
        metrics.s3_operation(
            OperationName::PutObject,
            bucket,
            OperationResult::Success,
            took,
        );
    }
    let count = |bucket| {
        let labels = ["put_object", bucket, "success"];
        metrics.s3_operations.with_label_values(&labels).get()
    };
    assert_eq!((count("a"), count("b"), count("other")), (2, 1, 2));
}

#[test]
fn the_first_operation_on_a_bucket_shows_its_other_results_at_zero() {
    let metrics = Metrics::try_new(2).unwrap();
    let result = OperationResult::Success;
    metrics.s3_operation(OperationName::PutObject, "b", result, Duration::ZERO);
    let page = metrics.render().unwrap();
    for (result, count) in [("success", 1), ("error", 0), ("circuit_open", 0)] {
        let line = format!(
            "s3_operations_total{{bucket=\"b\",operation=\"put_object\",result=\"{result}\"}} {count}"
        );
        assert!(page.contains(&line), "{line} is missing from\n{page}");
    }
}

#[test]
fn closed_label_sets_start_at_zero() {
    let page = Metrics::try_new(50).unwrap().render().unwrap();
    for line in [
        "brigade_circuit_state{circuit=\"upload\",state=\"closed\"} 1",
        "brigade_circuit_state{circuit=\"download\",state=\"open\"} 0",
        "brigade_dead_lettered_total{lane=\"read\",reason=\"poison\"} 0",
        "brigade_parked_total{lane=\"cleanup\",reason=\"throttled\"} 0",
        "brigade_requeued_total{lane=\"upload\",reason=\"circuit_open\"} 0",
        "brigade_jobs_total{lane=\"upload\",operation=\"put_object\",outcome=\"completed\"} 0",
        "brigade_acks_lost_total{lane=\"upload\"} 0",
        "brigade_access_denied_total{lane=\"cleanup\"} 0",
        "brigade_ledger_up 0",
        "brigade_s3_retries_total{class=\"throttled\",operation=\"put_object\"} 0",
        "brigade_amqp_connected{role=\"consume\"} 0",
        "brigade_cleanup_abandoned_total 0",
        "brigade_replies_total{result=\"undeliverable\"} 0",
    ] {
        assert!(page.contains(line), "{line} is missing from\n{page}");
    }
}

#[test]
fn one_state_of_a_circuit_is_shown() {
    let metrics = Metrics::try_new(50).unwrap();
    metrics.circuit_changed(Circuit::Upload, CircuitState::Closed, CircuitState::Open);
    let shown = |state| {
        metrics
            .circuit_state
            .with_label_values(&["upload", state])
            .get()
    };
    assert_eq!(
        (shown("closed"), shown("open"), shown("half_open")),
        (0, 1, 0)
    );
}

/// Label values whose concatenations are equal: one text, cut at two places in two ways.
fn colliding() -> impl Strategy<Value = ([String; 3], [String; 3])> {
    (
        "[a-c_]{0,8}",
        0..=8usize,
        0..=8usize,
        0..=8usize,
        0..=8usize,
    )
        .prop_map(|(text, a, b, c, d)| {
            let cut = |first: usize, second: usize| {
                let (first, second) = (first.min(second), first.max(second));
                let at = |n: usize| n.min(text.len());
                [
                    text[..at(first)].to_owned(),
                    text[at(first)..at(second)].to_owned(),
                    text[at(second)..].to_owned(),
                ]
            };
            (cut(a, b), cut(c, d))
        })
}

/// The value of the series with exactly these labels, read off the page.
fn shown(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut labels = labels.to_vec();
    labels.sort_unstable();
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    let series = format!("{name}{{{}}} ", labels.join(","));
    page.lines()
        .find_map(|line| line.strip_prefix(&series))
        .map(|value| value.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_two_label_sets_share_a_series((one, other) in colliding()) {
        prop_assume!(one != other);
        let metrics = Metrics::try_new(50).unwrap();
        let [a, b, c] = &one;
        let [d, e, f] = &other;
        metrics.s3_operations.with_label_values(&[a, b, c]).inc_by(3);
        metrics.s3_operations.with_label_values(&[d, e, f]).inc_by(5);
        let page = metrics.render().unwrap();
        let of = |[operation, bucket, result]: &[String; 3]| {
            shown(&page, "s3_operations_total", &[("operation", operation), ("bucket", bucket), ("result", result)])
        };
        prop_assert_eq!((of(&one), of(&other)), (Some(3.0), Some(5.0)));
    }

    #[test]
    fn no_two_pairs_share_a_gauge_or_a_histogram((one, other) in colliding()) {
        // Two labels: the cut is where the first ends, and the middle belongs to the second.
        let pair = |[a, b, c]: &[String; 3]| [a.clone(), format!("{b}{c}")];
        let (one, other) = (pair(&one), pair(&other));
        prop_assume!(one != other);
        let metrics = Metrics::try_new(50).unwrap();
        for (pair, times) in [(&one, 1), (&other, 2)] {
            let labels = [pair[0].as_str(), pair[1].as_str()];
            metrics.build_info.with_label_values(&labels).set(7 * times);
            for _ in 0..times {
                metrics.s3_attempt_duration.with_label_values(&labels).observe(0.002);
            }
        }
        let page = metrics.render().unwrap();
        for (pair, times) in [(&one, 1.0), (&other, 2.0)] {
            let [a, b] = pair;
            prop_assert_eq!(
                shown(&page, "brigade_build_info", &[("version", a), ("revision", b)]),
                Some(7.0 * times)
            );
            prop_assert_eq!(
                shown(&page, "brigade_s3_attempt_duration_seconds_count", &[("operation", a), ("class", b)]),
                Some(times)
            );
        }
    }
}

#[test]
fn an_operation_and_a_bucket_never_read_as_another_pair() {
    let metrics = Metrics::try_new(50).unwrap();
    let success = OperationResult::Success;
    metrics.s3_operation(
        OperationName::DeleteObject,
        "sales",
        success,
        Duration::ZERO,
    );
    metrics.s3_operation(
        OperationName::DeleteObjects,
        "ales",
        success,
        Duration::ZERO,
    );
    let page = metrics.render().unwrap();
    for (operation, bucket) in [("delete_object", "sales"), ("delete_objects", "ales")] {
        let labels = [
            ("operation", operation),
            ("bucket", bucket),
            ("result", "success"),
        ];
        assert_eq!(
            shown(&page, "s3_operations_total", &labels),
            Some(1.0),
            "{page}"
        );
        let count = "s3_operation_duration_seconds_count";
        assert_eq!(shown(&page, count, &labels[..2]), Some(1.0), "{page}");
    }
}

#[test]
fn buckets_that_no_call_reached_use_no_name_up() {
    let metrics = Metrics::try_new(1).unwrap();
    let count = |bucket: &str, result: OperationResult| {
        metrics.s3_operation(OperationName::PutObject, bucket, result, Duration::ZERO);
    };
    for number in 0..100 {
        count(&format!("typo-{number}"), OperationResult::Error);
    }
    count("refused", OperationResult::CircuitOpen);
    count("real", OperationResult::Success);
    count("real", OperationResult::Error);
    count("late", OperationResult::Success);
    let page = metrics.render().unwrap();
    let of = |bucket, result| {
        let labels = [
            ("operation", "put_object"),
            ("bucket", bucket),
            ("result", result),
        ];
        shown(&page, "s3_operations_total", &labels)
    };
    assert_eq!(
        (of("real", "success"), of("real", "error")),
        (Some(1.0), Some(1.0))
    );
    assert_eq!(
        (of("other", "error"), of("other", "success")),
        (Some(100.0), Some(1.0))
    );
    assert_eq!(of("other", "circuit_open"), Some(1.0));
    assert!(!page.contains("typo-") && !page.contains("late"), "{page}");
}

#[test]
fn the_reference_page_lists_every_metric_with_its_labels_and_its_help() {
    let page = include_str!("../../docs/reference/metrics.md");
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    for (name, labels, help) in TABLE {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let (begins, ends) = (
            format!("| `{name}` | "),
            format!(" | {} | {} |", labels.join(", "), help.trim()),
        );
        assert!(
            rows.iter()
                .any(|row| row.starts_with(&begins) && row.ends_with(&ends)),
            "docs/reference/metrics.md lacks a row that begins with {begins:?} and ends with {ends:?}"
        );
    }
    assert_eq!(
        rows.len(),
        TABLE.len(),
        "docs/reference/metrics.md has a row too many"
    );
}
