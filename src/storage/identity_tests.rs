use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

type Answer = Result<Credentials, CredentialsError>;

/// An identity whose chain gives what `answer` makes of the number of the question, from 0.
fn asking(
    answer: impl Fn(usize) -> Answer + Clone + Send + Sync + 'static,
) -> (Identity, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let identity = Identity::new(Box::new(move || {
        let (answer, number) = (answer.clone(), count.fetch_add(1, Ordering::Relaxed));
        let provider = aws_credential_types::credential_fn::provide_credentials_fn(move || {
            let answer = answer(number);
            async move {
                tokio::task::yield_now().await;
                answer
            }
        });
        futures_util::future::ready(SharedCredentialsProvider::new(provider)).boxed()
    }));
    (identity, asked)
}

fn numbered(number: usize) -> Answer {
    Ok(of(&format!("KEY{number}"), "secret", None))
}

fn of(key: &str, secret: &str, token: Option<&str>) -> Credentials {
    Credentials::new(key, secret, token.map(str::to_owned), None, "test")
}

async fn key(identity: &Identity) -> String {
    let given = identity.provide_credentials().await.unwrap();
    given.access_key_id().to_owned()
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_asked_for_anew_but_not_at_every_request() {
    let (identity, asked) = asking(numbered);
    assert_eq!(key(&identity).await, "KEY0");
    identity.refused();
    assert_eq!(key(&identity).await, "KEY0", "asked for a moment ago");
    tokio::time::advance(SPACING).await;
    assert_eq!(key(&identity).await, "KEY1");
    for _ in 0..100 {
        assert_eq!(key(&identity).await, "KEY1");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_used_for_more_than_five_minutes_without_asking() {
    let (identity, _) = asking(numbered);
    assert_eq!(key(&identity).await, "KEY0");
    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(key(&identity).await, "KEY0");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(key(&identity).await, "KEY1");
}

#[tokio::test(start_paused = true)]
async fn credentials_about_to_expire_are_renewed() {
    let (identity, _) = asking(|number| {
        let mut given = numbered(number)?;
        if number == 0 {
            *given.expiry_mut() = Some(SystemTime::now() + Duration::from_secs(9));
        }
        Ok(given)
    });
    assert_eq!(key(&identity).await, "KEY0");
    assert_eq!(key(&identity).await, "KEY1");
}

#[tokio::test(start_paused = true)]
async fn good_ones_outlive_a_provider_that_is_gone_and_refused_ones_do_not() {
    let (identity, asked) = asking(|number| match number {
        0 => numbered(0),
        _ => Err(CredentialsError::not_loaded("the sidecar is gone")),
    });
    assert_eq!(key(&identity).await, "KEY0");
    tokio::time::advance(KEEP).await;
    assert_eq!(key(&identity).await, "KEY0");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(key(&identity).await, "KEY0");
    assert_eq!(asked.load(Ordering::Relaxed), 2, "not at every request");
    identity.refused();
    tokio::time::advance(RENEW_AGAIN).await;
    let error = identity.provide_credentials().await.unwrap_err();
    let error = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.contains("the sidecar is gone"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn requests_at_the_same_time_ask_once() {
    for answer in [numbered as fn(usize) -> Answer, |_| {
        Err(CredentialsError::not_loaded_no_source())
    }] {
        let (identity, asked) = asking(answer);
        let all = (0..50).map(|_| identity.provide_credentials());
        futures_util::future::join_all(all).await;
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_or_panics_is_an_error() {
    let hangs = Identity::new(Box::new(|| futures_util::future::pending().boxed()));
    let panics = Identity::new(Box::new(|| async { panic!("HeaderValue") }.boxed()));
    for (identity, invalid) in [(hangs, false), (panics, true)] {
        let error = identity.provide_credentials().await.unwrap_err();
        assert_eq!(
            matches!(error, CredentialsError::InvalidConfiguration(_)),
            invalid,
            "{error:?}"
        );
    }
}

#[test]
fn white_space_at_the_ends_is_left_out() {
    let given = fit(of("KEY\n", " se/cr+et\r\n", Some("token=\n"))).unwrap();
    assert_eq!(given.access_key_id(), "KEY");
    assert_eq!(given.secret_access_key(), "se/cr+et");
    assert_eq!(given.session_token(), Some("token="));
}

#[test]
fn what_no_header_takes_is_named_and_not_shown() {
    for (given, name) in [
        (of("KE\nY", "s", None), "the access key id has"),
        (of("KEYé", "s", None), "the access key id has"),
        (
            of("KEY", "hunter2 hunter2", None),
            "the secret access key has",
        ),
        (
            of("KEY", "s", Some("hunter2\u{0}")),
            "the session token has",
        ),
        (of(" \n", "s", None), "the access key id is empty"),
    ] {
        let why = fit(given).unwrap_err();
        assert!(why.starts_with(name) && why.contains("AWS_"), "{why}");
        assert!(!why.contains("hunter2"), "{why}");
    }
}
