//! OTLP: a collector receives the spans of a saga from every service, as one tree.
//!
//! The services run as processes here, because each has an exporter of its own.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{self, Bytes, PayloadConfig};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::{Context, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue;
use prost::Message;
use reqwest::Method;
use theater_tests::api::reservation;
use theater_tests::fleet::{Fleet, SERVICES};
use theater_tests::theater::TheaterConfig;
use theater_tests::{Api, Environment, Setup, eventually};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(60);

const TRACE: &str = "0af7651916cd43dd8448eb211c80319d";
const CLIENT: &str = "b7ad6b7169203331";

/// Larger than any batch of spans.
const BODY_LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// The spans about events that each service must have exported for a confirmed saga.
const EXPECTED_SPANS: &[(&str, &str)] = &[
    ("movie", "ReservationPlaced"),
    ("reservation", "TicketsAllocated"),
    ("notification", "ReservationConfirmed"),
    ("reservation-list", "ReservationConfirmed"),
];

#[derive(Clone, Debug)]
struct Span {
    service: String,
    id: String,
    parent: String,
    /// Empty if the span is not about an event.
    event_type: String,
}

/// The spans of one trace, as they arrive.
type Spans = Arc<Mutex<Vec<Span>>>;

pub(crate) async fn a_collector_receives_the_whole_saga(environment: &Environment) -> anyhow::Result<()> {
    let spans = Spans::default();
    let (collector, endpoint) = start_collector(&spans)?;
    let services = SERVICES.into_iter().chain(["gateway"]);
    let settings = services.map(|service| (service, format!("--otel-exporter-otlp-endpoint={endpoint}")));
    let setup = Setup { partitions: 1, settings: settings.collect(), ..Setup::default() };
    let config = TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &setup).await?;
    let fleet = Fleet::start(env!("CARGO_BIN_EXE_theater-tests"), config, 1).await?;

    let movie = fleet.api.publish(10).await?;
    let call = fleet.api.request(Method::POST, "/reservations");
    let call = call.header("traceparent", format!("00-{TRACE}-{CLIENT}-01"));
    let answer = Api::send(call.json(&reservation(Uuid::now_v7(), movie, 4))).await?;
    ensure!(answer.status.is_success(), "{answer:?}");
    eventually("the collector has the whole saga", SOON, async || {
        let spans = spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
        expect_one_tree(&spans).with_context(|| format!("{spans:#?}"))
    })
    .await?;
    fleet.stop().await?;
    collector.stop(true).await;
    Ok(())
}

/// The spans are one tree with all expected spans, and the parent of its root is the client's span.
fn expect_one_tree(spans: &[Span]) -> anyhow::Result<()> {
    for (service, event_type) in EXPECTED_SPANS {
        let found = spans.iter().any(|span| span.service == *service && span.event_type == *event_type);
        ensure!(found, "{service} has no span of {event_type}");
    }
    let services: BTreeSet<_> = spans.iter().map(|span| span.service.as_str()).collect();
    ensure!(services.len() == SERVICES.len() + 1, "only {services:?}");
    let ids: HashSet<_> = spans.iter().map(|span| span.id.as_str()).collect();
    let roots: Vec<_> = spans.iter().filter(|span| !ids.contains(span.parent.as_str())).collect();
    let [root] = roots[..] else { anyhow::bail!("not one root: {roots:?}") };
    ensure!(root.service == "gateway" && root.parent == CLIENT, "{root:?}");
    Ok(())
}

/// Starts a collector, which accepts OTLP over HTTP at the usual path and stores the spans of the test's trace. Returns its
/// endpoint.
fn start_collector(spans: &Spans) -> anyhow::Result<(ServerHandle, String)> {
    let spans = Arc::clone(spans);
    let server = HttpServer::new(move || {
        let spans = Arc::clone(&spans);
        App::new().app_data(PayloadConfig::new(BODY_LIMIT_BYTES)).route(
            "/v1/traces",
            web::post().to(move |body: Bytes| {
                let stored = ExportTraceServiceRequest::decode(body).map(|request| store(request, &spans));
                async move {
                    if stored.is_ok() { HttpResponse::Ok() } else { HttpResponse::BadRequest() }.finish()
                }
            }),
        )
    });
    let server = server.workers(1).disable_signals().bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", server.addrs().first().context("no address")?);
    let server = server.run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok((handle, endpoint))
}

fn store(request: ExportTraceServiceRequest, spans: &Spans) {
    let text = |attributes: &[KeyValue], key: &str| {
        let value = attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
        if let StringValue(text) = value { Some(text) } else { None }
    };
    let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
    for of_service in request.resource_spans {
        let resource = of_service.resource.unwrap_or_default();
        let service = text(&resource.attributes, "service.name").unwrap_or_default();
        let all = of_service.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(all.filter(|span| hex(&span.trace_id) == TRACE).map(|span| Span {
            service: service.clone(),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            event_type: text(&span.attributes, "event.type").unwrap_or_default(),
        }));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
