//! A theater: replicas of the five services inside this process, with databases and topics of its own.

use anyhow::Context;
use clap::Parser;
use theater_infra::port;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::environment::create_unique_database;
use crate::{Api, Environment, schema_conformance};

/// What a test can choose about a theater.
#[derive(Clone, Debug)]
pub struct Setup {
    pub replicas: usize,
    pub deadline_secs: u32,
    pub partitions: u32,
    /// Additional arguments of a service's command line: `("movie", "--flag=value")`.
    pub settings: Vec<(&'static str, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { replicas: 1, deadline_secs: 30, partitions: 4, settings: Vec::new() }
    }
}

/// The addresses, names and settings of one theater, from which the command lines of its services are made.
#[derive(Clone, Debug)]
pub struct TheaterConfig {
    pub bootstrap: String,
    pub prefix: String,
    pub partitions: u32,
    pub deadline_secs: u32,
    pub settings: Vec<(&'static str, String)>,
    pub reservation_url: String,
    pub movie_url: String,
    pub notification_url: String,
    pub reservation_list_url: String,
}

impl TheaterConfig {
    /// Creates its databases, and chooses a unique topic prefix.
    ///
    /// # Errors
    /// If the database server fails.
    pub async fn create(bootstrap: String, admin_url: &str, setup: &Setup) -> anyhow::Result<Self> {
        let prefix = Environment::unique_prefix();
        schema_conformance::register(&prefix);
        Ok(Self {
            bootstrap,
            prefix,
            partitions: setup.partitions,
            deadline_secs: setup.deadline_secs,
            settings: setup.settings.clone(),
            reservation_url: create_unique_database(admin_url, "reservation").await?,
            movie_url: create_unique_database(admin_url, "movie").await?,
            notification_url: create_unique_database(admin_url, "notification").await?,
            reservation_list_url: create_unique_database(admin_url, "reservation_list").await?,
        })
    }

    pub fn database_url(&self, service: &str) -> &str {
        match service {
            "reservation" => &self.reservation_url,
            "movie" => &self.movie_url,
            "notification" => &self.notification_url,
            _ => &self.reservation_list_url,
        }
    }

    /// The command line of a service that listens on `address`.
    pub fn args(&self, service: &str, address: &str) -> Vec<String> {
        let mut args = vec![
            format!("--bind-address={address}"),
            format!("--database-url={}", self.database_url(service)),
            format!("--kafka-bootstrap-servers={}", self.bootstrap),
            format!("--kafka-topic-prefix={}", self.prefix),
            format!("--kafka-topic-partitions={}", self.partitions),
        ];
        if service == "reservation" {
            args.push(format!("--reservation-deadline-secs={}", self.deadline_secs));
        }
        args.extend(self.settings(service));
        args
    }

    /// The command line of a gateway to the services at these ports.
    pub fn gateway_args(&self, address: &str, ports: &[(&'static str, Vec<u16>)]) -> Vec<String> {
        let mut args = vec![format!("--bind-address={address}")];
        for (service, ports) in ports {
            let urls: Vec<_> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
            args.push(format!("--{service}-url={}", urls.join(",")));
        }
        args.extend(self.settings("gateway"));
        args
    }

    fn settings<'a>(&'a self, service: &'a str) -> impl Iterator<Item = String> + 'a {
        self.settings.iter().filter(move |(name, _)| *name == service).map(|(_, setting)| setting.clone())
    }
}

struct RunningService {
    name: String,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

pub struct Theater {
    pub api: Api,
    pub config: TheaterConfig,
    pub ports: Vec<(&'static str, Vec<u16>)>,
    services: Vec<RunningService>,
}

macro_rules! start {
    ($theater:expr, $service:ident, $name:literal, $args:expr) => {{
        let args = std::iter::once($name.to_owned()).chain($args);
        let config = $service::Config::try_parse_from(args)?;
        let application = $service::Application::build(config).await.context($name)?;
        let port = application.port();
        $theater.spawn($name, |stop| application.run(stop));
        port
    }};
}

impl Theater {
    /// Creates the databases, and starts all services and a gateway.
    ///
    /// # Errors
    /// If a service doesn't start.
    pub async fn start(environment: &Environment, setup: Setup) -> anyhow::Result<Self> {
        let config = TheaterConfig::create(environment.bootstrap(), &environment.admin_url(), &setup).await?;
        Self::start_with(config, setup.replicas).await
    }

    /// As [`Theater::start`], on databases that exist.
    ///
    /// # Errors
    /// As [`Theater::start`].
    pub async fn start_with(config: TheaterConfig, replicas: usize) -> anyhow::Result<Self> {
        let mut theater = Self { api: Api::new("")?, config, ports: Vec::new(), services: Vec::new() };
        for service in ["reservation", "movie", "notification", "reservation-list"] {
            let mut ports = Vec::new();
            for _ in 0..replicas {
                ports.push(theater.start_service(service).await?);
            }
            theater.ports.push((service, ports));
        }
        theater.api = theater.start_gateway().await?;
        Ok(theater)
    }

    /// Starts one more gateway.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn start_gateway(&mut self) -> anyhow::Result<Api> {
        let args = self.config.gateway_args(&new_address()?, &self.ports);
        let port = start!(self, gateway, "gateway", args);
        Api::new(format!("http://127.0.0.1:{port}"))
    }

    /// Starts one more replica, and returns its port.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn start_service(&mut self, service: &str) -> anyhow::Result<u16> {
        self.start_at(service, &new_address()?).await
    }

    /// Starts a stopped service again, at the ports that the gateway knows.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn restart_service(&mut self, service: &str) -> anyhow::Result<()> {
        let ports = self.ports.iter().find(|(name, _)| *name == service).map(|(_, ports)| ports.clone());
        for port in ports.with_context(|| format!("{service} was never started"))? {
            self.start_at(service, &format!("127.0.0.1:{port}")).await?;
        }
        Ok(())
    }

    async fn start_at(&mut self, service: &str, address: &str) -> anyhow::Result<u16> {
        let args = self.config.args(service, address);
        Ok(match service {
            "reservation" => start!(self, reservation, "reservation", args),
            "movie" => start!(self, movie, "movie", args),
            "notification" => start!(self, notification, "notification", args),
            _ => start!(self, reservation_list, "reservation-list", args),
        })
    }

    fn spawn<F>(&mut self, name: &str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(stop.clone()));
        self.services.push(RunningService { name: name.to_owned(), stop, task });
    }

    /// The port of a service's first replica.
    pub fn port(&self, service: &str) -> u16 {
        self.ports.iter().find(|(name, _)| *name == service).map_or(0, |(_, ports)| ports[0])
    }

    /// Stops all replicas of one service.
    ///
    /// # Errors
    /// If a replica has failed.
    pub async fn stop_service(&mut self, service: &str) -> anyhow::Result<()> {
        let (stopping, others) = self.services.drain(..).partition(|running| running.name == service);
        self.services = others;
        stop(stopping).await
    }

    /// Stops all services. Each must end without an error, and the records must conform to the schemas.
    ///
    /// # Errors
    /// If any of this fails.
    pub async fn stop(self) -> anyhow::Result<()> {
        stop(self.services).await?;
        schema_conformance::validate_topics(&self.config.bootstrap, &self.config.prefix).await
    }
}

fn new_address() -> anyhow::Result<String> {
    Ok(format!("127.0.0.1:{}", port::free()?))
}

async fn stop(services: Vec<RunningService>) -> anyhow::Result<()> {
    for service in &services {
        service.stop.cancel();
    }
    for service in services {
        service.task.await?.with_context(|| format!("{} ended badly", service.name))?;
    }
    Ok(())
}
