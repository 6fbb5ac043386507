//! Notifies customers: one notification per reservation and outcome, and an e-mail if there is an address.
//!
//! # Layout
//!
//! - [`notification`]: a notification, and the pure decision that each outcome is notified once.
//! - [`store`]: the SQL statements.
//! - [`events`]: records outcomes from the log.
//! - [`sender`]: sends e-mails that are due; [`email`]: composes one; [`mailer`]: speaks SMTP.
//! - [`http`]: lists notifications, newest first.
//! - [`config`]: the settings, and the operator's command; [`metrics`].
//! - [`failpoints`]: the points at which tests kill the process.

pub mod config;
pub mod email;
pub mod events;
pub mod failpoints;
pub mod http;
pub mod mailer;
pub mod metrics;
pub mod notification;
pub mod sender;
pub mod store;

use std::ffi::OsString;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use service_kit::messaging::{ServiceContext, ServiceOptions};
use service_kit::process;
use shared_events::Consumer;
use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use config::Command;
pub use config::Config;
use mailer::Mailer;
use metrics::{EmailMetrics, NotificationMetrics};
use sender::Sender;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The process: the service, or one of the operator's commands.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let config = Config::parse_from(args);
    let telemetry = config.telemetry.clone();
    match config.command.clone() {
        None => process::run_until_signal("notification", &telemetry, async |shutdown| {
            Application::build(config).await?.run(shutdown).await
        }),
        Some(command) => process::run_to_end("notification", &telemetry, async {
            println!("{}", command.execute(&config).await?);
            Ok(())
        }),
    }
}

impl Command {
    /// Executes the command, and returns the message for the operator.
    ///
    /// # Errors
    /// If the database can't be reached, or no service has migrated it yet.
    pub async fn execute(self, config: &Config) -> anyhow::Result<String> {
        let url = &config.events.database_url;
        let mut connection =
            PgConnection::connect_with(&url.0).await.with_context(|| format!("the database {url:?}"))?;
        match self {
            Self::RetryFailed { reservation } => {
                let count = store::email::retry_failed(&mut connection, reservation).await?;
                let what = if count == 1 { "e-mail is" } else { "e-mails are" };
                Ok(format!("{count} failed {what} to be sent again"))
            }
        }
    }
}

/// The service, built and bound, not yet running.
pub struct Application {
    context: ServiceContext,
    listener: TcpListener,
    metrics: NotificationMetrics,
    sender: Option<Sender>,
}

impl Application {
    /// Binds the address, connects to the database and migrates it. Kafka and the mail server may be unavailable.
    ///
    /// # Errors
    /// If the address is in use, or the database can't be reached or migrated.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let listener = service_kit::http::bind(config.bind_address)?;
        let options = ServiceOptions {
            consumer: Consumer::Notification,
            migrations: Migrator::with_migrations(MIGRATIONS.iter().cloned().collect()),
            publishes: false,
            // Commits stay synchronous: an e-mail follows from each row.
            session: &[],
        };
        let context = ServiceContext::build(&config.events, options).await?;
        let metrics = NotificationMetrics::new(context.metrics.registry())?;
        let emails = EmailMetrics::new(context.metrics.registry())?;
        let sender = config.email.smtp_url.map(|url| Sender {
            pool: context.pool.clone(),
            mailer: Mailer::new(url, config.email.smtp_from),
            attempts_max: config.email.smtp_attempts_max,
            metrics: emails,
            wake: Arc::new(Notify::new()),
        });
        Ok(Self { context, listener, metrics, sender })
    }

    /// The bound port; 0 if it can't be determined.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().map_or(0, |address| address.port())
    }

    /// Runs until told to stop, and drains.
    ///
    /// # Errors
    /// If a task fails.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { context, listener, metrics, sender } = self;
        let api = http::Api { pool: context.pool.clone() };
        let wake_sender = sender.as_ref().map(|sender| Arc::clone(&sender.wake));
        let handler = events::Handler { metrics, wake_sender };
        let mut tasks = context.spawn_server(listener, http::routes(api));
        if let Some(sender) = sender {
            let (pool, metrics) = (sender.pool.clone(), sender.metrics.clone());
            tasks = tasks
                .spawn("e-mails", |stop| sender.run(stop))
                .spawn("e-mail backlog", |stop| sender::report_backlog(pool, metrics, stop));
        }
        context.spawn_consumer(tasks, handler).run(shutdown).await
    }
}
