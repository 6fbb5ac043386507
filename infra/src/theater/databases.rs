//! One database per service: on a private server, or on an existing one.

use std::fmt;

use anyhow::anyhow;
use uuid::Uuid;

use crate::options::{Kafka, LauncherOptions};
use crate::postgres::{Postgres, create_database, drop_database};
use crate::progress::step;
use crate::service::Service;
use crate::supervise::Child;

/// The services' databases.
pub(super) struct Databases {
    server: Option<Postgres>,
    admin_url: String,
    /// Names and URLs, in the order of [`Service::STATEFUL`].
    databases: [(String, String); 4],
    /// Dropped at the end: the embedded broker loses its records, and databases don't work with another log.
    temporary: bool,
}

impl Databases {
    pub(super) async fn start(options: &LauncherOptions) -> anyhow::Result<Self> {
        let server = match &options.postgres {
            Some(_) => None,
            None => Some(Postgres::start(options.data.as_deref()).await?),
        };
        let admin_url = match (&server, &options.postgres) {
            (Some(server), _) => server.admin_url(),
            (None, Some(url)) => url.clone(),
            (None, None) => return Err(anyhow!("no PostgreSQL is configured")),
        };
        let temporary = server.is_none() && options.kafka() == Kafka::Embedded;
        let prefix = match temporary {
            true => format!("theater_{}_", &Uuid::new_v4().simple().to_string()[..8]),
            false => String::new(),
        };
        let mut databases = Self { server, admin_url, databases: Default::default(), temporary };
        match step("creating the databases", databases.create(&prefix)).await {
            Ok(()) => Ok(databases),
            Err(error) => {
                databases.stop().await;
                Err(error)
            }
        }
    }

    async fn create(&mut self, prefix: &str) -> anyhow::Result<()> {
        for (index, service) in Service::STATEFUL.into_iter().enumerate() {
            let name = format!("{prefix}{}", service.database());
            let url = create_database(&self.admin_url, &name).await?;
            self.databases[index] = (name, url);
        }
        Ok(())
    }

    pub(super) fn urls(&self) -> [String; 4] {
        self.databases.each_ref().map(|(_, url)| url.clone())
    }

    /// Returns the reason if a private server ends by itself.
    pub(super) async fn wait_for_exit(&self) -> anyhow::Error {
        match &self.server {
            Some(server) => exit_error("PostgreSQL", server.child()).await,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn stop(self) {
        if self.temporary {
            for (name, _) in self.databases.iter().filter(|(name, _)| !name.is_empty()) {
                if let Err(error) = drop_database(&self.admin_url, name).await {
                    tracing::error!(database = name, error = %format!("{error:#}"), "a database stays behind");
                }
            }
        }
        if let Some(mut server) = self.server {
            server.stop().await;
        }
    }
}

impl fmt::Display for Databases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.databases.each_ref().map(|(name, _)| name.as_str()).join(", ");
        match &self.server {
            Some(server) => write!(f, "{} (databases {names})", server.url("")),
            None => write!(f, "yours, databases {names}"),
        }
    }
}

/// Returns an error with the end of its log when a child ends.
pub(super) async fn exit_error(name: &str, child: Option<&Child>) -> anyhow::Error {
    match child {
        Some(child) => {
            let status = child.exited().await;
            anyhow!("{name} has ended ({status}). The end of its log:\n{}", child.log_tail())
        }
        None => anyhow!("{name} does not run"),
    }
}
