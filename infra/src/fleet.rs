//! The five services in this process, each on its own port with its own database.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use futures_util::future::{join_all, select_all};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::options::Addresses;

/// How long the gateway, and then the services behind it, may take to drain.
const DRAIN: Duration = Duration::from_millis(1800);

/// A service and what it is called where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Reservation,
    Movie,
    Notification,
    ReservationList,
    Gateway,
}

impl Service {
    /// In the order in which they start: the gateway last.
    pub const ALL: [Self; 5] =
        [Self::Reservation, Self::Movie, Self::Notification, Self::ReservationList, Self::Gateway];
    /// Those with a database.
    pub const STATEFUL: [Self; 4] =
        [Self::Reservation, Self::Movie, Self::Notification, Self::ReservationList];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Reservation => "reservation",
            Self::Movie => "movie",
            Self::Notification => "notification",
            Self::ReservationList => "reservation-list",
            Self::Gateway => "gateway",
        }
    }

    /// Its database; the gateway has none.
    pub fn database(self) -> String {
        self.name().replace('-', "_")
    }

    pub const fn usual_port(self) -> u16 {
        match self {
            Self::Reservation => 8082,
            Self::Movie => 8083,
            Self::Notification => 8084,
            Self::ReservationList => 8085,
            Self::Gateway => 8088,
        }
    }

    /// The port that was asked for.
    pub fn port(self, addresses: &Addresses) -> Option<u16> {
        match self {
            Self::Reservation => addresses.reservation_port,
            Self::Movie => addresses.movie_port,
            Self::Notification => addresses.notification_port,
            Self::ReservationList => addresses.reservation_list_port,
            Self::Gateway => addresses.gateway_port,
        }
    }
}

/// Where each service listens.
#[derive(Clone, Debug)]
pub struct Ports {
    bind: IpAddr,
    ports: [u16; 5],
}

impl Ports {
    /// As asked; else the usual ones, or free ones.
    pub fn new(addresses: &Addresses, usual: bool) -> Self {
        let port = |service: Service| {
            service.port(addresses).unwrap_or(if usual { service.usual_port() } else { 0 })
        };
        Self { bind: addresses.bind, ports: Service::ALL.map(port) }
    }

    fn address(&self, service: Service) -> SocketAddr {
        SocketAddr::new(self.bind, self.ports[service as usize])
    }

    /// Tells at once, before anything is started, which port is in use.
    ///
    /// # Errors
    /// Names the port, the service and the way out.
    pub fn check(&self) -> anyhow::Result<()> {
        for service in Service::ALL {
            let address = self.address(service);
            let name = service.name();
            if let Err(error) = TcpListener::bind(address) {
                bail!(
                    "{name} can't listen on {address}: {error}. Stop what uses the port, or choose another: \
                     --{name}-port PORT (0: any free one)"
                );
            }
        }
        Ok(())
    }
}

/// What the services are given.
#[derive(Clone, Debug)]
pub struct Settings {
    pub ports: Ports,
    /// As [`Service::STATEFUL`].
    pub databases: [String; 4],
    pub kafka: String,
    pub kafka_config: String,
    pub topic_prefix: String,
    pub partitions: i32,
    /// The folder of exports, unless the environment says it.
    pub exports: Option<PathBuf>,
}

/// How often, and for how long, the launcher looks whether the consumers have joined their groups.
const JOIN_PERIOD: Duration = Duration::from_millis(50);
const JOIN_LIMIT: Duration = Duration::from_secs(60);

struct Part {
    service: Service,
    port: u16,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The running services.
pub struct Fleet {
    parts: Vec<Part>,
    bind: IpAddr,
}

impl Fleet {
    /// Builds and runs all five.
    ///
    /// # Errors
    /// Names the service that can't be built.
    pub async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let mut fleet = Self { parts: Vec::new(), bind: settings.ports.bind };
        for service in Service::ALL {
            match fleet.start_one(service, settings).await {
                Ok(part) => fleet.parts.push(part),
                Err(error) => {
                    fleet.stop().await;
                    return Err(error.context(format!("{} can't start", service.name())));
                }
            }
        }
        Ok(fleet)
    }

    async fn start_one(&self, service: Service, settings: &Settings) -> anyhow::Result<Part> {
        let mut args = vec![service.name().to_owned()];
        args.push(format!("--bind-address={}", settings.ports.address(service)));
        if service == Service::Gateway {
            args.extend(
                Service::STATEFUL.map(|behind| format!("--{}-url={}", behind.name(), self.url(behind))),
            );
        } else {
            args.push(format!("--database-url={}", settings.databases[service as usize]));
            args.push(format!("--kafka-bootstrap-servers={}", settings.kafka));
            args.push(format!("--kafka-config={}", settings.kafka_config));
            args.push(format!("--kafka-topic-prefix={}", settings.topic_prefix));
            args.push(format!("--kafka-topic-partitions={}", settings.partitions));
        }
        if let (Service::ReservationList, Some(exports)) = (service, &settings.exports) {
            args.push(format!("--exports-dir={}", exports.display()));
        }
        let stop = CancellationToken::new();
        macro_rules! start {
            ($crate_name:ident) => {{
                let application =
                    $crate_name::Application::build($crate_name::Config::try_parse_from(args)?).await?;
                (application.port(), tokio::spawn(application.run(stop.clone())))
            }};
        }
        let (port, task) = match service {
            Service::Reservation => start!(reservation),
            Service::Movie => start!(movie),
            Service::Notification => start!(notification),
            Service::ReservationList => start!(reservation_list),
            Service::Gateway => start!(gateway),
        };
        Ok(Part { service, port, stop, task })
    }

    /// Where a service of this fleet answers.
    pub fn url(&self, service: Service) -> String {
        let port = self.parts.iter().find(|part| part.service == service).map_or(0, |part| part.port);
        let host = if self.bind.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { self.bind };
        format!("http://{}", SocketAddr::new(host, port))
    }

    /// Returns once every consumer has been given partitions, so that what is asked now is decided now. A
    /// broker's first group takes seconds.
    ///
    /// # Errors
    /// A group that is not joined in time.
    pub async fn joined(&self) -> anyhow::Result<()> {
        let client = crate::http::client().build()?;
        for service in Service::STATEFUL {
            let metrics = format!("{}/metrics", self.url(service));
            let joined = async {
                let mut look = tokio::time::interval(JOIN_PERIOD);
                loop {
                    look.tick().await;
                    let text = client.get(&metrics).send().await?.text().await?;
                    let assigned =
                        text.lines().find_map(|line| line.strip_prefix("consumer_assigned_partitions "));
                    if assigned.is_some_and(|assigned| assigned != "0") {
                        return anyhow::Ok(());
                    }
                }
            };
            tokio::time::timeout(JOIN_LIMIT, joined)
                .await
                .with_context(|| format!("{} got no partitions within {JOIN_LIMIT:?}", service.name()))??;
        }
        Ok(())
    }

    /// Returns, with the reason, when a service ends that was not asked to.
    pub async fn ended(&mut self) -> anyhow::Error {
        let tasks = self.parts.iter_mut().map(|part| &mut part.task);
        let (result, index, _) = select_all(tasks).await;
        let service = self.parts.remove(index).service;
        let reason = match result {
            Ok(Ok(())) => anyhow!("it was not asked to"),
            Ok(Err(error)) => error,
            Err(panic) => anyhow!(panic),
        };
        reason.context(format!("{} has ended", service.name()))
    }

    /// Drains the gateway, then the others.
    pub async fn stop(self) {
        let (gateway, others): (Vec<_>, Vec<_>) =
            self.parts.into_iter().partition(|part| part.service == Service::Gateway);
        for parts in [gateway, others] {
            join_all(parts.into_iter().map(Part::stop)).await;
        }
    }
}

impl Part {
    async fn stop(mut self) {
        self.stop.cancel();
        let service = self.service.name();
        match tokio::time::timeout(DRAIN, &mut self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::error!(service, error = %format!("{error:#}"), "failed while it stopped")
            }
            Ok(Err(error)) => tracing::error!(service, %error, "panicked while it stopped"),
            Err(_) => {
                tracing::warn!(service, bound = ?DRAIN, "did not drain in time");
                self.task.abort();
            }
        }
    }
}

/// Of a start that was cut short: nobody waits for it.
impl Drop for Part {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}
