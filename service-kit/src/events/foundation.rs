//! What the four services that take part in the saga are built from, and how their parts are put together.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::web;
use shared_events::Consumer;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;

use super::config::EventsConfig;
use super::consumer::EventConsumer;
use super::database;
use super::kafka::Kafka;
use super::metrics::{EventMetrics, PoolMetrics};
use super::outbox::Outbox;
use super::partition::EventHandler;
use super::relay::{Relays, watch_backlog};
use super::stages::Stages;
use crate::health::Health;
use crate::http::Server;
use crate::metrics::Metrics;

/// What a service asks for beside its settings.
pub struct Needs {
    pub consumer: Consumer,
    pub migrations: Migrator,
    /// Whether it publishes events of its own, or dead letters only.
    pub publishes: bool,
    /// PostgreSQL's own settings for the pool's sessions.
    pub session: &'static [(&'static str, &'static str)],
}

/// The database, Kafka and metrics of one service.
#[derive(Clone)]
pub struct Foundation {
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

impl Foundation {
    /// Connects to the database and migrates it. Kafka may be away.
    ///
    /// # Errors
    /// A database that can't be reached or migrated.
    pub async fn build(config: &EventsConfig, needs: Needs) -> anyhow::Result<Self> {
        let name = needs.consumer.as_str();
        let metrics = Metrics::new();
        let event_metrics = EventMetrics::new(metrics.registry())?;
        let kafka = Kafka::new(config, name);
        let pool = database::connect(config, name, needs.session, &needs.migrations).await?;
        PoolMetrics::register(pool.clone(), metrics.registry())?;
        Ok(Self {
            pool,
            outbox: Outbox::new(kafka.topics().clone()),
            metrics,
            consumer: needs.consumer,
            publishes: needs.publishes,
            kafka,
            database: config.database_url.0.clone(),
            event_metrics,
            drain_delay: config.drain.delay(),
        })
    }

    /// The first part: HTTP. Ready while the pool can give a connection that answers.
    pub fn serve(
        &self,
        listener: TcpListener,
        routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
    ) -> Stages {
        let pool = self.pool.clone();
        let health = Health::with_probe(move || {
            let pool = pool.clone();
            Box::pin(async move { sqlx::query("select 1").execute(&pool).await.is_ok() })
        });
        let mut server = Server::new(listener, self.metrics.clone(), health);
        server.drain_delay = self.drain_delay;
        Stages::new().then("http", |stop| server.run(stop, routes))
    }

    /// The last parts: the consumer, and the relays that send what it and the others leave.
    #[must_use]
    pub fn consume<H: EventHandler>(self, stages: Stages, handler: H) -> Stages {
        let consumer = EventConsumer {
            consumer: self.consumer,
            kafka: self.kafka.clone(),
            pool: self.pool.clone(),
            database: database::session(&self.database, self.consumer.as_str()),
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
        stages
            .then("consumer", |stop| consumer.run(stop))
            .then("relays", |stop| relays.run(stop))
            .then("backlog", |stop| watch_backlog(self.pool, self.event_metrics, stop))
    }
}
