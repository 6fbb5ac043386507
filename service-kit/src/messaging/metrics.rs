//! The runtime's metrics: outbox, batches, lag, dead letters, connections to the database. They are updated once per
//! batch, never once per event.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};
use sqlx::PgPool;

/// The runtime's metrics, one set per service.
#[derive(Clone, Debug)]
pub struct EventMetrics {
    pub outbox_backlog: IntGauge,
    pub outbox_age_seconds: Gauge,
    pub outbox_sent: IntCounter,
    pub outbox_send_failures: IntCounter,
    pub batch_records: Histogram,
    pub batch_seconds: Histogram,
    pub batch_retries: IntCounter,
    pub assigned: IntGauge,
    pub lag: IntGaugeVec,
    pub held: IntGaugeVec,
    pub dead_letters: IntCounterVec,
    pub unknown_types: IntCounterVec,
    pub fenced: IntCounter,
}

impl EventMetrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            outbox_backlog: IntGauge::new("outbox_backlog_events", "Events that wait in the outbox")?,
            outbox_age_seconds: Gauge::new("outbox_age_seconds", "Age of the oldest event in the outbox")?,
            outbox_sent: IntCounter::new("outbox_sent_events_total", "Events that Kafka acknowledged")?,
            outbox_send_failures: IntCounter::new("outbox_send_failures_total", "Batches to send again")?,
            batch_records: Histogram::with_opts(
                HistogramOpts::new("consumer_batch_records", "Records applied in one transaction")
                    .buckets(exponential_buckets(1.0, 2.0, 10)?),
            )?,
            batch_seconds: Histogram::with_opts(
                HistogramOpts::new("consumer_batch_duration_seconds", "Duration of one such transaction")
                    .buckets(exponential_buckets(0.001, 2.0, 13)?),
            )?,
            batch_retries: IntCounter::new(
                "consumer_batch_retries_total",
                "Transactions tried again after a passing fault",
            )?,
            assigned: IntGauge::new(
                "consumer_assigned_partitions",
                "Partitions that the group has given to this process",
            )?,
            lag: IntGaugeVec::new(
                Opts::new("consumer_lag_records", "Records of the log that are not applied yet"),
                &["topic", "partition"],
            )?,
            held: IntGaugeVec::new(
                Opts::new(
                    "consumer_partition_held",
                    "1 while a partition is held because its log was truncated or made anew",
                ),
                &["topic", "partition"],
            )?,
            dead_letters: IntCounterVec::new(
                Opts::new(
                    "dead_letters_total",
                    "Records that became dead letters: malformed, or what they would do was refused",
                ),
                &["topic", "reason"],
            )?,
            unknown_types: IntCounterVec::new(
                Opts::new("consumer_unknown_events_total", "Records skipped for their unknown type"),
                &["topic"],
            )?,
            fenced: IntCounter::new(
                "consumer_fenced_total",
                "Batches forgotten because the position had moved elsewhere",
            )?,
        };
        metrics.register(registry)?;
        Ok(metrics)
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.outbox_backlog.clone()))?;
        registry.register(Box::new(self.outbox_age_seconds.clone()))?;
        registry.register(Box::new(self.outbox_sent.clone()))?;
        registry.register(Box::new(self.outbox_send_failures.clone()))?;
        registry.register(Box::new(self.batch_records.clone()))?;
        registry.register(Box::new(self.batch_seconds.clone()))?;
        registry.register(Box::new(self.batch_retries.clone()))?;
        registry.register(Box::new(self.assigned.clone()))?;
        registry.register(Box::new(self.lag.clone()))?;
        registry.register(Box::new(self.held.clone()))?;
        registry.register(Box::new(self.dead_letters.clone()))?;
        registry.register(Box::new(self.unknown_types.clone()))?;
        registry.register(Box::new(self.fenced.clone()))
    }
}

/// The gauges of a pool's connections, read from the pool whenever the metrics are collected.
pub struct PoolMetrics {
    pool: PgPool,
    connections: IntGaugeVec,
    max_connections: IntGauge,
}

impl PoolMetrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn register(pool: PgPool, registry: &Registry) -> prometheus::Result<()> {
        let connections = IntGaugeVec::new(
            Opts::new(
                "db_client_connection_count",
                "Connections of the pool to the database, by their state",
            ),
            &["db_client_connection_state"],
        )?;
        let max_connections =
            IntGauge::new("db_client_connection_max", "Connections that the pool may have at most")?;
        max_connections.set(i64::from(pool.options().get_max_connections()));
        registry.register(Box::new(Self { pool, connections, max_connections }))
    }
}

impl Collector for PoolMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.connections.desc(), self.max_connections.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (open, idle) = (i64::from(self.pool.size()), self.pool.num_idle() as i64);
        self.connections.with_label_values(&["idle"]).set(idle);
        // A connection may have been returned between the two calls.
        self.connections.with_label_values(&["used"]).set((open - idle).max(0));
        [self.connections.collect(), self.max_connections.collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn the_connections_of_a_pool_are_exported() {
        let pool = PgPoolOptions::new().max_connections(7).connect_lazy_with(PgConnectOptions::new());
        let metrics = Metrics::new();
        PoolMetrics::register(pool, metrics.registry()).unwrap();
        let text = metrics.render();
        assert!(text.contains("\ndb_client_connection_max 7\n"), "{text}");
        for state in ["idle", "used"] {
            let line = format!("\ndb_client_connection_count{{db_client_connection_state=\"{state}\"}} 0\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
