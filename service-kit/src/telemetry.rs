//! Telemetry: logs to stderr, spans to an OTLP collector.
//!
//! The OpenTelemetry layer is always installed, with or without a collector, because events carry the ids of the spans
//! that made them. [`metrics`] has the registry and HTTP's metrics, [`trace_context`] the W3C trace context.

pub mod metrics;
pub mod trace_context;

use std::io::IsTerminal as _;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Layer as _, filter::Targets, fmt, layer::SubscriberExt as _};

use crate::config::{LogFormat, TelemetryConfig};

/// The log filter unless `RUST_LOG` is set. actix-server logs each of its threads at `info`. actix-http logs a client's
/// malformed requests as errors, but only the client needs to know, and its response says so.
const DEFAULT_LOG_FILTER: &str = "info,actix_server=warn,actix_http::h1=off";

/// Holds the exporter. Shut it down last.
#[must_use = "spans are lost unless it is shut down"]
pub struct Telemetry {
    provider: SdkTracerProvider,
}

/// Sets the process's subscriber. `service` is the resource's `service.name`.
///
/// # Errors
///
/// If a subscriber is set already, `RUST_LOG` is invalid, or the exporter can't be created.
pub fn init(service: &'static str, config: &TelemetryConfig) -> anyhow::Result<Telemetry> {
    init_with_default_log(service, config, DEFAULT_LOG_FILTER)
}

/// Like [`init`], with another log filter for an unset `RUST_LOG`.
///
/// # Errors
///
/// As [`init`].
pub fn init_with_default_log(
    service: &'static str,
    config: &TelemetryConfig,
    default_log: &str,
) -> anyhow::Result<Telemetry> {
    let provider = provider(service, config)?;
    let format = config
        .log_format
        .unwrap_or_else(|| if std::io::stderr().is_terminal() { LogFormat::Pretty } else { LogFormat::Json });
    let log_filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => {
            EnvFilter::try_new(&text).with_context(|| format!("RUST_LOG={text} is not a log filter"))?
        }
        _ => EnvFilter::new(default_log),
    };
    let logs = fmt::layer().with_writer(std::io::stderr);
    let logs = match format {
        LogFormat::Pretty => logs.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => logs.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let exporting = config.otel_exporter_otlp_endpoint.is_some();
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("theater"))
        .with_filter(span_filter(exporting));
    let subscriber = tracing_subscriber::registry().with(spans).with(logs.with_filter(log_filter));
    tracing::subscriber::set_global_default(subscriber).context("telemetry is set up already")?;
    Ok(Telemetry { provider })
}

fn provider(service: &'static str, config: &TelemetryConfig) -> anyhow::Result<SdkTracerProvider> {
    let resource = Resource::builder().with_service_name(service).build();
    let mut builder = SdkTracerProvider::builder().with_resource(resource);
    if let Some(endpoint) = &config.otel_exporter_otlp_endpoint {
        // If another crate of the same build enables TLS in the exporter's client, the client can't be created without
        // a crypto provider, not even for plain HTTP. The error is ignored: it says that a provider is installed
        // already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .build()
            .with_context(|| format!("cannot export traces to {endpoint}"))?;
        builder = builder.with_batch_exporter(exporter);
    }
    Ok(builder.build())
}

/// Excludes the spans of the exporter's own HTTP client, which must not trace itself. The spans of single records are
/// created only if they are exported.
fn span_filter(exporting: bool) -> Targets {
    let record_level = if exporting { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let services =
        Targets::new().with_default(LevelFilter::INFO).with_target("service_kit::messaging", record_level);
    [
        "h2",
        "hyper",
        "hyper_util",
        "reqwest",
        "opentelemetry",
        "opentelemetry_sdk",
        "opentelemetry_otlp",
        "tonic",
    ]
    .into_iter()
    .fold(services, |targets, name| targets.with_target(name, LevelFilter::OFF))
}

impl Telemetry {
    /// Exports the spans that are still in the batch. Blocks for at most 5 s: call it outside of the runtime.
    pub fn shutdown(self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(error = %error, "not all spans were exported");
        }
    }
}

/// A subscriber with only the OpenTelemetry layer, for tests that need real span ids.
#[cfg(test)]
pub(crate) fn test_subscriber() -> impl tracing::Subscriber {
    let provider = SdkTracerProvider::builder().build();
    tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test")))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use opentelemetry::trace::{Span as _, Tracer as _};

    use super::*;

    #[test]
    fn without_an_endpoint_there_is_no_exporter() {
        let provider = provider("test", &TelemetryConfig::default()).unwrap();
        let mut span = provider.tracer("test").start("alone");
        assert!(span.span_context().is_valid());
        span.end();
        provider.shutdown().unwrap();
    }

    #[test]
    fn shutdown_exports_the_remaining_spans() {
        let collector = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = TelemetryConfig {
            otel_exporter_otlp_endpoint: Some(format!("http://{}", collector.local_addr().unwrap())),
            log_format: None,
        };
        let received = thread::spawn(move || {
            let (mut connection, _) = collector.accept().unwrap();
            let mut received = Vec::new();
            let mut chunk = [0; 4096];
            while !received.windows(13).any(|window| window == b"the last span") {
                let length = connection.read(&mut chunk).unwrap();
                assert_ne!(length, 0, "the collector saw no span");
                received.extend_from_slice(&chunk[..length]);
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            String::from_utf8_lossy(&received).into_owned()
        });
        let provider = provider("test", &config).unwrap();
        provider.tracer("test").start("the last span").end();
        Telemetry { provider }.shutdown();
        assert!(received.join().unwrap().starts_with("POST /v1/traces HTTP/1.1"));
    }
}
