//! Which authorities the S3 client trusts: those of the system, or, as with every AWS tool, only those in
//! the bundle that `AWS_CA_BUNDLE` or the profile's `ca_bundle` names.
//!
//! The AWS SDK for Rust does not read that variable itself, and panics over a file that holds no
//! certificates, so the file is looked at here first. `SSL_CERT_FILE` is read by the crate that loads the
//! system's certificates, and so holds for RabbitMQ as well.

use aws_config::SdkConfig;
use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use aws_types::service_config::ServiceConfigKey;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// What the S3 client is to trust. The error is a sentence: the bundle can't be used, so no call can be
/// made.
pub(super) fn tls_context(shared: &SdkConfig) -> Result<TlsContext, String> {
    let Some(path) = bundle(shared) else {
        return Ok(TlsContext::default());
    };
    let unusable = |why: String| format!("AWS_CA_BUNDLE, {path}: {why}");
    let pem = std::fs::read(&path).map_err(|error| unusable(error.to_string()))?;
    check(&pem).map_err(unusable)?;
    let store = TrustStore::empty().with_pem_certificate(pem);
    TlsContext::builder()
        .with_trust_store(store)
        .build()
        .map_err(|error| unusable(error.to_string()))
}

/// The path of the bundle, if one is named.
fn bundle(shared: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_CA_BUNDLE")
        .profile("ca_bundle")
        .build()
        .ok()?;
    let path = shared.service_config()?.load_config(key)?;
    (!path.is_empty()).then_some(path)
}

/// At least one certificate, and none that is broken.
fn check(pem: &[u8]) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("it holds no certificate in PEM form".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_before_the_sdk_panics_over_it() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for pem in ["", "no certificate", broken] {
            assert!(check(pem.as_bytes()).is_err(), "{pem:?}");
        }
    }
}
