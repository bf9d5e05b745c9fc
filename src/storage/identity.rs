//! The credentials that requests are signed with: checked before the SDK sees them, and asked for anew.
//!
//! The SDK reads a file of credentials once, and panics over a key that no HTTP header can carry. So it is given
//! this provider, which builds the whole chain of providers anew each time: after [`KEEP`] at the latest, before
//! they expire, and once S3 has refused them. The SDK's own cache is off. It knows nothing of S3's errors; whoever
//! reads them calls [`Identity::refused`].

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use aws_credential_types::provider::{
    self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future,
};
use aws_sdk_s3::config::Credentials;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

/// Nothing is used for longer without asking where it came from; from the issue of rotated files.
const KEEP: Duration = Duration::from_secs(5 * 60);
/// Refused or missing ones are asked for no more often; a probe comes more rarely.
const SPACING: Duration = Duration::from_secs(1);
/// Good ones that could not be renewed are tried again so much later.
const RENEW_AGAIN: Duration = Duration::from_secs(15);
/// This long before they expire they are no longer used; as the SDK does it.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
/// For the whole chain; as the SDK does it.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Where they come from, built anew: a chain remembers what it has read.
pub(super) type Chain =
    Box<dyn Fn() -> BoxFuture<'static, SharedCredentialsProvider> + Send + Sync>;

/// One for all lanes; a clone is the same one.
#[derive(Clone)]
pub(super) struct Identity(Arc<Inner>);

struct Inner {
    chain: Chain,
    /// Nothing awaits under it.
    state: Mutex<State>,
    /// Held by whoever asks the chain.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    kept: Option<Kept>,
    /// Why there are none, and since when.
    missing: Option<(Instant, Missing)>,
}

struct Kept {
    credentials: Credentials,
    asked_at: Instant,
    /// From then on the chain is asked again.
    ask_at: Instant,
    refused: bool,
}

/// An error of the SDK's that can be given to several requests.
#[derive(Clone)]
enum Missing {
    Invalid(String),
    Unavailable(String),
}

impl Identity {
    pub(super) fn new(chain: Chain) -> Self {
        Self(Arc::new(Inner {
            chain,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// The same over a provider that is not built anew.
    pub(super) fn over(provider: SharedCredentialsProvider) -> Self {
        Self::new(Box::new(move || {
            futures_util::future::ready(provider.clone()).boxed()
        }))
    }

    /// S3 has refused them: the next request asks for others.
    pub(super) fn refused(&self) {
        if let Some(kept) = &mut self.lock().kept {
            kept.refused = true;
            kept.ask_at = kept.ask_at.min(kept.asked_at + SPACING);
        }
    }

    async fn give(&self) -> provider::Result {
        if let Some(credentials) = self.lock().fresh() {
            return Ok(credentials);
        }
        let usable = self.lock().usable();
        let _turn = match usable {
            // Somebody is renewing them.
            Some(credentials) => match self.0.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(credentials),
            },
            None => self.0.turn.lock().await,
        };
        // Somebody else may have asked meanwhile.
        if let Some(known) = self.lock().known() {
            return known;
        }
        let found = self.ask().await;
        self.lock().take_in(found, Instant::now())
    }

    async fn ask(&self) -> Result<Credentials, Missing> {
        let asking = async { (self.0.chain)().await.provide_credentials().await };
        let asking = AssertUnwindSafe(asking).catch_unwind();
        match tokio::time::timeout(ASK_TIMEOUT, asking).await {
            Ok(Ok(Ok(credentials))) => fit(credentials).map_err(Missing::Invalid),
            Ok(Ok(Err(error))) => Err(Missing::of(&error)),
            // A key that a provider signs a request of its own with.
            Ok(Err(_)) => Err(Missing::Invalid(
                "a provider panicked over what it was given: see that no key, token or region has a line break"
                    .to_owned(),
            )),
            Err(_) => Err(Missing::Unavailable(format!(
                "no provider gave any within {ASK_TIMEOUT:?}"
            ))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fresh(&self) -> Option<Credentials> {
        let kept = self.kept.as_ref()?;
        let good = Instant::now() < kept.ask_at && !kept.is_expired();
        good.then(|| kept.credentials.clone())
    }

    /// Those that may be used while no better ones are at hand.
    fn usable(&self) -> Option<Credentials> {
        let kept = self.kept.as_ref()?;
        let good = !kept.refused && !kept.is_expired();
        good.then(|| kept.credentials.clone())
    }

    /// What needs no asking.
    fn known(&self) -> Option<provider::Result> {
        if let Some(credentials) = self.fresh() {
            return Some(Ok(credentials));
        }
        let (since, missing) = self.missing.as_ref()?;
        (since.elapsed() < SPACING).then(|| Err(missing.clone().into()))
    }

    fn take_in(&mut self, found: Result<Credentials, Missing>, now: Instant) -> provider::Result {
        match found {
            Ok(credentials) => {
                let changed = self.kept.as_ref().is_some_and(|kept| {
                    kept.credentials.access_key_id() != credentials.access_key_id()
                });
                if changed {
                    tracing::info!("other S3 credentials were found, and are used from now on");
                }
                self.missing = None;
                self.kept = Some(Kept {
                    credentials: credentials.clone(),
                    asked_at: now,
                    ask_at: now + KEEP,
                    refused: false,
                });
                Ok(credentials)
            }
            Err(missing) => {
                if let (Some(usable), Some(kept)) = (self.usable(), &mut self.kept) {
                    kept.ask_at = now + RENEW_AGAIN;
                    tracing::warn!(
                        why = missing.text(),
                        "S3 credentials could not be renewed; those at hand are used on"
                    );
                    return Ok(usable);
                }
                self.missing = Some((now, missing.clone()));
                Err(missing.into())
            }
        }
    }
}

impl Kept {
    fn is_expired(&self) -> bool {
        let until = self.credentials.expiry();
        until.is_some_and(|until| until <= SystemTime::now() + EXPIRY_MARGIN)
    }
}

impl Missing {
    fn of(error: &CredentialsError) -> Self {
        let said = std::iter::successors(std::error::Error::source(error), |error| error.source());
        let said: Vec<String> = said.map(ToString::to_string).collect();
        let text = if said.is_empty() {
            error.to_string()
        } else {
            said.join(": ")
        };
        match error {
            CredentialsError::InvalidConfiguration(_) => Self::Invalid(text),
            _ => Self::Unavailable(text),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Invalid(text) | Self::Unavailable(text) => text,
        }
    }
}

impl From<Missing> for CredentialsError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Invalid(text) => Self::invalid_configuration(text),
            Missing::Unavailable(text) => Self::not_loaded(text),
        }
    }
}

/// The credentials without white space at the ends of their parts. The error names a part that can't be sent.
fn fit(found: Credentials) -> Result<Credentials, String> {
    let (key, secret) = (found.access_key_id(), found.secret_access_key());
    let token = found.session_token();
    if let Some(why) = unfit(key, secret, token) {
        return Err(why);
    }
    let has_more = |text: &str| text.trim().len() < text.len();
    if !has_more(key) && !has_more(secret) && !token.is_some_and(has_more) {
        return Ok(found);
    }
    tracing::warn!("white space at the ends of S3 credentials is left out");
    let token = token.map(|token| token.trim().to_owned());
    let mut fit = Credentials::builder()
        .access_key_id(key.trim())
        .secret_access_key(secret.trim())
        .provider_name("trimmed");
    fit.set_session_token(token);
    fit.set_expiry(found.expiry());
    fit.set_account_id(found.account_id().cloned());
    Ok(fit.build())
}

/// Which part can't be sent, white space at its ends apart, and why; without its value.
pub(super) fn unfit(key: &str, secret: &str, token: Option<&str>) -> Option<String> {
    let parts = [
        ("access key id", "AWS_ACCESS_KEY_ID", key),
        ("secret access key", "AWS_SECRET_ACCESS_KEY", secret),
        (
            "session token",
            "AWS_SESSION_TOKEN",
            token.unwrap_or("none"),
        ),
    ];
    parts.into_iter().find_map(|(name, variable, value)| {
        let value = value.trim();
        let bad = value.chars().position(|c| !c.is_ascii_graphic());
        let why = match bad {
            _ if value.is_empty() && name != "session token" => "is empty".to_owned(),
            Some(at) => format!("has a character at place {} that no request can carry", at + 1),
            None => return None,
        };
        Some(format!(
            "the {name} {why}: correct it where it comes from ({variable}, the shared credentials file, a \
             credential process or another provider)"
        ))
    })
}

impl ProvideCredentials for Identity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.give())
    }
}

/// Nothing of what it keeps.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
