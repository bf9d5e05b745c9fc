//! Each transition has a test named after the mistake it prevents; a property test walks random histories.

use proptest::prelude::*;

use super::{super::clock::ManualClock, *};

const SETTINGS: CircuitSettings = CircuitSettings {
    failure_threshold: 5,
    open_base: Duration::from_secs(5),
    open_max: Duration::from_secs(60),
    half_open_permits: 1,
    probe_timeout: Duration::from_secs(60),
};

fn breaker_with(settings: CircuitSettings) -> (Arc<CircuitBreaker>, Arc<ManualClock>) {
    let clock = ManualClock::new();
    let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    (
        CircuitBreaker::new(settings, shared, || 0.5, Box::new(|_, _, _| {})),
        clock,
    )
}

fn breaker() -> (Arc<CircuitBreaker>, Arc<ManualClock>) {
    breaker_with(SETTINGS)
}

fn trip(breaker: &Arc<CircuitBreaker>) {
    for _ in 0..SETTINGS.failure_threshold {
        breaker.acquire().unwrap().failure();
    }
    assert_eq!(breaker.snapshot().state, CircuitState::Open);
}

fn state(breaker: &CircuitBreaker) -> CircuitState {
    breaker.snapshot().state
}

#[test]
fn five_failures_in_a_row_trip_it_and_four_do_not() {
    let (breaker, _) = breaker();
    for _ in 0..4 {
        breaker.acquire().unwrap().failure();
    }
    assert_eq!(state(&breaker), CircuitState::Closed);
    assert_eq!(breaker.snapshot().consecutive_failures, 4);
    breaker.acquire().unwrap().failure();
    assert_eq!(state(&breaker), CircuitState::Open);
    assert_eq!(
        breaker.acquire().unwrap_err().retry_in,
        Some(Duration::from_secs(5))
    );
}

#[test]
fn any_success_resets_the_count() {
    let (breaker, _) = breaker();
    for _ in 0..4 {
        breaker.acquire().unwrap().failure();
    }
    breaker.acquire().unwrap().success();
    for _ in 0..4 {
        breaker.acquire().unwrap().failure();
    }
    assert_eq!(state(&breaker), CircuitState::Closed);
}

#[test]
fn neutral_and_dropped_permits_count_for_nothing() {
    let (breaker, _) = breaker();
    for _ in 0..4 {
        breaker.acquire().unwrap().failure();
    }
    for _ in 0..10 {
        breaker.acquire().unwrap().neutral();
        drop(breaker.acquire().unwrap());
    }
    assert_eq!(breaker.snapshot().consecutive_failures, 4);
}

#[test]
fn an_open_circuit_admits_no_one_and_probes_only_after_its_time() {
    let (breaker, clock) = breaker();
    trip(&breaker);
    clock.advance(Duration::from_millis(4_999));
    assert!(breaker.reserve_probe().is_none());
    clock.advance(Duration::from_millis(1));
    let probe = breaker.reserve_probe().unwrap();
    assert!(probe.is_probe());
    assert_eq!(state(&breaker), CircuitState::HalfOpen);
    assert!(breaker.acquire().is_err(), "half-open admits probes only");
    probe.success();
    assert_eq!(state(&breaker), CircuitState::Closed);
}

#[test]
fn a_closed_circuit_has_no_probes() {
    let (breaker, _) = breaker();
    assert!(breaker.reserve_probe().is_none());
}

#[test]
fn two_takers_at_the_edge_get_one_probe() {
    let (breaker, clock) = breaker();
    trip(&breaker);
    clock.advance(Duration::from_secs(5));
    let first = breaker.reserve_probe();
    let second = breaker.reserve_probe();
    assert!(first.is_some() && second.is_none());
}

#[test]
fn as_many_probes_as_permits() {
    let (breaker, clock) = breaker_with(CircuitSettings {
        half_open_permits: 3,
        ..SETTINGS
    });
    trip(&breaker);
    clock.advance(Duration::from_secs(5));
    let probes: Vec<_> = (0..4).map_while(|_| breaker.reserve_probe()).collect();
    assert_eq!(probes.len(), 3);
}

#[test]
fn a_dropped_probe_gives_its_slot_back_and_gives_no_verdict() {
    let (breaker, clock) = breaker();
    trip(&breaker);
    clock.advance(Duration::from_secs(5));
    drop(breaker.reserve_probe().unwrap());
    assert_eq!(state(&breaker), CircuitState::HalfOpen);
    assert!(breaker.reserve_probe().is_some());
}

#[test]
fn a_failed_probe_opens_for_twice_as_long_up_to_the_most() {
    let (breaker, clock) = breaker();
    trip(&breaker);
    for expected in [5, 10, 20, 40, 60, 60] {
        clock.advance(Duration::from_secs(expected) - Duration::from_millis(1));
        assert!(breaker.reserve_probe().is_none(), "{expected} s");
        clock.advance(Duration::from_millis(1));
        breaker.reserve_probe().unwrap().failure();
        assert_eq!(state(&breaker), CircuitState::Open);
    }
}

#[test]
fn the_open_time_is_jittered_by_a_fifth() {
    for (chance, millis) in [((|| 0.0) as fn() -> f64, 4_000), (|| 1.0, 6_000)] {
        let clock = ManualClock::new();
        let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let breaker = CircuitBreaker::new(SETTINGS, shared, chance, Box::new(|_, _, _| {}));
        trip(&breaker);
        assert_eq!(
            breaker.acquire().unwrap_err().retry_in,
            Some(Duration::from_millis(millis))
        );
    }
}

#[test]
fn the_streak_is_forgotten_after_60_s_closed_and_not_before() {
    for (closed_for, expected) in [(59, 10), (60, 5)] {
        let (breaker, clock) = breaker();
        trip(&breaker);
        clock.advance(Duration::from_secs(5));
        breaker.reserve_probe().unwrap().success();
        clock.advance(Duration::from_secs(closed_for));
        trip(&breaker);
        assert_eq!(
            breaker.acquire().unwrap_err().retry_in,
            Some(Duration::from_secs(expected))
        );
    }
}

#[test]
fn a_late_success_of_an_older_generation_closes_nothing() {
    let (breaker, clock) = breaker();
    let straggler = breaker.acquire().unwrap();
    trip(&breaker);
    clock.advance(Duration::from_secs(5));
    let probe = breaker.reserve_probe().unwrap();
    assert!(straggler.check().is_err());
    straggler.success();
    assert_eq!(state(&breaker), CircuitState::HalfOpen);
    probe.failure();
    assert_eq!(state(&breaker), CircuitState::Open);
}

#[test]
fn the_streak_is_remembered_from_the_closing_however_long_the_probe_took() {
    let (breaker, clock) = breaker();
    trip(&breaker);
    clock.advance(Duration::from_secs(5));
    let probe = breaker.reserve_probe().unwrap();
    clock.advance(Duration::from_secs(59));
    probe.success();
    clock.advance(Duration::from_secs(59));
    trip(&breaker);
    assert_eq!(
        breaker.acquire().unwrap_err().retry_in,
        Some(Duration::from_secs(10))
    );
}

#[test]
fn a_late_drop_of_an_older_probe_gives_no_slot_back() {
    let (breaker, clock) = breaker();
    trip(&breaker);
    clock.advance(Duration::from_secs(5));
    let hung = breaker.reserve_probe().unwrap();
    clock.advance(SETTINGS.probe_timeout);
    assert_eq!(breaker.check_probe(), None);
    clock.advance(Duration::from_secs(10));
    let _probe = breaker.reserve_probe().unwrap();
    drop(hung);
    assert!(breaker.reserve_probe().is_none(), "one probe at a time");
}

#[test]
fn an_open_circuit_goes_on_to_count_what_failed_until_something_succeeds() {
    let (breaker, clock) = breaker();
    let failures = || breaker.snapshot().consecutive_failures;
    trip(&breaker);
    assert_eq!(failures(), 5);
    clock.advance(Duration::from_secs(5));
    breaker.reserve_probe().unwrap().failure();
    assert_eq!(failures(), 6);
    clock.advance(Duration::from_secs(10));
    let probe = breaker.reserve_probe().unwrap();
    assert_eq!(failures(), 6);
    probe.success();
    assert_eq!(failures(), 0);
    trip(&breaker);
    breaker.force(Mode::ForceOpen);
    assert_eq!(failures(), 0, "an operator's word is no failure");
}

#[test]
fn a_late_failure_of_an_older_generation_opens_nothing() {
    let (breaker, clock) = breaker();
    let stragglers: Vec<_> = (0..9).map(|_| breaker.acquire().unwrap()).collect();
    trip(&breaker);
    clock.advance(Duration::from_secs(5));
    breaker.reserve_probe().unwrap().success();
    stragglers.into_iter().for_each(Permit::failure);
    assert_eq!(state(&breaker), CircuitState::Closed);
    assert_eq!(breaker.snapshot().consecutive_failures, 0);
}

#[test]
fn a_hung_probe_re_opens_the_circuit_and_progress_keeps_it_alive() {
    let (breaker, clock) = breaker();
    trip(&breaker);
    clock.advance(Duration::from_secs(5));
    let probe = breaker.reserve_probe().unwrap();
    clock.advance(Duration::from_secs(59));
    probe.progress();
    let ask_again = clock.now() + SETTINGS.probe_timeout;
    clock.advance(Duration::from_secs(59));
    assert_eq!(breaker.check_probe(), Some(ask_again));
    assert_eq!(state(&breaker), CircuitState::HalfOpen);
    clock.advance(Duration::from_secs(1));
    assert!(breaker.check_probe().is_none());
    assert_eq!(state(&breaker), CircuitState::Open);
    probe.success();
    assert_eq!(
        state(&breaker),
        CircuitState::Open,
        "the late probe has no vote"
    );
}

#[test]
fn an_operators_word_starts_a_new_generation_and_holds() {
    let (breaker, clock) = breaker();
    let running = breaker.acquire().unwrap();
    breaker.force(Mode::ForceOpen);
    assert!(running.check().is_err());
    assert_eq!(breaker.acquire().unwrap_err().retry_in, None);
    clock.advance(Duration::from_secs(3600));
    assert!(
        breaker.reserve_probe().is_none(),
        "no probe while held open"
    );
    breaker.force(Mode::ForceClosed);
    for _ in 0..20 {
        breaker.acquire().unwrap().failure();
    }
    assert_eq!(state(&breaker), CircuitState::Closed);
    breaker.force(Mode::Auto);
    trip(&breaker);
}

#[test]
fn the_observer_hears_each_transition_once_and_why() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    let clock = ManualClock::new();
    let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    let observer: Observer = Box::new(move |from, after, why| {
        let waits = after.probe_at.is_some();
        let change = (from.as_str(), after.state.as_str(), why, waits);
        ears.lock().unwrap().push(change);
    });
    let breaker = CircuitBreaker::new(SETTINGS, shared, || 0.5, observer);
    trip(&breaker);
    clock.advance(Duration::from_secs(5));
    breaker.reserve_probe().unwrap().failure();
    clock.advance(Duration::from_secs(10));
    breaker.reserve_probe().unwrap().success();
    breaker.force(Mode::ForceOpen);
    let expected = [
        ("closed", "open", Cause::Failures(5), true),
        ("open", "half_open", Cause::ProbeDue, false),
        ("half_open", "open", Cause::ProbeFailed, true),
        ("open", "half_open", Cause::ProbeDue, false),
        ("half_open", "closed", Cause::ProbeSucceeded, false),
        ("closed", "open", Cause::Operator, false),
    ];
    assert_eq!(*heard.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_waiter_is_told_at_once_when_the_breaker_opens() {
    let (breaker, _) = breaker();
    let waiting = breaker.acquire().unwrap();
    let mut outdated = std::pin::pin!(waiting.outdated());
    assert!(futures_util::poll!(outdated.as_mut()).is_pending());
    trip(&breaker);
    assert!(futures_util::poll!(outdated.as_mut()).is_ready());
}

#[test]
fn a_success_that_changes_nothing_wakes_nobody() {
    let (breaker, _) = breaker();
    let mut changes = breaker.subscribe();
    breaker.acquire().unwrap().success();
    assert!(!changes.has_changed().unwrap());
    breaker.acquire().unwrap().failure();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    breaker.acquire().unwrap().success();
    assert!(changes.has_changed().unwrap());
}

#[derive(Debug, Clone)]
enum Step {
    Acquire,
    Probe,
    Success(usize),
    Failure(usize),
    Drop(usize),
    Wait(u64),
    Force(Mode),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Acquire),
        3 => Just(Step::Probe),
        3 => (0usize..8).prop_map(Step::Success),
        6 => (0usize..8).prop_map(Step::Failure),
        2 => (0usize..8).prop_map(Step::Drop),
        3 => (0u64..80).prop_map(Step::Wait),
        1 => prop_oneof![Just(Mode::Auto), Just(Mode::ForceOpen), Just(Mode::ForceClosed)]
            .prop_map(Step::Force),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn no_history_breaks_the_rules(steps in steps(), permits in 1u32..4) {
        let (breaker, clock) =
            breaker_with(CircuitSettings { half_open_permits: permits, ..SETTINGS });
        let mut held: Vec<Permit> = Vec::new();
        let mut generation = 0;
        for step in steps {
            let before = breaker.snapshot();
            match step {
                Step::Acquire => match breaker.acquire() {
                    Ok(permit) => {
                        prop_assert_eq!(before.state, CircuitState::Closed);
                        held.push(permit);
                    }
                    Err(_) => prop_assert_ne!(before.state, CircuitState::Closed),
                },
                Step::Probe => held.extend(breaker.reserve_probe()),
                Step::Success(n) if n < held.len() => {
                    let permit = held.swap_remove(n);
                    let votes = permit.generation == before.generation;
                    let probe = permit.is_probe();
                    permit.success();
                    if votes && probe {
                        prop_assert_eq!(state(&breaker), CircuitState::Closed);
                    } else {
                        prop_assert_eq!(state(&breaker), before.state);
                    }
                }
                Step::Failure(n) if n < held.len() => {
                    let permit = held.swap_remove(n);
                    let votes = permit.generation == before.generation;
                    permit.failure();
                    if !votes {
                        prop_assert_eq!(breaker.snapshot(), before);
                    }
                }
                Step::Drop(n) if n < held.len() => {
                    drop(held.swap_remove(n));
                    prop_assert_eq!(state(&breaker), before.state);
                }
                Step::Wait(seconds) => clock.advance(Duration::from_secs(seconds)),
                Step::Force(mode) => breaker.force(mode),
                Step::Success(_) | Step::Failure(_) | Step::Drop(_) => {}
            }
            let after = breaker.snapshot();
            prop_assert!(after.generation >= generation, "the generation never goes back");
            generation = after.generation;
            prop_assert!(after.consecutive_failures < SETTINGS.failure_threshold
                || after.mode == Mode::ForceClosed || !after.is_closed());
            let probes = held.iter()
                .filter(|permit| permit.is_probe() && permit.generation == after.generation)
                .count();
            prop_assert!(probes <= permits as usize, "{} probes at once", probes);
            // Whatever came before, an automatic circuit finds its way back.
            if after.mode == Mode::Auto && after.state == CircuitState::Open {
                prop_assert!(after.probe_at.is_some());
            }
        }
        held.clear();
        breaker.force(Mode::Auto);
        prop_assert!(breaker.acquire().is_ok());
    }
}

#[test]
fn without_a_probe_out_there_is_none_to_look_after() {
    let (breaker, clock) = breaker();
    trip(&breaker);
    clock.advance(SETTINGS.open_base);
    breaker.reserve_probe().unwrap().neutral();
    assert_eq!(state(&breaker), CircuitState::HalfOpen);
    clock.advance(SETTINGS.probe_timeout);
    assert_eq!(breaker.check_probe(), None);
    assert_eq!(state(&breaker), CircuitState::HalfOpen);
}

#[test]
fn calls_flow_while_it_is_closed_only() {
    let (breaker, clock) = breaker();
    assert!(breaker.snapshot().is_closed());
    trip(&breaker);
    assert!(!breaker.snapshot().is_closed());
    clock.advance(SETTINGS.open_base);
    let _probe = breaker.reserve_probe();
    assert!(!breaker.snapshot().is_closed());
}

#[test]
fn modes_have_the_names_of_the_status() {
    let modes = [Mode::Auto, Mode::ForceOpen, Mode::ForceClosed];
    assert_eq!(
        modes.map(Mode::as_str),
        ["auto", "force_open", "force_closed"]
    );
    assert_eq!(
        modes.map(|mode| Mode::parse(mode.as_str())),
        modes.map(Some)
    );
    assert_eq!(Mode::parse("ajar"), None);
}
