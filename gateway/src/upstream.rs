//! The replicas of a service, used in turn. A failed replica is skipped for a while.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::{
    error::HttpError,
    http::{
        Uri,
        uri::{Authority, PathAndQuery, Scheme},
    },
};

/// How long a failed replica is skipped, as long as another one is available.
const SKIP_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// `http://host` or `http://host:port`, without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl(Authority);

impl FromStr for UpstreamUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.trim().parse().map_err(|error| format!("not a URL: {error}"))?;
        let authority = match (uri.scheme(), uri.authority()) {
            (Some(scheme), Some(authority)) if *scheme == Scheme::HTTP => authority,
            _ => return Err("must be an http:// URL".to_owned()),
        };
        if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
            return Err("must have nothing but a host and a port".to_owned());
        }
        if authority.host().is_empty() {
            return Err("must have a host".to_owned());
        }
        Ok(Self(authority.clone()))
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

impl UpstreamUrl {
    /// This replica's URL for a request's path and query.
    pub(crate) fn join(&self, path_and_query: PathAndQuery) -> Result<Uri, HttpError> {
        Uri::builder().scheme(Scheme::HTTP).authority(self.0.clone()).path_and_query(path_and_query).build()
    }
}

/// The replicas of one service, shared by all workers.
#[derive(Debug)]
pub(crate) struct Upstreams {
    /// The name in problems, logs and metrics.
    pub(crate) service: &'static str,
    replicas: Vec<Replica>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Replica {
    url: UpstreamUrl,
    skipped_until: Mutex<Option<Instant>>,
}

impl Replica {
    fn is_skipped(&self, now: Instant) -> bool {
        self.skipped_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now < until)
    }
}

impl Upstreams {
    /// `urls` is not empty: clap refuses that.
    pub(crate) fn new(service: &'static str, urls: Vec<UpstreamUrl>) -> Self {
        let replicas = urls.into_iter().map(|url| Replica { url, skipped_until: Mutex::default() }).collect();
        Self { service, replicas, next: AtomicUsize::new(0) }
    }

    /// The next replica that isn't in `tried`, round-robin. A skipped one is used only if there is no other.
    pub(crate) fn pick(&self, tried: &[usize], now: Instant) -> Option<usize> {
        let count = self.replicas.len();
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let untried =
            || (0..count).map(|n| next.wrapping_add(n) % count).filter(|index| !tried.contains(index));
        untried().find(|&index| !self.replicas[index].is_skipped(now)).or_else(|| untried().next())
    }

    pub(crate) fn count(&self) -> usize {
        self.replicas.len()
    }

    pub(crate) fn url(&self, index: usize) -> &UpstreamUrl {
        &self.replicas[index].url
    }

    /// Skips a replica that failed for a while. Returns whether it was not skipped before.
    pub(crate) fn mark_failed(&self, index: usize, now: Instant) -> bool {
        let was_used = !self.replicas[index].is_skipped(now);
        self.skip_until(index, Some(now + SKIP_AFTER_FAILURE));
        was_used
    }

    /// Stops skipping a replica that answered.
    pub(crate) fn mark_available(&self, index: usize) {
        self.skip_until(index, None);
    }

    fn skip_until(&self, index: usize, time: Option<Instant>) {
        *self.replicas[index].skipped_until.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Upstreams {
        Upstreams::new("movie", ["http://a", "http://b", "http://c"].map(|url| url.parse().unwrap()).to_vec())
    }

    #[test]
    fn replicas_take_turns() {
        let (upstreams, now) = (three(), Instant::now());
        let picked: Vec<_> = (0..6).map(|_| upstreams.pick(&[], now)).collect();
        assert_eq!(picked, [Some(0), Some(1), Some(2), Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn a_failed_replica_is_skipped_for_a_while() {
        let (upstreams, now) = (three(), Instant::now());
        assert!(upstreams.mark_failed(1, now));
        assert!(!upstreams.mark_failed(1, now));
        let mut picked: Vec<_> = (0..30).filter_map(|_| upstreams.pick(&[], now)).collect();
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked, [0, 2]);
        let later = now + SKIP_AFTER_FAILURE;
        assert!((0..3).any(|_| upstreams.pick(&[], later) == Some(1)));
        upstreams.mark_available(1);
        assert!((0..3).any(|_| upstreams.pick(&[], now) == Some(1)));
    }

    #[test]
    fn if_all_replicas_have_failed_one_is_tried_anyway() {
        let (upstreams, now) = (three(), Instant::now());
        (0..3).for_each(|index| assert!(upstreams.mark_failed(index, now)));
        assert!(upstreams.pick(&[], now).is_some());
        assert_eq!(upstreams.pick(&[0, 2], now), Some(1));
        assert_eq!(upstreams.pick(&[0, 1, 2], now), None);
    }

    #[test]
    fn a_replica_url_is_joined_with_a_path() {
        let url: UpstreamUrl = "http://[::1]:8083".parse().unwrap();
        let path = PathAndQuery::from_static("/movies/%2e?q=a%20b");
        assert_eq!(url.join(path).unwrap().to_string(), "http://[::1]:8083/movies/%2e?q=a%20b");
    }
}
