//! The database, Kafka and metrics of a service, and the tasks that all services have in common.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::web;
use shared_events::Consumer;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;

use super::config::EventsConfig;
use super::consumer::{EventConsumer, EventHandler};
use super::database;
use super::kafka::Kafka;
use super::metrics::{EventMetrics, PoolMetrics};
use super::outbox::{Outbox, backlog};
use super::relay::Relays;
use super::task_group::TaskGroup;
use crate::http::Server;
use crate::http::health::Health;
use crate::telemetry::metrics::Metrics;

/// The properties of one service that are not settings.
pub struct ServiceOptions {
    pub consumer: Consumer,
    pub migrations: Migrator,
    /// Whether it publishes events of its own, or only dead letters.
    pub publishes: bool,
    /// PostgreSQL settings for the pool's sessions.
    pub session: &'static [(&'static str, &'static str)],
}

/// The database, Kafka and metrics of one service.
#[derive(Clone)]
pub struct ServiceContext {
    pub pool: PgPool,
    pub outbox: Outbox,
    pub metrics: Metrics,
    consumer: Consumer,
    publishes: bool,
    kafka: Kafka,
    database: PgConnectOptions,
    event_metrics: EventMetrics,
    drain_delay: Duration,
}

impl ServiceContext {
    /// Migrates the database and connects to it. Kafka may be unavailable.
    ///
    /// # Errors
    /// If the database can't be reached or migrated.
    pub async fn build(config: &EventsConfig, options: ServiceOptions) -> anyhow::Result<Self> {
        let name = options.consumer.as_str();
        let metrics = Metrics::new();
        let event_metrics = EventMetrics::new(metrics.registry())?;
        let kafka = Kafka::new(config, name);
        let pool = database::migrate_and_connect(config, name, options.session, &options.migrations).await?;
        PoolMetrics::register(pool.clone(), metrics.registry())?;
        Ok(Self {
            pool,
            outbox: Outbox::new(kafka.topics().clone()),
            metrics,
            consumer: options.consumer,
            publishes: options.publishes,
            kafka,
            database: config.database_url.0.clone(),
            event_metrics,
            drain_delay: config.drain.delay(),
        })
    }

    /// Spawns the HTTP server, the first task to stop. It is ready while the pool has a connection that answers.
    pub fn spawn_server(
        &self,
        listener: TcpListener,
        routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
    ) -> TaskGroup {
        let pool = self.pool.clone();
        let health = Health::with_probe(move || {
            let pool = pool.clone();
            Box::pin(async move { sqlx::query("select 1").execute(&pool).await.is_ok() })
        });
        let mut server = Server::new(listener, self.metrics.clone(), health);
        server.drain_delay = self.drain_delay;
        TaskGroup::new().spawn("http", |stop| server.run(stop, routes))
    }

    /// Spawns the last tasks to stop: the consumer, and the relays, which send the events that it and the other tasks
    /// have put into the outbox.
    #[must_use]
    pub fn spawn_consumer<H: EventHandler>(self, tasks: TaskGroup, handler: H) -> TaskGroup {
        let consumer = EventConsumer {
            consumer: self.consumer,
            kafka: self.kafka.clone(),
            pool: self.pool.clone(),
            database: database::session_options(&self.database, self.consumer.as_str()),
            outbox: self.outbox.clone(),
            metrics: self.event_metrics.clone(),
            handler,
        };
        let relays = Relays {
            kafka: self.kafka,
            outbox: self.outbox,
            database: self.database,
            metrics: self.event_metrics.clone(),
            service: self.consumer.as_str(),
            publishes: self.publishes,
        };
        tasks
            .spawn("consumer", |stop| consumer.run(stop))
            .spawn("relays", |stop| relays.run(stop))
            .spawn("backlog", |stop| backlog::watch(self.pool, self.event_metrics, stop))
    }
}
