//! What is added to and removed from the headers on the way.

use actix_web::{
    HttpRequest,
    http::header::{self, HeaderMap, HeaderName, HeaderValue},
};
use service_kit::{
    http::X_REQUEST_ID,
    telemetry::trace_context::{TRACEPARENT, TraceParent},
};

use crate::client::{TrustedProxies, X_FORWARDED_FOR};

/// Fields that concern one connection only (RFC 9110, 7.6.1), beside those that `Connection` names.
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

/// The fields that go from hop to hop. `Content-Length` is not among them: each side counts for itself.
pub(crate) fn end_to_end(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
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

/// An answer's fields for the client. What a service is made of is nobody's business.
pub(crate) fn returned(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    end_to_end(headers).filter(|(name, _)| **name != header::SERVER && name.as_str() != "x-powered-by")
}

/// Fields that say where a request came from.
fn is_provenance(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip")
}

/// The headers for the upstream: the client's, and where the request came from. What they said about that before
/// goes on only if a trusted proxy said it: services may take it for the truth.
pub(crate) fn forwarded(req: &HttpRequest, trace: &TraceParent, trusted: &TrustedProxies) -> HeaderMap {
    let received = req.headers();
    let peer = req.peer_addr().map(|address| address.ip().to_canonical());
    let believed = peer.is_some_and(|peer| trusted.trust(peer));
    let mut sent = HeaderMap::new();
    for (name, value) in end_to_end(received) {
        // The gateway has read the body already, and the upstream has a name of its own.
        let ours = *name == header::EXPECT || *name == header::HOST;
        if !ours && (believed || !is_provenance(name)) {
            sent.append(name.clone(), value.clone());
        }
    }
    let peer = peer.map(|peer| peer.to_string());
    let known = sent.get_all(X_FORWARDED_FOR).filter_map(|value| value.to_str().ok());
    let path = known.chain(peer.as_deref()).collect::<Vec<_>>().join(", ");
    insert(&mut sent, X_FORWARDED_FOR, path);
    // What stands before us knows better how the client came.
    if !sent.contains_key(X_FORWARDED_PROTO) {
        insert(&mut sent, X_FORWARDED_PROTO, "http".to_owned());
    }
    // A target that names a host comes before Host (RFC 9112, 3.2.2).
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
    // Nothing else than text that headers can hold gets here; an empty value says nothing.
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
        forwarded(&request, &TraceParent::random(), &trusted)
    }

    #[test]
    fn hop_by_hop_fields_stay_behind() {
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
    fn where_it_came_from_is_said_once_and_by_who_knows() {
        let fresh = sent(TestRequest::default());
        assert_eq!(fresh.get("x-forwarded-for").unwrap(), "10.0.0.7");
        assert_eq!(fresh.get("x-forwarded-proto").unwrap(), "http");
        let known = || {
            TestRequest::default()
                .append_header(("x-forwarded-for", "192.0.2.1, 192.0.2.2"))
                .append_header(("x-forwarded-for", "192.0.2.3"))
                .insert_header(("x-forwarded-proto", "https"))
                .insert_header(("x-forwarded-host", "outside.example"))
                .insert_header(("forwarded", "for=192.0.2.1"))
                .insert_header(("x-real-ip", "192.0.2.1"))
                .insert_header(("host", "theater.example"))
        };
        let trusted = sent_through(&["10.0.0.0/8"], known());
        assert_eq!(trusted.get("x-forwarded-for").unwrap(), "192.0.2.1, 192.0.2.2, 192.0.2.3, 10.0.0.7");
        assert_eq!(trusted.get_all("x-forwarded-for").count(), 1);
        assert_eq!(trusted.get("x-forwarded-proto").unwrap(), "https");
        assert_eq!(trusted.get("x-forwarded-host").unwrap(), "outside.example");
        assert!(trusted.contains_key("forwarded") && trusted.contains_key("x-real-ip"));
        // Who isn't trusted has only the address that can be seen.
        let spoofed = sent_through(&["10.0.0.0/30"], known());
        assert_eq!(spoofed.get("x-forwarded-for").unwrap(), "10.0.0.7");
        assert_eq!(spoofed.get("x-forwarded-proto").unwrap(), "http");
        assert_eq!(spoofed.get("x-forwarded-host").unwrap(), "theater.example");
        assert!(!spoofed.contains_key("forwarded") && !spoofed.contains_key("x-real-ip"));
    }

    #[test]
    fn a_whole_url_names_the_host() {
        let request = TestRequest::with_uri("http://target.example/movies").insert_header(("host", "other"));
        assert_eq!(sent(request).get("x-forwarded-host").unwrap(), "target.example");
    }

    #[test]
    fn what_a_service_is_made_of_stays_inside() {
        let mut headers = HeaderMap::new();
        for name in ["server", "x-powered-by", "etag"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        let returned: Vec<_> = returned(&headers).map(|(name, _)| name.as_str()).collect();
        assert_eq!(returned, ["etag"]);
    }

    #[test]
    fn the_request_id_goes_on_whatever_connection_says() {
        let request = TestRequest::default()
            .insert_header(("connection", "x-request-id, traceparent"))
            .insert_header(("x-request-id", "abc"))
            .insert_header(("traceparent", "the client's"));
        let sent = sent(request);
        assert_eq!(sent.get("x-request-id").unwrap(), "abc");
        assert!(TraceParent::parse(sent.get("traceparent").unwrap().to_str().unwrap()).is_some());
    }
}
