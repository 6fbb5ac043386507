//! The theater that the golden run is played against.

use anyhow::{Context, bail};

use crate::options::{Kafka, LauncherOptions};
use crate::records::BrokerConfig;
use crate::runtime_file;

#[derive(Clone, Debug)]
pub struct Target {
    /// The gateway's URL, without a slash at the end.
    pub gateway: String,
    pub broker: BrokerConfig,
    pub topic_prefix: String,
}

impl Target {
    /// A theater that runs already. Its broker is given in `options` or in its runtime file.
    ///
    /// # Errors
    /// If the broker is in neither.
    pub fn running(options: &LauncherOptions, gateway: &str) -> anyhow::Result<Self> {
        let (broker, topic_prefix) = match &options.kafka {
            Some(Kafka::At(address)) => {
                (options.broker_config(address.clone()), options.kafka_topic_prefix.clone())
            }
            Some(_) => bail!(
                "with --gateway, --kafka is the address of the broker that this theater uses: HOST:PORT"
            ),
            None => {
                let running = runtime_file::find(&runtime_file::folder()?)?
                    .into_iter()
                    .find(|theater| theater.gateway == gateway);
                let running = running.with_context(|| {
                    format!("no theater with the gateway {gateway} was started on this machine: say --kafka HOST:PORT")
                })?;
                (options.broker_config(running.kafka), running.topic_prefix)
            }
        };
        Ok(Self { gateway: gateway.to_owned(), broker, topic_prefix })
    }
}
