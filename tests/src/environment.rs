//! Where a run's Kafka and PostgreSQL come from: what the environment names, a Docker daemon that answers,
//! or this machine's own.

use anyhow::Context;
use sqlx::{Connection, PgConnection};
use theater_infra::kafka_native::Tools;
use theater_infra::postgres::create_database;
use uuid::Uuid;

use crate::servers::{KafkaServer, Kind, PostgresServer, run_tool};

enum Kafka {
    Given(String),
    Started(KafkaServer),
}

enum Database {
    Given(String),
    Started(PostgresServer),
}

/// One Kafka and one PostgreSQL for all tests of a tier; each test has topics and databases of its own.
pub struct Environment {
    kafka: Kafka,
    database: Database,
    pub kind: Kind,
}

impl Environment {
    /// Finds or starts both, and prints which.
    ///
    /// # Errors
    /// Whatever keeps one from starting.
    pub async fn start() -> anyhow::Result<Self> {
        let kind = Kind::detect()?;
        let kafka = async {
            match std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
                Ok(servers) => anyhow::Ok(Kafka::Given(servers)),
                Err(_) => Ok(Kafka::Started(KafkaServer::start(kind).await?)),
            }
        };
        let database = async {
            match std::env::var("DATABASE_URL") {
                Ok(url) => anyhow::Ok(Database::Given(url)),
                Err(_) => Ok(Database::Started(PostgresServer::start(kind).await?)),
            }
        };
        let (kafka, database) = tokio::try_join!(kafka, database)?;
        let environment = Self { kafka, database, kind };
        println!("tests run on: {}", environment.describe().await?);
        Ok(environment)
    }

    async fn describe(&self) -> anyhow::Result<String> {
        let kafka = match &self.kafka {
            Kafka::Given(servers) => format!("Kafka as given at {servers}"),
            Kafka::Started(server) => server.describe(),
        };
        let whence = match &self.database {
            Database::Given(_) => "as given",
            Database::Started(server) => server.describe(),
        };
        let mut connection = PgConnection::connect(&self.admin_url()).await.context("PostgreSQL")?;
        let version: String = sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
        Ok(format!("{kafka}; PostgreSQL {version} {whence}"))
    }

    pub fn bootstrap(&self) -> String {
        match &self.kafka {
            Kafka::Given(servers) => servers.clone(),
            Kafka::Started(server) => server.bootstrap(),
        }
    }

    pub fn admin_url(&self) -> String {
        match &self.database {
            Database::Given(url) => url.clone(),
            Database::Started(server) => server.admin_url(),
        }
    }

    /// A prefix of topics and groups that no other test has.
    pub fn prefix() -> String {
        format!("test-{}.", &Uuid::new_v4().simple().to_string()[..12])
    }

    /// What one of Kafka's own tools prints.
    ///
    /// # Errors
    /// A tool that fails.
    pub async fn tool(&self, class: &str, args: &[&str]) -> anyhow::Result<String> {
        match &self.kafka {
            Kafka::Given(servers) => run_tool(&Tools::get().await?, servers, class, args).await,
            Kafka::Started(server) => server.tool(class, args).await,
        }
    }
}

/// A new database on the server of `admin_url`.
///
/// # Errors
/// The server's.
pub async fn new_database(admin_url: &str, service: &str) -> anyhow::Result<String> {
    let name = format!("{service}_{}", &Uuid::new_v4().simple().to_string()[..12]);
    create_database(admin_url, &name).await
}
