//! In which region a bucket is, when S3 says that it is not where the settings say.
//!
//! S3 names the region in a header, in its error document, or in the host to which it redirects. It is remembered
//! per bucket and holds for every later request, whatever operation and lane. Only the region is followed, never
//! the host: what answers must not choose where a job's bytes go (facts: s3.md, 10).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_sdk_s3::config::{
    endpoint::{DefaultResolver, EndpointFuture, Params, ResolveEndpoint},
    http::HttpResponse,
};

/// Names come from messages: with more buckets than this all is forgotten.
const MOST_BUCKETS: usize = 1000;
/// Longer names of regions are none.
const LONGEST: usize = 40;

/// Buckets and their regions, where they differ from the settings. Shared by all lanes.
#[derive(Debug, Default)]
pub(super) struct Regions {
    /// Nothing awaits under it.
    buckets: Mutex<BTreeMap<String, String>>,
    /// Whether there is any: asked before every request, which mostly is all.
    any: AtomicBool,
}

impl Regions {
    /// The bucket's region, if S3 has named another than the settings do.
    pub(super) fn of(&self, bucket: &str) -> Option<String> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        self.lock().get(bucket).cloned()
    }

    /// Takes in what an error says of the bucket's region. True when it is another than the one that was used,
    /// so that the same request is worth making again. `configured` is the settings' region.
    pub(super) fn learn(&self, bucket: &str, configured: Option<&str>, raw: &HttpResponse) -> bool {
        let Some(hint) = hint(raw) else { return false };
        let used = self.of(bucket);
        if used.as_deref().or(configured) == Some(hint.as_str()) {
            return false;
        }
        tracing::info!(
            bucket,
            region = hint,
            "the bucket is in another region, which is used from now on"
        );
        let mut buckets = self.lock();
        if buckets.len() >= MOST_BUCKETS && !buckets.contains_key(bucket) {
            buckets.clear();
        }
        buckets.insert(bucket.to_owned(), hint);
        self.any.store(true, Ordering::Relaxed);
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The SDK's own endpoints, for the regions that buckets are in.
#[derive(Debug)]
pub(super) struct ByBucket {
    regions: Arc<Regions>,
    inner: DefaultResolver,
}

impl ByBucket {
    pub(super) fn new(regions: Arc<Regions>) -> Self {
        let inner = DefaultResolver::new();
        Self { regions, inner }
    }
}

impl ResolveEndpoint for ByBucket {
    fn resolve_endpoint<'a>(&'a self, params: &'a Params) -> EndpointFuture<'a> {
        let region = params.bucket().and_then(|bucket| self.regions.of(bucket));
        match region.map(|region| in_region(params, region)) {
            None => self.inner.resolve_endpoint(params),
            Some(Ok(params)) => {
                EndpointFuture::new(async move { self.inner.resolve_endpoint(&params).await })
            }
            Some(Err(error)) => EndpointFuture::ready(Err(error.into())),
        }
    }
}

/// The same question for another region. Signatures follow: their region comes with the endpoint.
fn in_region(
    params: &Params,
    region: String,
) -> Result<Params, aws_sdk_s3::config::endpoint::InvalidParams> {
    let text = |text: Option<&str>| text.map(str::to_owned);
    Params::builder()
        .region(region)
        .set_bucket(text(params.bucket()))
        .set_key(text(params.key()))
        .set_prefix(text(params.prefix()))
        .set_copy_source(text(params.copy_source()))
        .set_endpoint(text(params.endpoint()))
        .set_use_fips(params.use_fips())
        .set_use_dual_stack(params.use_dual_stack())
        .set_force_path_style(params.force_path_style())
        .set_accelerate(params.accelerate())
        .set_use_global_endpoint(params.use_global_endpoint())
        .set_use_object_lambda_endpoint(params.use_object_lambda_endpoint())
        .set_disable_access_points(params.disable_access_points())
        .set_disable_multi_region_access_points(params.disable_multi_region_access_points())
        .set_use_arn_region(params.use_arn_region())
        .set_use_s3_express_control_endpoint(params.use_s3_express_control_endpoint())
        .set_disable_s3_express_session_auth(params.disable_s3_express_session_auth())
        .build()
}

/// The region that an error names: in S3's header, its document, or the host that it points to.
fn hint(raw: &HttpResponse) -> Option<String> {
    if !(300..500).contains(&raw.status().as_u16()) {
        return None;
    }
    let header = |name| raw.headers().get(name);
    let body = raw.body().bytes().unwrap_or_default();
    let body = std::str::from_utf8(body).unwrap_or_default();
    let document = body.contains("<Error");
    let named = header("x-amz-bucket-region")
        .or_else(|| element(body, "Region").filter(|_| document))
        .or_else(|| expected(element(body, "Message")?).filter(|_| document));
    let host = || header("location").or_else(|| element(body, "Endpoint").filter(|_| document));
    named
        .or_else(|| region_of(host()?))
        .filter(|it| is_region(it))
        .map(str::to_owned)
}

/// The text of the first such element.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0.trim())
}

/// "the region 'us-east-1' is wrong; expecting 'eu-west-1'" expects eu-west-1.
fn expected(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("expecting ")?;
    rest.strip_prefix('\'')
        .or_else(|| rest.strip_prefix("&apos;"))?
        .split(['\'', '&'])
        .next()
}

/// `https://b.s3.eu-west-1.amazonaws.com/k` and `s3-eu-west-1.amazonaws.com` are in eu-west-1.
fn region_of(place: &str) -> Option<&str> {
    let rest = place.split_once("://").map_or(place, |(_, rest)| rest);
    let host = rest.split(['/', '?', ':']).next()?;
    let mut labels = host
        .split('.')
        .skip_while(|label| *label != "s3" && !label.starts_with("s3-"));
    let region = match labels.next()?.strip_prefix("s3-") {
        Some(region) => region,
        None => labels.find(|label| *label != "dualstack")?,
    };
    // A name of the Internet is no region: those have a number at their end, or a hyphen.
    (labels.next().is_some() && region.contains('-')).then_some(region)
}

fn is_region(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=LONGEST).contains(&name.len()) && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::SdkBody;

    use super::*;

    fn raw(status: u16, header: Option<(&'static str, &str)>, body: &str) -> HttpResponse {
        let mut raw = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
        if let Some((name, value)) = header {
            raw.headers_mut().insert(name, value.to_owned());
        }
        raw
    }

    #[test]
    fn a_region_is_read_wherever_a_store_writes_it() {
        let malformed =
            "<Error><Code>AuthorizationHeaderMalformed</Code><Region>garage</Region></Error>";
        let expecting = "<Error><Message>the region is wrong; expecting 'eu-x-1'</Message></Error>";
        let endpoint = "<Error><Endpoint>b.s3-us-west-2.amazonaws.com</Endpoint></Error>";
        let location = (
            "location",
            "https://s3.dualstack.eu-west-3.amazonaws.com/b/k",
        );
        let rows = [
            (
                raw(301, Some(("x-amz-bucket-region", "eu-west-1")), ""),
                Some("eu-west-1"),
            ),
            (raw(400, None, malformed), Some("garage")),
            (raw(400, None, expecting), Some("eu-x-1")),
            (raw(301, None, endpoint), Some("us-west-2")),
            (raw(307, Some(location), ""), Some("eu-west-3")),
            (
                raw(
                    307,
                    Some(("location", "http://other-host.example:9000/b/k")),
                    "",
                ),
                None,
            ),
            (
                raw(302, Some(("location", "https://s3.example.com/login")), ""),
                None,
            ),
            (
                raw(301, Some(("x-amz-bucket-region", "a.evil.example/")), ""),
                None,
            ),
            (
                raw(503, Some(("x-amz-bucket-region", "eu-west-1")), ""),
                None,
            ),
            (raw(403, None, "<html><Region>eu-west-1</Region>"), None),
        ];
        for (raw, region) in rows {
            assert_eq!(hint(&raw).as_deref(), region, "{raw:?}");
        }
    }

    #[test]
    fn a_region_is_learnt_once_and_the_buckets_are_bounded() {
        let regions = Regions::default();
        let answer = raw(301, Some(("x-amz-bucket-region", "eu-west-1")), "");
        assert!(
            !regions.learn("b", Some("eu-west-1"), &answer),
            "known from the settings"
        );
        assert!(regions.learn("b", Some("us-east-1"), &answer));
        assert!(
            !regions.learn("b", Some("us-east-1"), &answer),
            "known by now"
        );
        assert_eq!(regions.of("b").as_deref(), Some("eu-west-1"));
        assert_eq!(regions.of("c"), None);
        for number in 0..5000 {
            regions.learn(&number.to_string(), Some("us-east-1"), &answer);
            assert!(regions.lock().len() <= MOST_BUCKETS);
        }
    }
}
