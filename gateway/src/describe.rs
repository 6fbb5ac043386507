//! The whole API's description: what the services say of themselves, fetched from them and put together with
//! what the gateway adds. It knows no service's types, so it can't be wrong about one that was changed.

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

/// How long a description is given out before the services are asked again.
const FRESH: Duration = Duration::from_secs(10);

/// How long the services may take to describe themselves, all at the same time.
const LIMIT: Duration = Duration::from_secs(2);

/// What is known of the services, by all workers.
#[derive(Default)]
pub(crate) struct Known {
    /// What each said last, in the order of the proxies.
    parts: Vec<Option<Value>>,
    whole: Option<(Instant, Bytes)>,
}

/// A worker's way to the description.
pub(crate) struct Describer {
    pub(crate) proxies: Vec<Data<Proxy>>,
    /// Held while the services are asked, so that many callers ask once.
    pub(crate) known: Arc<Mutex<Known>>,
}

/// The handler of `/openapi.json`.
pub(crate) async fn describe(describer: Data<Describer>) -> Result<HttpResponse, Problem> {
    let text = describer.whole().await?;
    Ok(HttpResponse::Ok().content_type("application/json").body(text))
}

impl Describer {
    async fn whole(&self) -> Result<Bytes, Problem> {
        let mut known = self.known.lock().await;
        if let Some((since, whole)) = &known.whole
            && since.elapsed() < FRESH
        {
            return Ok(whole.clone());
        }
        let said = join_all(self.proxies.iter().map(|proxy| proxy.description(LIMIT))).await;
        known.parts.resize(said.len(), None);
        for (part, said) in known.parts.iter_mut().zip(said) {
            match said {
                Ok(said) => *part = Some(said),
                // What it said before it went away still holds.
                Err(_) if part.is_some() => {}
                Err(problem) => return Err(problem),
            }
        }
        let parts = known.parts.iter().flatten().cloned();
        let whole = merge::merge(parts).map_err(|contradiction| {
            tracing::error!(%contradiction, "the services' descriptions contradict each other");
            Problem::bad_gateway(contradiction.to_string())
        })?;
        let text = Bytes::from(whole.to_string());
        known.whole = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounterVec, Opts};
    use serde_json::json;

    use super::*;
    use crate::{Limits, connect, upstream::Upstreams};

    /// Before a service that nobody can reach.
    fn describer(said: Option<Value>) -> Describer {
        let limits = Limits::default();
        let proxy = Proxy {
            client: connect::client(limits.connect),
            upstreams: Arc::new(Upstreams::new("movie", vec!["http://127.0.0.1:1".parse().unwrap()])),
            limits,
            trusted: Arc::default(),
            failures: IntCounterVec::new(Opts::new("failures", "of a test"), &["service", "kind"]).unwrap(),
        };
        let known = Known { parts: vec![said], whole: None };
        Describer { proxies: vec![Data::new(proxy)], known: Arc::new(Mutex::new(known)) }
    }

    #[actix_web::test]
    async fn who_is_away_is_described_by_what_it_said_last() {
        let said = json!({"paths": {"/movies": {"get": {"responses": {"200": {"description": "Movies"}}}}}});
        let whole = describer(Some(said)).whole().await.unwrap();
        let whole: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(whole["paths"]["/movies"]["get"]["responses"]["200"]["description"], "Movies");
    }

    #[actix_web::test]
    async fn who_was_never_there_is_named() {
        let problem = describer(None).whole().await.unwrap_err();
        assert_eq!(
            (problem.status().as_u16(), problem.detail()),
            (503, "the movie service cannot be reached")
        );
    }
}
