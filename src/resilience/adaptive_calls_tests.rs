//! The limit and calls that are made up one by one.

use super::*;

const KIB: u64 = 1024;

/// A call of that kind that took so long, and was answered.
fn answered(limit: &AdaptiveLimit, name: &'static str, millis: u64) -> EndedCall {
    EndedCall {
        kind: CallKind::new(name, KIB, false),
        epoch: limit.epoch(),
        took: Duration::from_millis(millis),
        full: true,
        end: CallEnd::Answered,
    }
}

#[test]
fn a_limit_that_time_outs_made_low_grows_again_though_calls_stay_slower() {
    for (lowest, millis) in [(1, 28), (1, 34), (1, 48), (1, 200), (4, 34), (4, 48)] {
        let mut limit = AdaptiveLimit::new(64, Duration::from_secs(10));
        for _ in 0..1_000 {
            limit.saw(&answered(&limit, "put_object", 20));
        }
        assert_eq!(limit.limit(), 64);
        while limit.limit() > lowest {
            let end = CallEnd::TimedOut;
            limit.saw(&EndedCall {
                end,
                ..answered(&limit, "put_object", 20)
            });
        }
        for _ in 0..50_000 {
            limit.saw(&answered(&limit, "put_object", millis));
        }
        assert!(
            limit.limit() > 32,
            "from {lowest} with {millis} ms: {}",
            limit.limit()
        );
    }
}

#[test]
fn kinds_that_are_gone_make_room_for_new_ones() {
    const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let mut limit = AdaptiveLimit::new(64, Duration::from_secs(10));
    for size in 0..10 {
        for name in NAMES {
            let kind = CallKind::new(name, (16 * KIB) << size, false);
            // A quiet lane: it is not the limit that holds calls back.
            limit.saw(&EndedCall {
                kind,
                full: false,
                ..answered(&limit, name, 20)
            });
        }
    }
    assert_eq!(limit.limit(), 8);
    for _ in 0..1_000 {
        limit.saw(&answered(&limit, "put_object", 20));
    }
    assert_eq!(limit.limit(), 64);
}

#[test]
fn what_was_on_its_way_when_the_limit_fell_does_not_make_it_fall_again() {
    let mut limit = AdaptiveLimit::new(64, Duration::from_secs(10));
    let call = |epoch, end| EndedCall {
        kind: CallKind::new("put_object", KIB, false),
        epoch,
        took: Duration::from_millis(20),
        full: true,
        end,
    };
    for _ in 0..8 {
        limit.saw(&call(0, CallEnd::TimedOut));
    }
    assert_eq!((limit.limit(), limit.epoch()), (4, 1));
    for _ in 0..100 {
        limit.saw(&call(limit.epoch(), CallEnd::TimedOut));
    }
    assert_eq!(limit.limit(), 1, "one is the least");
}
