//! Apache Kafka from Maven artifacts: start, produce, consume, kill, start again; a missing program is named.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use libtest_mimic::Trial;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use theater_infra::kafka_native::{NativeKafka, Port};
use theater_infra::port;
use theater_infra::supervise::{Program, TempDir};

use super::helper_process::HelperProcess;
use super::supervise::{alive, eventually};
use crate::test;

const TOPIC: &str = "some.topic";

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("kafka::records_survive_a_kill_and_nothing_is_left", records_survive_a_kill_and_nothing_is_left),
        test("kafka::a_persistent_folder_is_used_again", a_persistent_folder_is_used_again),
        test("kafka::kill_9_of_the_parent_leaves_nothing", kill_9_of_the_parent_leaves_nothing),
        test("kafka::a_missing_java_is_named", a_missing_java_is_named),
        test("kafka::a_missing_maven_is_named", a_missing_maven_is_named),
    ]
}

async fn produce(kafka: &NativeKafka, value: &str) -> anyhow::Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap_servers()).set("message.timeout.ms", "30000");
    let producer: FutureProducer = config.create()?;
    let record = FutureRecord::to(TOPIC).key("key").payload(value);
    producer.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
    Ok(())
}

async fn create_topic(kafka: &NativeKafka) -> anyhow::Result<()> {
    let mut config = ClientConfig::new();
    let admin: AdminClient<DefaultClientContext> =
        config.set("bootstrap.servers", kafka.bootstrap_servers()).create()?;
    let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(1));
    for result in admin.create_topics([&topic], &AdminOptions::new()).await? {
        result.map_err(|(_, code)| code)?;
    }
    Ok(())
}

/// The console consumer's output for the first `count` records.
async fn console_consumer(kafka: &NativeKafka, count: usize) -> anyhow::Result<String> {
    let temp_dir = TempDir::new(&std::env::temp_dir(), "theater-test")?;
    let mut command = kafka.tools().command("org.apache.kafka.tools.consumer.ConsoleConsumer");
    command.args(["--bootstrap-server", &kafka.bootstrap_servers(), "--topic", TOPIC, "--from-beginning"]);
    command.args(["--max-messages", &count.to_string(), "--timeout-ms", "30000"]);
    command.args(["--formatter-property", "print.key=true"]);
    let child = Program::new(command, temp_dir.path().join("log")).spawn()?;
    anyhow::ensure!(child.exited().await.success(), "{}", child.log_tail());
    Ok(child.log_tail())
}

async fn records_survive_a_kill_and_nothing_is_left() -> anyhow::Result<()> {
    let mut kafka = NativeKafka::start(None, Port::Any).await?;
    create_topic(&kafka).await?;
    produce(&kafka, "before").await?;
    let port = kafka.port();
    kafka.kill().await;
    kafka.restart().await?;
    assert_eq!(kafka.port(), port);
    produce(&kafka, "after").await?;
    let output = console_consumer(&kafka, 2).await?;
    assert!(output.contains("key\tbefore") && output.contains("key\tafter"), "{output}");

    let child = kafka.child().context("it runs")?;
    let (pid, folder) = (child.pid().to_string(), child.log().parent().context("a folder")?.to_owned());
    kafka.stop().await;
    assert!(!alive(&pid) && port::is_free(port));
    drop(kafka);
    assert!(!folder.exists());
    Ok(())
}

async fn a_persistent_folder_is_used_again() -> anyhow::Result<()> {
    let temp_dir = TempDir::new(&std::env::temp_dir(), "theater-test")?;
    let mut first = NativeKafka::start(Some(temp_dir.path()), Port::Any).await?;
    create_topic(&first).await?;
    produce(&first, "kept").await?;
    first.stop().await;
    drop(first);
    // It uses other ports than the first one.
    let second = NativeKafka::start(Some(temp_dir.path()), Port::Any).await?;
    let output = console_consumer(&second, 1).await?;
    assert!(output.contains("key\tkept"), "{output}");
    Ok(())
}

async fn kill_9_of_the_parent_leaves_nothing() -> anyhow::Result<()> {
    let mut helper = HelperProcess::start("kafka", |_| {})?;
    let port: u16 = helper.value("port").parse()?;
    assert!(!port::is_free(port));
    helper.kill_9()?;
    eventually("its port is free", || port::is_free(port)).await
}

fn error_of_kafka(adapt: impl FnOnce(&mut Command)) -> String {
    match HelperProcess::start("kafka", adapt) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

async fn a_missing_java_is_named() -> anyhow::Result<()> {
    let error = error_of_kafka(|command| _ = command.env("PATH", "/nonexistent").env_remove("JAVA_HOME"));
    for part in ["`java` can't be run", "apt-get install openjdk-17-jdk-headless maven", "--kafka embedded"] {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
    Ok(())
}

async fn a_missing_maven_is_named() -> anyhow::Result<()> {
    let temp_dir = TempDir::new(&std::env::temp_dir(), "theater-test")?;
    let java = Command::new("sh").args(["-c", "command -v java"]).output()?;
    symlink(String::from_utf8(java.stdout)?.trim(), temp_dir.path().join("java"))?;
    let error = error_of_kafka(|command| {
        command.env("PATH", temp_dir.path()).env("XDG_CACHE_HOME", temp_dir.path()).env_remove("JAVA_HOME");
    });
    for part in ["no `mvn` to run", "apt-get install openjdk-17-jdk-headless maven", "--kafka HOST:PORT"] {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
    let leftovers: Vec<_> = std::fs::read_dir(temp_dir.path().join("theater"))?.collect();
    assert!(leftovers.is_empty(), "a cache without leftovers, not {leftovers:?}");
    Ok(())
}
