//! An HTTP client for services on this machine.

use std::sync::Once;

/// A client that asks no proxy.
///
/// What fetches PostgreSQL brings TLS into every `reqwest` of this build, and then none can be made, not even
/// for plain HTTP, before a provider of its cryptography is installed.
pub fn client() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error says that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder().no_proxy()
}
