//! A service's replicas, used in turn; one that is away is passed over for a while.

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

/// How long a replica that failed is passed over, while another one is there.
pub(crate) const AWAY: Duration = Duration::from_secs(1);

/// `http://host` or `http://host:port`, and nothing more.
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
    pub(crate) fn with(&self, path_and_query: PathAndQuery) -> Result<Uri, HttpError> {
        Uri::builder().scheme(Scheme::HTTP).authority(self.0.clone()).path_and_query(path_and_query).build()
    }
}

/// The replicas of one service, shared by all workers.
#[derive(Debug)]
pub(crate) struct Upstreams {
    /// As clients and logs know it.
    pub(crate) service: &'static str,
    replicas: Vec<Replica>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Replica {
    url: UpstreamUrl,
    away_until: Mutex<Option<Instant>>,
}

impl Replica {
    fn is_away(&self, now: Instant) -> bool {
        self.away_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now < until)
    }
}

impl Upstreams {
    /// `urls` is not empty: clap refuses that.
    pub(crate) fn new(service: &'static str, urls: Vec<UpstreamUrl>) -> Self {
        let replicas = urls.into_iter().map(|url| Replica { url, away_until: Mutex::default() }).collect();
        Self { service, replicas, turn: AtomicUsize::new(0) }
    }

    /// The next replica in turn that isn't in `tried`: one that isn't known to be away if there is one.
    pub(crate) fn pick(&self, tried: &[usize], now: Instant) -> Option<usize> {
        let count = self.replicas.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn =
            || (0..count).map(|n| turn.wrapping_add(n) % count).filter(|index| !tried.contains(index));
        in_turn().find(|&index| !self.replicas[index].is_away(now)).or_else(|| in_turn().next())
    }

    pub(crate) fn count(&self) -> usize {
        self.replicas.len()
    }

    pub(crate) fn url(&self, index: usize) -> &UpstreamUrl {
        &self.replicas[index].url
    }

    /// The replica could not be reached, cut the connection, or did not answer. Says whether that is news.
    pub(crate) fn failed(&self, index: usize, now: Instant) -> bool {
        let news = !self.replicas[index].is_away(now);
        self.set(index, Some(now + AWAY));
        news
    }

    /// The replica answered.
    pub(crate) fn answered(&self, index: usize) {
        self.set(index, None);
    }

    fn set(&self, index: usize, away_until: Option<Instant>) {
        *self.replicas[index].away_until.lock().unwrap_or_else(PoisonError::into_inner) = away_until;
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
    fn one_that_is_away_is_passed_over_for_a_while() {
        let (upstreams, now) = (three(), Instant::now());
        assert!(upstreams.failed(1, now));
        assert!(!upstreams.failed(1, now));
        let mut picked: Vec<_> = (0..30).filter_map(|_| upstreams.pick(&[], now)).collect();
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked, [0, 2]);
        let later = now + AWAY;
        assert!((0..3).any(|_| upstreams.pick(&[], later) == Some(1)));
        upstreams.answered(1);
        assert!((0..3).any(|_| upstreams.pick(&[], now) == Some(1)));
    }

    #[test]
    fn when_all_are_away_one_is_tried_all_the_same() {
        let (upstreams, now) = (three(), Instant::now());
        (0..3).for_each(|index| assert!(upstreams.failed(index, now)));
        assert!(upstreams.pick(&[], now).is_some());
        assert_eq!(upstreams.pick(&[0, 2], now), Some(1));
        assert_eq!(upstreams.pick(&[0, 1, 2], now), None);
    }

    #[test]
    fn urls_are_put_together() {
        let url: UpstreamUrl = "http://[::1]:8083".parse().unwrap();
        let path = PathAndQuery::from_static("/movies/%2e?q=a%20b");
        assert_eq!(url.with(path).unwrap().to_string(), "http://[::1]:8083/movies/%2e?q=a%20b");
    }
}
