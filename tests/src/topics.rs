//! Topics that a test makes, or takes away, itself.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

/// Who may create and delete topics.
///
/// # Errors
/// Settings that are refused.
pub fn admin(bootstrap: &str) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", bootstrap).create()?)
}

/// Creates a topic of one partition.
///
/// # Errors
/// Kafka's.
pub async fn create(bootstrap: &str, name: &str, settings: &[(&str, &str)]) -> anyhow::Result<()> {
    let new = NewTopic::new(name, 1, TopicReplication::Fixed(-1));
    let new = settings.iter().fold(new, |new, (setting, value)| new.set(setting, value));
    for created in admin(bootstrap)?.create_topics(&[new], &AdminOptions::new()).await? {
        created.map_err(|(name, error)| anyhow::anyhow!("{name}: {error}"))?;
    }
    Ok(())
}
