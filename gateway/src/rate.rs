//! How many requests a second one client may make.
//!
//! The generic cell rate algorithm (ITU-T I.371), a leaky bucket without a timer: all that is kept of a client is
//! the moment at which its whole second will be free again. Who waits evenly is never refused; who has been silent
//! may make a second's worth at once.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{
    Error, ResponseError as _,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
};
use prometheus::{IntCounter, Registry};
use service_kit::http::problem::Problem;

use crate::client::TrustedProxies;

/// Clients that are known at once. Each is forgotten when it has been silent for a second; beyond this many, all new
/// ones share one client's rate.
const CLIENTS_MAX: usize = 65_536;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// When a whole second's worth is there again, and at the latest one more request is.
const WINDOW_SECS: u64 = 1;

pub(crate) struct RateLimit {
    per_second: u32,
    trusted: Arc<TrustedProxies>,
    clients: Mutex<Clients>,
    refused: IntCounter,
}

#[derive(Default)]
struct Clients {
    /// When all that a client has used will be free again.
    free_at: HashMap<IpAddr, Instant>,
    swept: Option<Instant>,
}

impl RateLimit {
    pub(crate) fn new(
        per_second: u32,
        trusted: Arc<TrustedProxies>,
        registry: &Registry,
    ) -> anyhow::Result<Self> {
        let refused =
            IntCounter::new("gateway_rate_limited_total", "Requests over RATE_LIMIT, answered 429")?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { per_second, trusted, clients: Mutex::default(), refused })
    }

    /// How many more requests the client may make at once; nothing if this one is over the limit.
    fn take(&self, client: IpAddr, now: Instant) -> Option<u32> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.take(group(client), self.per_second, now)
    }

    fn tell(&self, left: u32, headers: &mut HeaderMap) {
        let policy = format!("\"default\";q={};w={WINDOW_SECS}", self.per_second);
        let state = format!("\"default\";r={left};t={WINDOW_SECS}");
        for (name, value) in [(RATELIMIT_POLICY, policy), (RATELIMIT, state)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

impl Clients {
    fn take(&mut self, client: IpAddr, per_second: u32, now: Instant) -> Option<u32> {
        self.sweep(now);
        let known = self.free_at.len() < CLIENTS_MAX || self.free_at.contains_key(&client);
        let client = if known { client } else { Ipv6Addr::UNSPECIFIED.into() };
        let each = Duration::from_secs(WINDOW_SECS) / per_second;
        let free_at = self.free_at.get(&client).map_or(now, |at| now.max(*at)) + each;
        let left = (now + each * per_second).checked_duration_since(free_at)?;
        self.free_at.insert(client, free_at);
        u32::try_from(left.as_nanos() / each.as_nanos()).ok()
    }

    /// Once a second, so that each is looked at about once for every time it came.
    fn sweep(&mut self, now: Instant) {
        let due = self.swept.is_none_or(|swept| now - swept >= Duration::from_secs(WINDOW_SECS));
        if due {
            self.free_at.retain(|_, free_at| *free_at > now);
            self.swept = Some(now);
        }
    }
}

/// A household or a server has at least a /64 of IPv6 to draw addresses from: they count as one.
fn group(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// Around the routes, except those for probes and scrapes.
pub(crate) async fn limited(
    limit: Option<Arc<RateLimit>>,
    req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, Error> {
    let (Some(limit), Some(peer)) = (limit, req.peer_addr()) else { return next.call(req).await };
    let left = limit.take(limit.trusted.client(peer, req.headers()), Instant::now());
    let mut response = if left.is_some() {
        next.call(req).await?
    } else {
        limit.refused.inc();
        let detail = format!("one client address may make {} requests a second", limit.per_second);
        req.into_response(Problem::too_many_requests(detail, WINDOW_SECS).error_response())
    };
    limit.tell(left.unwrap_or(0), response.headers_mut());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn a_seconds_worth_at_once_and_then_one_by_one() {
        for per_second in [1, 3, 10, 700_000] {
            let (mut clients, start) = (Clients::default(), Instant::now());
            let mut take = |now| clients.take(address(1), per_second, now);
            for left in (0..per_second).rev() {
                assert_eq!(take(start), Some(left));
            }
            let each = Duration::from_secs(1) / per_second;
            assert_eq!(take(start), None);
            // To ask in vain costs nothing.
            assert_eq!(take(start + each - Duration::from_nanos(1)), None);
            assert_eq!(take(start + each), Some(0));
            assert_eq!(take(start + each), None);
            assert_eq!(take(start + Duration::from_secs(5)), Some(per_second - 1));
        }
    }

    #[test]
    fn each_client_has_its_own() {
        let (mut clients, now) = (Clients::default(), Instant::now());
        assert_eq!(clients.take(address(1), 1, now), Some(0));
        assert_eq!(clients.take(address(1), 1, now), None);
        assert_eq!(clients.take(address(2), 1, now), Some(0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let group = |text: &str| group(text.parse().unwrap()).to_string();
        assert_eq!(group("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(group("192.0.2.1"), "192.0.2.1");
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_room() {
        let (mut clients, now) = (Clients::default(), Instant::now());
        let most = u32::try_from(CLIENTS_MAX).unwrap();
        assert!((0..most).all(|n| clients.take(address(n), 1, now).is_some()));
        // The first of the others has their share.
        assert_eq!(clients.take(address(most), 1, now), Some(0));
        assert!((most + 1..2 * most).all(|n| clients.take(address(n), 1, now).is_none()));
        assert_eq!(clients.free_at.len(), CLIENTS_MAX + 1);
        // The known ones keep theirs.
        let later = now + Duration::from_millis(999);
        assert_eq!(clients.take(address(0), 1, later), None);
        let later = now + Duration::from_secs(1);
        assert_eq!(clients.take(address(most + 1), 1, later), Some(0));
        assert_eq!(clients.free_at.len(), 1);
    }
}
