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
use crate::service::Service;

/// How long the gateway, and then the services behind it, may take to drain.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1800);

/// How often, and for how long, the launcher checks whether the consumers have joined their groups.
const JOIN_POLL_INTERVAL: Duration = Duration::from_millis(50);
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Where each service listens.
#[derive(Clone, Debug)]
pub struct Ports {
    bind: IpAddr,
    ports: [u16; 5],
}

impl Ports {
    /// The ports that were asked for; for the others the default ones if `use_defaults`, else free ones.
    pub fn new(addresses: &Addresses, use_defaults: bool) -> Self {
        let port = |service: Service| {
            addresses.port(service).unwrap_or(if use_defaults { service.default_port() } else { 0 })
        };
        Self { bind: addresses.bind, ports: Service::ALL.map(port) }
    }

    fn address(&self, service: Service) -> SocketAddr {
        SocketAddr::new(self.bind, self.ports[service as usize])
    }

    /// Checks that no port is in use, before anything is started.
    ///
    /// # Errors
    /// Names the port, the service and the option to change it.
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

/// The settings that the launcher passes to the services.
#[derive(Clone, Debug)]
pub struct Settings {
    pub ports: Ports,
    /// URLs, in the order of [`Service::STATEFUL`].
    pub databases: [String; 4],
    pub kafka: String,
    pub kafka_config: String,
    pub topic_prefix: String,
    pub partitions: i32,
    /// The folder of exports; `None` if the environment sets it.
    pub exports: Option<PathBuf>,
}

struct RunningService {
    service: Service,
    port: u16,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The running services.
pub struct Fleet {
    services: Vec<RunningService>,
    bind: IpAddr,
}

impl Fleet {
    /// Builds and runs all five services.
    ///
    /// # Errors
    /// Names the service that can't be built.
    pub async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let mut fleet = Self { services: Vec::new(), bind: settings.ports.bind };
        for service in Service::ALL {
            match fleet.start_one(service, settings).await {
                Ok(running) => fleet.services.push(running),
                Err(error) => {
                    fleet.stop().await;
                    return Err(error.context(format!("{} can't start", service.name())));
                }
            }
        }
        Ok(fleet)
    }

    async fn start_one(&self, service: Service, settings: &Settings) -> anyhow::Result<RunningService> {
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
        Ok(RunningService { service, port, stop, task })
    }

    /// The URL of a service of this fleet.
    pub fn url(&self, service: Service) -> String {
        let port =
            self.services.iter().find(|running| running.service == service).map_or(0, |running| running.port);
        let host = if self.bind.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { self.bind };
        format!("http://{}", SocketAddr::new(host, port))
    }

    /// Returns once every consumer has partitions, so that the first reservation is decided without a delay: a broker's
    /// first group takes seconds.
    ///
    /// # Errors
    /// If a consumer has no partitions in time.
    pub async fn wait_until_joined(&self) -> anyhow::Result<()> {
        let client = crate::http::client().build()?;
        for service in Service::STATEFUL {
            let metrics = format!("{}/metrics", self.url(service));
            let joined = async {
                let mut poll = tokio::time::interval(JOIN_POLL_INTERVAL);
                loop {
                    poll.tick().await;
                    let text = client.get(&metrics).send().await?.text().await?;
                    let assigned =
                        text.lines().find_map(|line| line.strip_prefix("consumer_assigned_partitions "));
                    if assigned.is_some_and(|assigned| assigned != "0") {
                        return anyhow::Ok(());
                    }
                }
            };
            tokio::time::timeout(JOIN_TIMEOUT, joined)
                .await
                .with_context(|| format!("{} got no partitions within {JOIN_TIMEOUT:?}", service.name()))??;
        }
        Ok(())
    }

    /// Returns the reason when a service ends that was not asked to.
    pub async fn wait_for_exit(&mut self) -> anyhow::Error {
        let tasks = self.services.iter_mut().map(|running| &mut running.task);
        let (result, index, _) = select_all(tasks).await;
        let service = self.services.remove(index).service;
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
            self.services.into_iter().partition(|running| running.service == Service::Gateway);
        for services in [gateway, others] {
            join_all(services.into_iter().map(RunningService::stop)).await;
        }
    }
}

impl RunningService {
    async fn stop(mut self) {
        self.stop.cancel();
        let service = self.service.name();
        match tokio::time::timeout(DRAIN_TIMEOUT, &mut self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::error!(service, error = %format!("{error:#}"), "failed while it stopped")
            }
            Ok(Err(error)) => tracing::error!(service, %error, "panicked while it stopped"),
            Err(_) => {
                tracing::warn!(service, bound = ?DRAIN_TIMEOUT, "did not drain in time");
                self.task.abort();
            }
        }
    }
}

/// After a cancelled start, the services end without being waited for.
impl Drop for RunningService {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}
