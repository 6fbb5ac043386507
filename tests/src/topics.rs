//! Topics that a test creates or deletes itself.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

/// A client that creates and deletes topics.
///
/// # Errors
/// If its settings are invalid.
pub fn admin_client(bootstrap: &str) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", bootstrap).create()?)
}

/// Creates a topic of one partition.
///
/// # Errors
/// If Kafka refuses.
pub async fn create(bootstrap: &str, name: &str, settings: &[(&str, &str)]) -> anyhow::Result<()> {
    let new = NewTopic::new(name, 1, TopicReplication::Fixed(-1));
    let new = settings.iter().fold(new, |new, (setting, value)| new.set(setting, value));
    for created in admin_client(bootstrap)?.create_topics(&[new], &AdminOptions::new()).await? {
        created.map_err(|(name, error)| anyhow::anyhow!("{name}: {error}"))?;
    }
    Ok(())
}
