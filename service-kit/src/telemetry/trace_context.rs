//! W3C trace context: connects the spans of a saga across HTTP calls, outbox rows and Kafka records.

use std::fmt;

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use uuid::Uuid;

/// The name of the header, in HTTP and in Kafka records.
pub const TRACEPARENT: &str = "traceparent";

/// A valid `traceparent` of version 00: `00-<trace id>-<span id>-<flags>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(String);

impl TraceParent {
    /// Parses a header's value. A later version is read as version 00, as the standard demands.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let head = text.get(..55)?;
        let mut parts = head.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let rest = &text[55..];
        let lengths = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        let hex = head.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
        let valid_rest = rest.is_empty() || (version != "00" && rest.starts_with('-'));
        let valid = lengths && hex && valid_rest && version != "ff" && !is_zero(trace) && !is_zero(span);
        valid.then(|| Self(format!("00-{trace}-{span}-{flags}")))
    }

    /// The header's value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A new, sampled trace.
    #[must_use]
    pub fn random() -> Self {
        // Neither half can be zero: a version 4 UUID's version and variant bits are set.
        let span = Uuid::new_v4().simple().to_string();
        Self(format!("00-{}-{}-01", Uuid::new_v4().simple(), &span[16..]))
    }

    /// 32 lowercase hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }

    fn from_span_context(context: &SpanContext) -> Option<Self> {
        context.is_valid().then(|| {
            let flags = context.trace_flags().to_u8();
            Self(format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
        })
    }

    /// The three parts are valid by construction: the fallbacks are never used.
    fn span_context(&self) -> SpanContext {
        SpanContext::new(
            TraceId::from_hex(self.trace_id()).unwrap_or(TraceId::INVALID),
            SpanId::from_hex(&self.0[36..52]).unwrap_or(SpanId::INVALID),
            TraceFlags::new(u8::from_str_radix(&self.0[53..], 16).unwrap_or_default()),
            true,
            TraceState::default(),
        )
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The `traceparent` for a call or an event made now: the current span, or a new trace outside of any span.
#[must_use]
pub fn current() -> TraceParent {
    from_span(&Span::current()).unwrap_or_else(TraceParent::random)
}

/// The span's own ids; `None` if it is disabled or no OpenTelemetry layer is installed.
#[must_use]
pub fn from_span(span: &Span) -> Option<TraceParent> {
    TraceParent::from_span_context(span.context().span().span_context())
}

/// Makes `span` a child of `parent`. Call it before the span is entered and before its ids are read: both fix them.
pub fn set_parent(span: &Span, parent: &TraceParent) {
    let context = Context::new().with_remote_span_context(parent.span_context());
    if let Err(error) = span.set_parent(context) {
        // There is no layer (in a test), the span is filtered, or the call is too late. Only the trace is affected.
        tracing::trace!(?error, "span has no parent");
    }
}

/// Links `span` to another trace, as the span of a batch is linked to the trace of each of its records.
pub fn add_link(span: &Span, other: &TraceParent) {
    span.add_link(other.span_context());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::test_subscriber;

    const SAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn valid_headers_are_parsed() {
        assert_eq!(TraceParent::parse(SAMPLE).unwrap().as_str(), SAMPLE);
        assert_eq!(TraceParent::parse(SAMPLE).unwrap().trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let later = format!("cc{}-more", &SAMPLE[2..]);
        assert_eq!(TraceParent::parse(&later).unwrap().as_str(), SAMPLE);
    }

    #[test]
    fn invalid_headers_are_rejected() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-101",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn random_ones_are_valid_and_differ() {
        let (one, other) = (TraceParent::random(), TraceParent::random());
        assert_eq!(TraceParent::parse(one.as_str()).as_ref(), Some(&one));
        assert_ne!(one.trace_id(), other.trace_id());
    }

    #[test]
    fn a_span_continues_the_trace_of_its_parent() {
        tracing::subscriber::with_default(test_subscriber(), || {
            let parent = TraceParent::parse(SAMPLE).unwrap();
            let span = tracing::info_span!("child");
            set_parent(&span, &parent);
            add_link(&span, &TraceParent::random());
            let current = span.in_scope(current);
            assert_eq!(current.trace_id(), parent.trace_id());
            assert_ne!(current, parent);
            assert_eq!(from_span(&span), Some(current));
        });
    }

    #[test]
    fn outside_of_any_span_a_new_trace_starts() {
        assert_ne!(current().trace_id(), current().trace_id());
        set_parent(&Span::none(), &TraceParent::random());
    }
}
