//! Header fields that the gateway adds and removes.

use actix_web::{
    HttpRequest,
    http::header::{self, HeaderMap, HeaderName, HeaderValue},
};
use service_kit::{
    http::X_REQUEST_ID,
    telemetry::trace_context::{TRACEPARENT, TraceParent},
};

use crate::client_address::{TrustedProxies, X_FORWARDED_FOR};

/// Fields for one connection only (RFC 9110, 7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The fields that are forwarded. `Content-Length` is not among them: the HTTP client and server set their own.
fn end_to_end(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let named: Vec<&str> = headers
        .get_all(header::CONNECTION)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    headers.iter().filter(move |(name, _)| {
        **name != header::CONTENT_LENGTH
            && !HOP_BY_HOP.contains(name)
            && !named.iter().any(|named| name.as_str().eq_ignore_ascii_case(named))
    })
}

/// A response's fields for the client, without those that reveal a service's software.
pub(crate) fn for_client(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    end_to_end(headers).filter(|(name, _)| **name != header::SERVER && name.as_str() != "x-powered-by")
}

/// Whether a field says where a request came from.
fn is_forwarding(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip")
}

/// A request's fields for the replica: the client's, and where the request came from. The client's own forwarding
/// fields are sent on only if the peer is a trusted proxy, because services may rely on them.
pub(crate) fn for_upstream(
    req: &HttpRequest,
    trace: &TraceParent,
    trusted_proxies: &TrustedProxies,
) -> HeaderMap {
    let received = req.headers();
    let peer = req.peer_addr().map(|address| address.ip().to_canonical());
    let is_trusted = peer.is_some_and(|peer| trusted_proxies.contains(peer));
    let mut sent = HeaderMap::new();
    for (name, value) in end_to_end(received) {
        // The gateway has read the body already, and the replica has its own host name.
        let is_for_gateway = *name == header::EXPECT || *name == header::HOST;
        if !is_for_gateway && (is_trusted || !is_forwarding(name)) {
            sent.append(name.clone(), value.clone());
        }
    }
    let peer = peer.map(|peer| peer.to_string());
    let earlier = sent.get_all(X_FORWARDED_FOR).filter_map(|value| value.to_str().ok());
    let addresses = earlier.chain(peer.as_deref()).collect::<Vec<_>>().join(", ");
    insert(&mut sent, X_FORWARDED_FOR, addresses);
    // A proxy before the gateway knows the client's scheme; the gateway itself speaks plain HTTP.
    if !sent.contains_key(X_FORWARDED_PROTO) {
        insert(&mut sent, X_FORWARDED_PROTO, "http".to_owned());
    }
    // A host in the request target takes precedence over Host (RFC 9112, 3.2.2).
    let host = match req.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => received.get(header::HOST).cloned(),
    };
    if let (false, Some(host)) = (sent.contains_key(X_FORWARDED_HOST), host) {
        sent.insert(X_FORWARDED_HOST, host);
    }
    if let Some(id) = received.get(X_REQUEST_ID) {
        sent.insert(X_REQUEST_ID, id.clone());
    }
    insert(&mut sent, HeaderName::from_static(TRACEPARENT), trace.to_string());
    sent
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    // The values are valid header text already. An empty value is left out.
    if let Ok(value) = HeaderValue::from_str(&value)
        && !value.is_empty()
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn sent(request: TestRequest) -> HeaderMap {
        sent_through(&[], request)
    }

    fn sent_through(trusted: &[&str], request: TestRequest) -> HeaderMap {
        let trusted = TrustedProxies(trusted.iter().map(|network| network.parse().unwrap()).collect());
        let request = request.peer_addr("10.0.0.7:5000".parse().unwrap()).to_http_request();
        for_upstream(&request, &TraceParent::random(), &trusted)
    }

    #[test]
    fn hop_by_hop_fields_are_not_forwarded() {
        let request = TestRequest::default()
            .insert_header(("connection", "close, X-Private"))
            .insert_header(("keep-alive", "timeout=5"))
            .insert_header(("te", "trailers"))
            .insert_header(("transfer-encoding", "chunked"))
            .insert_header(("upgrade", "websocket"))
            .insert_header(("proxy-authorization", "secret"))
            .insert_header(("content-length", "7"))
            .insert_header(("expect", "100-continue"))
            .insert_header(("host", "theater.example"))
            .insert_header(("x-private", "1"))
            .append_header(("accept", "a"))
            .append_header(("accept", "b"));
        let sent = sent(request);
        let mut names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept", "traceparent", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]
        );
        assert_eq!(sent.get_all("accept").count(), 2);
        assert_eq!(sent.get("x-forwarded-host").unwrap(), "theater.example");
    }

    #[test]
    fn forwarding_fields_are_believed_from_trusted_proxies_only() {
        let direct = sent(TestRequest::default());
        assert_eq!(direct.get("x-forwarded-for").unwrap(), "10.0.0.7");
        assert_eq!(direct.get("x-forwarded-proto").unwrap(), "http");
        let with_forwarding_fields = || {
            TestRequest::default()
                .append_header(("x-forwarded-for", "192.0.2.1, 192.0.2.2"))
                .append_header(("x-forwarded-for", "192.0.2.3"))
                .insert_header(("x-forwarded-proto", "https"))
                .insert_header(("x-forwarded-host", "outside.example"))
                .insert_header(("forwarded", "for=192.0.2.1"))
                .insert_header(("x-real-ip", "192.0.2.1"))
                .insert_header(("host", "theater.example"))
        };
        let trusted = sent_through(&["10.0.0.0/8"], with_forwarding_fields());
        assert_eq!(trusted.get("x-forwarded-for").unwrap(), "192.0.2.1, 192.0.2.2, 192.0.2.3, 10.0.0.7");
        assert_eq!(trusted.get_all("x-forwarded-for").count(), 1);
        assert_eq!(trusted.get("x-forwarded-proto").unwrap(), "https");
        assert_eq!(trusted.get("x-forwarded-host").unwrap(), "outside.example");
        assert!(trusted.contains_key("forwarded") && trusted.contains_key("x-real-ip"));
        // Of an untrusted peer only its own address is sent.
        let spoofed = sent_through(&["10.0.0.0/30"], with_forwarding_fields());
        assert_eq!(spoofed.get("x-forwarded-for").unwrap(), "10.0.0.7");
        assert_eq!(spoofed.get("x-forwarded-proto").unwrap(), "http");
        assert_eq!(spoofed.get("x-forwarded-host").unwrap(), "theater.example");
        assert!(!spoofed.contains_key("forwarded") && !spoofed.contains_key("x-real-ip"));
    }

    #[test]
    fn an_absolute_target_names_the_host() {
        let request = TestRequest::with_uri("http://target.example/movies").insert_header(("host", "other"));
        assert_eq!(sent(request).get("x-forwarded-host").unwrap(), "target.example");
    }

    #[test]
    fn fields_that_reveal_software_are_removed() {
        let mut headers = HeaderMap::new();
        for name in ["server", "x-powered-by", "etag"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        let returned: Vec<_> = for_client(&headers).map(|(name, _)| name.as_str()).collect();
        assert_eq!(returned, ["etag"]);
    }

    #[test]
    fn the_request_id_is_forwarded_even_if_connection_names_it() {
        let request = TestRequest::default()
            .insert_header(("connection", "x-request-id, traceparent"))
            .insert_header(("x-request-id", "abc"))
            .insert_header(("traceparent", "the client's"));
        let sent = sent(request);
        assert_eq!(sent.get("x-request-id").unwrap(), "abc");
        assert!(TraceParent::parse(sent.get("traceparent").unwrap().to_str().unwrap()).is_some());
    }
}
