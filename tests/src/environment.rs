//! The Kafka and the PostgreSQL of a test run: servers that the environment names, else containers, else native
//! processes.

use anyhow::Context;
use sqlx::{Connection, PgConnection};
use theater_infra::kafka_native::Tools;
use theater_infra::postgres::create_database;
use uuid::Uuid;

use crate::servers::{KafkaServer, Kind, PostgresServer, run_tool};

enum Kafka {
    External(String),
    Started(KafkaServer),
}

enum Database {
    External(String),
    Started(PostgresServer),
}

/// One Kafka and one PostgreSQL for all tests of a tier. Each test has topics and databases of its own.
pub struct Environment {
    kafka: Kafka,
    database: Database,
    pub kind: Kind,
}

impl Environment {
    /// Finds or starts both servers, and prints which they are.
    ///
    /// # Errors
    /// If a server doesn't start.
    pub async fn start() -> anyhow::Result<Self> {
        let kind = Kind::detect()?;
        let kafka = async {
            match std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
                Ok(servers) => anyhow::Ok(Kafka::External(servers)),
                Err(_) => Ok(Kafka::Started(KafkaServer::start(kind).await?)),
            }
        };
        let database = async {
            match std::env::var("DATABASE_URL") {
                Ok(url) => anyhow::Ok(Database::External(url)),
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
            Kafka::External(servers) => format!("Kafka as given at {servers}"),
            Kafka::Started(server) => server.describe(),
        };
        let origin = match &self.database {
            Database::External(_) => "as given",
            Database::Started(server) => server.describe(),
        };
        let mut connection = PgConnection::connect(&self.admin_url()).await.context("PostgreSQL")?;
        let version: String = sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
        Ok(format!("{kafka}; PostgreSQL {version} {origin}"))
    }

    pub fn bootstrap(&self) -> String {
        match &self.kafka {
            Kafka::External(servers) => servers.clone(),
            Kafka::Started(server) => server.bootstrap(),
        }
    }

    pub fn admin_url(&self) -> String {
        match &self.database {
            Database::External(url) => url.clone(),
            Database::Started(server) => server.admin_url(),
        }
    }

    /// A prefix of topics and consumer groups that no other test has.
    pub fn unique_prefix() -> String {
        format!("test-{}.", &Uuid::new_v4().simple().to_string()[..12])
    }

    /// Runs one of Kafka's own tools, and returns its output.
    ///
    /// # Errors
    /// If the tool fails.
    pub async fn run_kafka_tool(&self, class: &str, args: &[&str]) -> anyhow::Result<String> {
        match &self.kafka {
            Kafka::External(servers) => run_tool(&Tools::get().await?, servers, class, args).await,
            Kafka::Started(server) => server.run_tool(class, args).await,
        }
    }
}

/// Creates a database on the server of `admin_url`, and returns its URL.
///
/// # Errors
/// If the server fails.
pub async fn create_unique_database(admin_url: &str, service: &str) -> anyhow::Result<String> {
    let name = format!("{service}_{}", &Uuid::new_v4().simple().to_string()[..12]);
    create_database(admin_url, &name).await
}
