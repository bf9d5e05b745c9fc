//! The HTTP client under the SDK: through the proxy that the environment names, or straight.
//!
//! The variables are those of every tool: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, in capitals or not. An
//! `https` endpoint goes through a tunnel (`CONNECT`), so that a proxy sees neither keys nor bytes. The SDK's simple
//! builder of clients takes no proxy, so the connector is made here. It knows no settings.

use std::time::Duration;

use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{self, TlsContext},
};

/// A client whose idle connections live for `idle`.
pub(super) fn http_client(
    trusted: TlsContext,
    proxy: ProxyConfig,
    idle: Duration,
) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .pool_idle_timeout(idle)
            .proxy_config(proxy.clone());
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::AwsLc,
            ))
            .tls_context(trusted.clone())
            .build()
    })
}
