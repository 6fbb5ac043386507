//! The settings of database and Kafka, which all services but the gateway share.

use std::str::FromStr;

use crate::config::DrainConfig;

/// The service's own database, and Kafka.
#[derive(clap::Args, Clone, Debug)]
pub struct EventsConfig {
    /// The service's own database: postgres://user:password@host:port/name
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: DatabaseUrl,

    /// Connections that this process keeps to its database at most, beside one for each outbox shard
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub database_max_connections: u32,

    /// Kafka's brokers to begin with: host:port, comma-separated
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", default_value = "localhost:9092", value_parser = bootstrap_servers)]
    pub kafka_bootstrap_servers: String,

    /// Further librdkafka settings (TLS, SASL): key=value, comma-separated
    #[arg(long, env = "KAFKA_CONFIG", default_value = "", hide_env_values = true)]
    pub kafka_config: KafkaSettings,

    /// Prefix of the names of topics and consumer groups
    #[arg(long, env = "KAFKA_TOPIC_PREFIX", default_value = "theater.", value_parser = topic_prefix)]
    pub kafka_topic_prefix: String,

    /// Partitions of a topic that is missing and so created
    #[arg(long, env = "KAFKA_TOPIC_PARTITIONS", default_value_t = 12,
          value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub kafka_topic_partitions: i32,

    /// Replicas of a topic that is created; the broker's own default if unset
    #[arg(long, env = "KAFKA_TOPIC_REPLICATION", value_parser = clap::value_parser!(i32).range(1..=100))]
    pub kafka_topic_replication: Option<i32>,

    #[command(flatten)]
    pub drain: DrainConfig,
}

/// A parsed PostgreSQL URL. Its debug output leaves out the password.
#[derive(Clone)]
pub struct DatabaseUrl(pub sqlx::postgres::PgConnectOptions);

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.0.get_host(), self.0.get_port(), self.0.get_database().unwrap_or(""))
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err("must begin with postgres://".into());
        }
        text.parse().map(Self).map_err(|error| format!("not a PostgreSQL URL: {error}"))
    }
}

/// `key=value` pairs for librdkafka. Their debug output leaves out the values, which may be secret.
#[derive(Clone, Default)]
pub struct KafkaSettings(pub Vec<(String, String)>);

impl std::fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

impl FromStr for KafkaSettings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    Ok((key.trim().to_owned(), value.trim().to_owned()))
                }
                _ => Err(format!("`{pair}` is not key=value")),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn bootstrap_servers(text: &str) -> Result<String, String> {
    let well_formed = |server: &str| {
        let (host, port) = server.trim().rsplit_once(':')?;
        (!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(())
    };
    match text.split(',').find(|server| well_formed(server).is_none()) {
        Some(server) => Err(format!("`{server}` is not host:port")),
        None => Ok(text.to_owned()),
    }
}

/// Kafka's rule for names. Leaves space for the longest suffix within Kafka's limit of 249 characters.
fn topic_prefix(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.len() > 200 || !text.chars().all(legal) {
        return Err("at most 200 characters of a-z A-Z 0-9 . _ -".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_parsed_into_pairs() {
        let settings: KafkaSettings = "security.protocol=ssl, sasl.password=a=b".parse().unwrap();
        assert_eq!(
            settings.0,
            [("security.protocol".into(), "ssl".into()), ("sasl.password".into(), "a=b".to_owned())]
        );
        assert!("nonsense".parse::<KafkaSettings>().unwrap_err().contains("`nonsense`"));
    }

    #[test]
    fn malformed_addresses_are_refused() {
        assert!(bootstrap_servers("a:9092,b:9093").is_ok());
        for wrong in ["", "localhost", ":9092", "a:9092,b", "a:0", "a:x"] {
            assert!(bootstrap_servers(wrong).unwrap_err().contains("host:port"), "{wrong}");
        }
        assert!("mysql://x".parse::<DatabaseUrl>().is_err());
        assert!(topic_prefix("a b").is_err());
    }

    #[test]
    fn debug_output_contains_no_secrets() {
        let url: DatabaseUrl = "postgres://u:secret@db:5432/movie".parse().unwrap();
        let settings: KafkaSettings = "sasl.password=secret".parse().unwrap();
        assert!(!format!("{url:?}{settings:?}").contains("secret"));
    }
}
