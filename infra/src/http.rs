//! An HTTP client for services on this machine.

use std::sync::Once;

/// A client without a proxy.
///
/// The crate that fetches PostgreSQL enables TLS in every `reqwest` of this build. Then no client can be made, not even
/// for plain HTTP, before a crypto provider is installed.
pub fn client() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder().no_proxy()
}
