//! Something that is not S3 answers at its address for a while: no job is buried, and the queue stays whole.

use bucket_brigade::{
    dev::s3_server::{Fault, Rule, RuleHandle},
    job::{Circuit, Lane, State},
};

use crate::stage::{self, Stage, metric};

const JOBS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_at_s3s_address_buries_no_job_and_all_are_done_when_it_is_gone() {
    let strangers = [
        Fault::status(400, "AuthorizationHeaderMalformed"),
        Fault::status(307, "TemporaryRedirect"),
        Fault::status(401, "Unauthorized"),
        Fault::BareStatus(404),
        // Not in the list: a quota, which only somebody's credit card lifts.
        Fault::status(403, "QuotaExceeded"),
    ];
    let mut stage = Stage::new().await;
    stage.declare().await;
    let puts = (0..JOBS).map(|n| stage::put(&format!("put-{n}"), &format!("k{n}")));
    stage.publish_all(Lane::Upload, puts.collect()).await;
    let worker = stage.worker().await;
    let circuit = stage::circuit_of(&worker, Circuit::Upload);
    let mut before: Option<RuleHandle> = None;
    for stranger in strangers {
        // The next one is there before the last one goes: S3 itself is away all the time.
        let rule = stage.s3.faults().add(Rule::new(stranger));
        if let Some(before) = before.take() {
            before.remove();
        }
        stage::eventually("a call meets it", async || (rule.fired() > 0).then_some(())).await;
        stage::eventually("the circuit opens", async || {
            (!circuit.snapshot().is_closed()).then_some(())
        })
        .await;
        before = Some(rule);
    }
    assert!(stage.dead(Lane::Upload).await.is_empty());
    let page = worker.view().metrics.render().unwrap();
    let parked = "brigade_parked_total{lane=\"upload\",reason=\"misrouted\"}";
    let parked = metric(&page, parked);
    // What was under way when the circuit opened, and a probe for each stranger.
    assert!(
        (5.0..JOBS as f64 / 1.25).contains(&parked),
        "{parked} parked"
    );
    stage.s3.faults().clear();
    stage.until_count(State::Completed, JOBS).await;
    worker.drain(stage::PATIENCE).await;
    stage.assert_all_completed().await;
}
