//! The OpenAPI document of the whole API: the services' documents, fetched from them and merged with the gateway's
//! own. The gateway knows no service's types, so its document can't be out of date about a service that has changed.
//!
//! * [`merge`]: merges the documents

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpResponse,
    web::{Bytes, Data},
};
use futures_util::future::join_all;
use serde_json::Value;
use service_kit::http::problem::Problem;
use tokio::sync::Mutex;

use crate::proxy::Proxy;

mod merge;

/// How long a merged document is served before the services are asked again.
const CACHE_TTL: Duration = Duration::from_secs(10);

/// How long the services, all asked at once, may take to return their documents.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);

/// The documents fetched so far, shared by all workers.
#[derive(Default)]
pub(crate) struct OpenApiCache {
    /// The last document of each service, in the order of the proxies.
    documents: Vec<Option<Value>>,
    merged: Option<(Instant, Bytes)>,
}

/// Where a worker gets the documents from.
pub(crate) struct Documents {
    pub(crate) proxies: Vec<Data<Proxy>>,
    /// Locked while the services are asked, so that concurrent requests ask them once.
    pub(crate) cache: Arc<Mutex<OpenApiCache>>,
}

/// The handler of `/openapi.json`.
pub(crate) async fn serve_document(documents: Data<Documents>) -> Result<HttpResponse, Problem> {
    let document = documents.merged().await?;
    Ok(HttpResponse::Ok().content_type("application/json").body(document))
}

impl Documents {
    async fn merged(&self) -> Result<Bytes, Problem> {
        let mut cache = self.cache.lock().await;
        if let Some((since, merged)) = &cache.merged
            && since.elapsed() < CACHE_TTL
        {
            return Ok(merged.clone());
        }
        let fetched = join_all(self.proxies.iter().map(|proxy| proxy.fetch_openapi(FETCH_TIMEOUT))).await;
        cache.documents.resize(fetched.len(), None);
        for (document, fetched) in cache.documents.iter_mut().zip(fetched) {
            match fetched {
                Ok(fetched) => *document = Some(fetched),
                // An unavailable service's last document is still right.
                Err(_) if document.is_some() => {}
                Err(problem) => return Err(problem),
            }
        }
        let merged = merge::merge(cache.documents.iter().flatten().cloned()).map_err(|contradiction| {
            tracing::error!(%contradiction, "the services' descriptions contradict each other");
            Problem::bad_gateway(contradiction.to_string())
        })?;
        let merged = Bytes::from(merged.to_string());
        cache.merged = Some((Instant::now(), merged.clone()));
        Ok(merged)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounterVec, Opts};
    use serde_json::json;

    use super::*;
    use crate::{Timeouts, connect, upstream::Upstreams};

    /// Of one service, which can't be reached.
    fn documents(cached: Option<Value>) -> Documents {
        let timeouts = Timeouts::default();
        let proxy = Proxy {
            client: connect::client(timeouts.connect),
            upstreams: Arc::new(Upstreams::new("movie", vec!["http://127.0.0.1:1".parse().unwrap()])),
            timeouts,
            trusted_proxies: Arc::default(),
            failures: IntCounterVec::new(Opts::new("failures", "of a test"), &["service", "kind"]).unwrap(),
        };
        let cache = OpenApiCache { documents: vec![cached], merged: None };
        Documents { proxies: vec![Data::new(proxy)], cache: Arc::new(Mutex::new(cache)) }
    }

    #[actix_web::test]
    async fn the_last_document_of_an_unavailable_service_is_used() {
        let cached =
            json!({"paths": {"/movies": {"get": {"responses": {"200": {"description": "Movies"}}}}}});
        let merged = documents(Some(cached)).merged().await.unwrap();
        let merged: Value = serde_json::from_slice(&merged).unwrap();
        assert_eq!(merged["paths"]["/movies"]["get"]["responses"]["200"]["description"], "Movies");
    }

    #[actix_web::test]
    async fn a_service_that_was_never_available_is_named() {
        let problem = documents(None).merged().await.unwrap_err();
        assert_eq!(
            (problem.status().as_u16(), problem.detail()),
            (503, "the movie service cannot be reached")
        );
    }
}
