//! How many requests a second one client may make.
//!
//! The generic cell rate algorithm (ITU-T I.371), a leaky bucket without a timer: per client it stores one time only,
//! the theoretical arrival time of the next request. Evenly spaced requests are never limited; after a pause a client
//! may burst one second's quota.
//!
//! Not by the crate `governor`: its stores can't cap the number of clients, so the map, its sweep and the cap would still be
//! needed here. It would replace five lines of arithmetic.

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

use crate::client_address::TrustedProxies;

/// Clients that are tracked at once. A client is removed about a second after its last request. Beyond this number, all
/// new clients share the quota of one.
const CLIENTS_MAX: usize = 65_536;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The time in which a used-up quota is restored. One more request is allowed after this at the latest.
const WINDOW_SECS: u64 = 1;

pub(crate) struct RateLimit {
    per_second: u32,
    trusted_proxies: Arc<TrustedProxies>,
    clients: Mutex<Clients>,
    refused: IntCounter,
}

#[derive(Default)]
struct Clients {
    /// The theoretical arrival time of each client's next request: until then part of its quota is used.
    arrivals: HashMap<IpAddr, Instant>,
    last_sweep: Option<Instant>,
}

impl RateLimit {
    pub(crate) fn new(
        per_second: u32,
        trusted_proxies: Arc<TrustedProxies>,
        registry: &Registry,
    ) -> anyhow::Result<Self> {
        let refused =
            IntCounter::new("gateway_rate_limited_total", "Requests over RATE_LIMIT, answered 429")?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { per_second, trusted_proxies, clients: Mutex::default(), refused })
    }

    /// Counts a request. Returns how many more the client may make at once, or `None` if this one is over the limit.
    fn try_acquire(&self, client: IpAddr, now: Instant) -> Option<u32> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.try_acquire(client_key(client), self.per_second, now)
    }

    fn set_headers(&self, remaining: u32, headers: &mut HeaderMap) {
        let policy = format!("\"default\";q={};w={WINDOW_SECS}", self.per_second);
        let state = format!("\"default\";r={remaining};t={WINDOW_SECS}");
        for (name, value) in [(RATELIMIT_POLICY, policy), (RATELIMIT, state)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

impl Clients {
    fn try_acquire(&mut self, client: IpAddr, per_second: u32, now: Instant) -> Option<u32> {
        self.sweep(now);
        let is_tracked = self.arrivals.len() < CLIENTS_MAX || self.arrivals.contains_key(&client);
        let client = if is_tracked { client } else { Ipv6Addr::UNSPECIFIED.into() };
        let interval = Duration::from_secs(WINDOW_SECS) / per_second;
        let arrival = self.arrivals.get(&client).map_or(now, |at| now.max(*at)) + interval;
        let unused = (now + interval * per_second).checked_duration_since(arrival)?;
        self.arrivals.insert(client, arrival);
        u32::try_from(unused.as_nanos() / interval.as_nanos()).ok()
    }

    /// Removes the clients whose whole quota is free. It runs once a second: on average each request pays for visiting
    /// one entry.
    fn sweep(&mut self, now: Instant) {
        let is_due = self.last_sweep.is_none_or(|last| now - last >= Duration::from_secs(WINDOW_SECS));
        if is_due {
            self.arrivals.retain(|_, arrival| *arrival > now);
            self.last_sweep = Some(now);
        }
    }
}

/// A /64 of IPv6 counts as one client: a household or a server has at least that many addresses.
fn client_key(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// The middleware. It doesn't wrap the paths for probes and scrapes.
pub(crate) async fn limit_rate(
    limit: Option<Arc<RateLimit>>,
    req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, Error> {
    let (Some(limit), Some(peer)) = (limit, req.peer_addr()) else { return next.call(req).await };
    let client = limit.trusted_proxies.client_address(peer, req.headers());
    let remaining = limit.try_acquire(client, Instant::now());
    let mut response = if remaining.is_some() {
        next.call(req).await?
    } else {
        limit.refused.inc();
        let detail = format!("one client address may make {} requests a second", limit.per_second);
        req.into_response(Problem::too_many_requests(detail, WINDOW_SECS).error_response())
    };
    limit.set_headers(remaining.unwrap_or(0), response.headers_mut());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn one_seconds_quota_as_a_burst_then_one_by_one() {
        for per_second in [1, 3, 10, 700_000] {
            let (mut clients, start) = (Clients::default(), Instant::now());
            let mut acquire = |now| clients.try_acquire(address(1), per_second, now);
            for remaining in (0..per_second).rev() {
                assert_eq!(acquire(start), Some(remaining));
            }
            let interval = Duration::from_secs(1) / per_second;
            assert_eq!(acquire(start), None);
            // A refused request uses no quota.
            assert_eq!(acquire(start + interval - Duration::from_nanos(1)), None);
            assert_eq!(acquire(start + interval), Some(0));
            assert_eq!(acquire(start + interval), None);
            assert_eq!(acquire(start + Duration::from_secs(5)), Some(per_second - 1));
        }
    }

    #[test]
    fn each_client_has_its_own_quota() {
        let (mut clients, now) = (Clients::default(), Instant::now());
        assert_eq!(clients.try_acquire(address(1), 1, now), Some(0));
        assert_eq!(clients.try_acquire(address(1), 1, now), None);
        assert_eq!(clients.try_acquire(address(2), 1, now), Some(0));
    }

    #[test]
    fn a_64_of_ipv6_is_one_client() {
        let key = |text: &str| client_key(text.parse().unwrap()).to_string();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(key("192.0.2.1"), "192.0.2.1");
    }

    #[test]
    fn a_flood_of_addresses_uses_bounded_memory() {
        let (mut clients, now) = (Clients::default(), Instant::now());
        let max = u32::try_from(CLIENTS_MAX).unwrap();
        assert!((0..max).all(|n| clients.try_acquire(address(n), 1, now).is_some()));
        // The first further client uses the quota that they all share.
        assert_eq!(clients.try_acquire(address(max), 1, now), Some(0));
        assert!((max + 1..2 * max).all(|n| clients.try_acquire(address(n), 1, now).is_none()));
        assert_eq!(clients.arrivals.len(), CLIENTS_MAX + 1);
        // The tracked clients keep their own quota.
        let later = now + Duration::from_millis(999);
        assert_eq!(clients.try_acquire(address(0), 1, later), None);
        let later = now + Duration::from_secs(1);
        assert_eq!(clients.try_acquire(address(max + 1), 1, later), Some(0));
        assert_eq!(clients.arrivals.len(), 1);
    }
}
