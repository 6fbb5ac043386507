//! Replicas of the five services inside this process, on databases and topics of their own.

use anyhow::Context;
use clap::Parser;
use theater_infra::port;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::environment::new_database;
use crate::{Api, Environment, promise};

/// What a theater is to be like.
#[derive(Clone, Debug)]
pub struct Setup {
    pub replicas: usize,
    pub deadline_secs: u32,
    pub partitions: u32,
    /// What else a service's command line says: `("movie", "--flag=value")`.
    pub settings: Vec<(&'static str, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { replicas: 1, deadline_secs: 30, partitions: 4, settings: Vec::new() }
    }
}

/// The addresses and names that all services of one theater share.
#[derive(Clone, Debug)]
pub struct Stage {
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

impl Stage {
    /// New databases and a prefix of its own.
    ///
    /// # Errors
    /// The database server's.
    pub async fn new(bootstrap: String, admin_url: &str, setup: &Setup) -> anyhow::Result<Self> {
        let prefix = Environment::prefix();
        promise::expect(&prefix);
        Ok(Self {
            bootstrap,
            prefix,
            partitions: setup.partitions,
            deadline_secs: setup.deadline_secs,
            settings: setup.settings.clone(),
            reservation_url: new_database(admin_url, "reservation").await?,
            movie_url: new_database(admin_url, "movie").await?,
            notification_url: new_database(admin_url, "notification").await?,
            reservation_list_url: new_database(admin_url, "reservation_list").await?,
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

    /// The command line of a service that is to listen on `address`.
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

    /// The command line of a gateway before the services at these ports.
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
        self.settings.iter().filter(move |(of, _)| *of == service).map(|(_, setting)| setting.clone())
    }
}

struct Part {
    name: String,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

pub struct Theater {
    pub api: Api,
    pub stage: Stage,
    pub ports: Vec<(&'static str, Vec<u16>)>,
    parts: Vec<Part>,
}

macro_rules! start {
    ($theater:expr, $service:ident, $name:literal, $args:expr) => {{
        let args = std::iter::once($name.to_owned()).chain($args);
        let config = $service::Config::try_parse_from(args)?;
        let application = $service::Application::build(config).await.context($name)?;
        let port = application.port();
        $theater.add($name, |stop| application.run(stop));
        port
    }};
}

impl Theater {
    /// # Errors
    /// Whatever keeps a service from starting.
    pub async fn start(environment: &Environment, setup: Setup) -> anyhow::Result<Self> {
        let stage = Stage::new(environment.bootstrap(), &environment.admin_url(), &setup).await?;
        Self::start_on(stage, setup.replicas).await
    }

    /// # Errors
    /// As [`Theater::start`].
    pub async fn start_on(stage: Stage, replicas: usize) -> anyhow::Result<Self> {
        let mut theater = Self { api: Api::new("")?, stage, ports: Vec::new(), parts: Vec::new() };
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

    /// One more entrance.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn start_gateway(&mut self) -> anyhow::Result<Api> {
        let args = self.stage.gateway_args(&new_address()?, &self.ports);
        let port = start!(self, gateway, "gateway", args);
        Api::new(format!("http://127.0.0.1:{port}"))
    }

    /// One more replica; answers its port.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn start_service(&mut self, service: &str) -> anyhow::Result<u16> {
        self.start_at(service, &new_address()?).await
    }

    /// Starts a service that was stopped, at the ports where the gateway looks for it.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn start_again(&mut self, service: &str) -> anyhow::Result<()> {
        let ports = self.ports.iter().find(|(name, _)| *name == service).map(|(_, ports)| ports.clone());
        for port in ports.with_context(|| format!("{service} was never started"))? {
            self.start_at(service, &format!("127.0.0.1:{port}")).await?;
        }
        Ok(())
    }

    async fn start_at(&mut self, service: &str, address: &str) -> anyhow::Result<u16> {
        let args = self.stage.args(service, address);
        Ok(match service {
            "reservation" => start!(self, reservation, "reservation", args),
            "movie" => start!(self, movie, "movie", args),
            "notification" => start!(self, notification, "notification", args),
            _ => start!(self, reservation_list, "reservation-list", args),
        })
    }

    fn add<F>(&mut self, name: &str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(stop.clone()));
        self.parts.push(Part { name: name.to_owned(), stop, task });
    }

    /// The port of a service's first replica.
    pub fn port(&self, service: &str) -> u16 {
        self.ports.iter().find(|(name, _)| *name == service).map_or(0, |(_, ports)| ports[0])
    }

    /// Stops one service, all replicas of it.
    ///
    /// # Errors
    /// A service that didn't end well.
    pub async fn stop_service(&mut self, service: &str) -> anyhow::Result<()> {
        let (stopping, staying) = self.parts.drain(..).partition(|part| part.name == service);
        self.parts = staying;
        stop(stopping).await
    }

    /// Stops all services; each must have run well and drained, and written what the schemas promise.
    ///
    /// # Errors
    /// A service that didn't.
    pub async fn stop(self) -> anyhow::Result<()> {
        stop(self.parts).await?;
        promise::kept(&self.stage).await
    }
}

fn new_address() -> anyhow::Result<String> {
    Ok(format!("127.0.0.1:{}", port::free()?))
}

async fn stop(parts: Vec<Part>) -> anyhow::Result<()> {
    for part in &parts {
        part.stop.cancel();
    }
    for part in parts {
        part.task.await?.with_context(|| format!("{} ended badly", part.name))?;
    }
    Ok(())
}
