//! The scenarios: what is done to a theater on a cluster, and what must hold during and after it.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::deployment::{DEMO, Deployment, EXPORTS, LOAD, ROLLOUT_TIMEOUT};
use super::kubectl::{is_ready, name_of, template_hash};
use super::pods::Pod;
use super::{Options, QUERY_PERIOD, SERVICES, Scenario};
use crate::eventually_at;

/// With default settings a cluster waits five minutes before it removes pods.
const SCALE_DOWN_TIMEOUT: Duration = Duration::from_secs(480);

/// Calls a second: few enough that a small machine can start more pods meanwhile.
const LIGHT_LOAD: [&str; 4] = ["--reservations", "20", "--looks", "40"];
/// Calls a second: so few that the autoscaler removes pods.
const MINIMAL_LOAD: [&str; 4] = ["--reservations", "2", "--looks", "5"];

impl Deployment<'_> {
    pub(super) async fn run(&self, scenario: Scenario) -> anyhow::Result<()> {
        self.timeline.line(&format!("--- {scenario:?}"));
        match scenario {
            Scenario::Deploy => self.deploy().await,
            Scenario::Scale => self.scale().await,
            Scenario::Disrupt => self.disrupt().await,
            Scenario::Configure => self.configure().await,
            Scenario::Export => self.export().await,
        }
    }

    async fn deploy(&self) -> anyhow::Result<()> {
        self.apply(&self.overlay()).await?;
        for service in SERVICES {
            self.wait_until_rolled_out(service).await?;
        }
        self.timeline.line("the five services are available");
        let args = ["demo", "--gateway", "http://gateway:8088", "--kafka", "kafka:9092"];
        let demo = Pod::start(&self.kubectl, DEMO, &self.options.demo_image, &args).await?;
        let log = demo.wait_until_succeeded().await?;
        self.timeline.line(&format!("the demo, in a pod: {}", last_line(&log)));
        demo.delete().await?;
        self.consume("movies", "MoviePublished").await?;
        self.consume("reservations", "ReservationConfirmed").await
    }

    /// Reads a topic with Kafka's console consumer in Kafka's pod, which has little memory besides the broker's.
    async fn consume(&self, topic: &str, event: &str) -> anyhow::Result<()> {
        let topic = format!("theater.{topic}");
        let tool = ["env", "KAFKA_HEAP_OPTS=-Xmx128m", "/opt/kafka/bin/kafka-console-consumer.sh"];
        let what = ["--topic", &topic, "--from-beginning", "--timeout-ms", "5000"];
        let args =
            [&["exec", "kafka-0", "--"], &tool[..], &["--bootstrap-server", "localhost:9092"], &what[..]];
        // It fails with a timeout when there are no more records.
        let output = self.kubectl.output(&args.concat(), None).await?;
        ensure!(output.stdout.contains(event), "no {event} in {topic}: {}{}", output.stdout, output.stderr);
        self.timeline.line(&format!("the console consumer, in a pod, reads {topic}"));
        Ok(())
    }

    async fn scale(&self) -> anyhow::Result<()> {
        self.wait_for_pods("movie", 1, SCALE_DOWN_TIMEOUT).await?;
        let Options { reservations, reads, .. } = self.options;
        let heavy_load = ["--reservations", reservations, "--looks", reads];
        let scaling = async {
            self.under_load(&heavy_load, async || self.wait_for_pods("movie", 3, ROLLOUT_TIMEOUT).await)
                .await?;
            self.under_load(&MINIMAL_LOAD, async || self.wait_for_pods("movie", 1, SCALE_DOWN_TIMEOUT).await)
                .await
        };
        tokio::select! {
            result = scaling => result,
            result = self.timeline.follow_autoscaler(&self.kubectl, "movie") => result,
        }
    }

    async fn wait_for_pods(&self, service: &str, count: u64, limit: Duration) -> anyhow::Result<()> {
        let (deployment, timeout) =
            (format!("deployment/{service}"), format!("--timeout={}s", limit.as_secs()));
        for field in ["replicas", "readyReplicas"] {
            let condition = format!("--for=jsonpath={{.status.{field}}}={count}");
            self.kubectl.run(&["wait", &deployment, &condition, &timeout], None).await?;
        }
        self.timeline.line(&format!("{service} has {count} ready"));
        Ok(())
    }

    async fn disrupt(&self) -> anyhow::Result<()> {
        self.under_load(&LIGHT_LOAD, async || {
            for service in SERVICES {
                self.kubectl.run(&["rollout", "restart", "deployment", service], None).await?;
                self.wait_until_rolled_out(service).await?;
                self.timeline.line(&format!("{service} is updated"));
            }
            for service in SERVICES {
                let pods = self.kubectl.pods(service).await?;
                let pod = name_of(pods.first().context("no pod")?);
                self.kubectl.run(&["delete", "pod", &pod, "--wait=true"], None).await?;
                self.wait_until_rolled_out(service).await?;
                self.timeline.line(&format!("{pod} was deleted, and is replaced"));
            }
            for service in ["gateway", "reservation"] {
                self.drain(service).await?;
                self.wait_until_rolled_out(service).await?;
            }
            Ok(())
        })
        .await
    }

    /// Drains all nodes at once. As a replacement has no node to run on, the disruption budget lets only one pod go. When
    /// the nodes are schedulable again and the replacement is ready, the next pod may go.
    async fn drain(&self, service: &str) -> anyhow::Result<()> {
        let selector = format!("--pod-selector=app.kubernetes.io/name={service}");
        let nodes = self.nodes();
        let mut drain =
            self.kubectl.spawn(&[&["drain", "--timeout=300s", &selector], &nodes[..]].concat())?;
        let mut stderr = BufReader::new(drain.stderr.take().context("stderr")?).lines();
        let (mut lines, mut held_back) = (Vec::new(), false);
        while let Some(line) = stderr.next_line().await? {
            if line.contains("disruption budget") && !held_back {
                held_back = true;
                self.timeline.line(&format!("draining, {service}: {}", line.trim()));
                let left = self.kubectl.pods(service).await?;
                ensure!(left.iter().any(is_ready), "no pod of {service} is left");
                self.uncordon().await?;
            }
            lines.push(line);
        }
        let (status, output) = (drain.wait().await?, lines.join("\n"));
        ensure!(held_back, "nothing held back the drain of {service}:\n{output}");
        ensure!(status.success(), "the drain ended with {status}:\n{output}");
        self.timeline.line(&format!("{service} is drained"));
        Ok(())
    }

    async fn configure(&self) -> anyhow::Result<()> {
        self.under_load(&LIGHT_LOAD, async || {
            let before = self.current_template("reservation").await?;
            let gateway_before = self.current_template("gateway").await?;
            self.apply(&self.overlay_with_deadline("29")?).await?;
            self.wait_until_rolled_out("reservation").await?;
            let changed = self.current_template("reservation").await?;
            ensure!(changed != before, "the pods have the old setting still");
            ensure!(
                self.current_template("gateway").await? == gateway_before,
                "a setting of reservation's rolled the gateway"
            );
            self.timeline.line("a changed setting rolled the pods that read it, and no others");

            self.apply(&self.overlay_with_deadline("soon")?).await?;
            let log = self.wait_for_failing_pod("reservation", &changed).await?;
            self.timeline.line(&format!("a wrong setting: {}", log.lines().next().unwrap_or_default()));
            let wanted = self.kubectl.get(&["deployment", "reservation"]).await?;
            let wanted = wanted["spec"]["replicas"].as_u64().context("replicas")?;
            let pods = self.kubectl.pods("reservation").await?;
            let serving = pods.iter().filter(|pod| template_hash(pod) == changed && is_ready(pod)).count();
            ensure!(serving as u64 >= wanted, "{serving} of {wanted} go on serving");
            self.timeline.line(&format!("no pod with it became ready, and {serving} go on serving"));

            self.apply(&self.overlay()).await?;
            self.wait_until_rolled_out("reservation").await
        })
        .await
    }

    /// Waits for a pod with another template that has failed more than once, and returns its log.
    async fn wait_for_failing_pod(&self, service: &str, old_template: &str) -> anyhow::Result<String> {
        let pod = eventually_at(QUERY_PERIOD, "a pod fails", ROLLOUT_TIMEOUT, async || {
            let mut pods = self.kubectl.pods(service).await?.into_iter();
            let pod =
                pods.find(|pod| template_hash(pod) != old_template).context("no pod but the old ones")?;
            let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
            ensure!(restarts.as_u64() >= Some(1), "restarts: {restarts}");
            Ok(pod)
        })
        .await?;
        ensure!(!is_ready(&pod), "a pod with a wrong setting is ready");
        // The failed container may be deleted already, and the next one not have started.
        eventually_at(QUERY_PERIOD, "it says why", ROLLOUT_TIMEOUT, async || {
            let output = self.kubectl.output(&["logs", &name_of(&pod)], None).await?;
            ensure!(
                output.stdout.contains("RESERVATION_DEADLINE_SECS"),
                "{}{}",
                output.stdout,
                output.stderr
            );
            Ok(output.stdout)
        })
        .await
    }

    async fn export(&self) -> anyhow::Result<()> {
        let component = self.relative_path(&self.options.manifests.join("components/exports"))?;
        self.apply(&self.extend_overlay(&format!("components: [{}]", component.display()))?).await?;
        self.wait_until_rolled_out("reservation-list").await?;
        let pods = self.kubectl.pods("reservation-list").await?;
        ensure!(pods.len() > 1, "one pod only");
        let address = |pod: &Value| Some(format!("http://{}:8085", pod["status"]["podIP"].as_str()?));
        let replicas: Option<Vec<_>> = pods.iter().map(address).collect();
        let replicas = replicas.context("podIP")?;
        let replicas = replicas.iter().map(String::as_str);
        let args: Vec<_> =
            ["exports", "--gateway", "http://gateway:8088"].into_iter().chain(replicas).collect();
        let exports = Pod::start(&self.kubectl, EXPORTS, &self.options.load_image, &args).await?;
        for line in exports.wait_until_succeeded().await?.lines() {
            self.timeline.line(line);
        }
        exports.delete().await
    }

    /// Runs `disruption` while a pod generates load. No call may fail.
    async fn under_load(
        &self,
        rates: &[&str],
        disruption: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let args = [&["load", "--gateway", "http://gateway:8088"], rates].concat();
        let load = Pod::start(&self.kubectl, LOAD, &self.options.load_image, &args).await?;
        load.wait_until_started().await?;
        eventually_at(QUERY_PERIOD, "the load has begun", ROLLOUT_TIMEOUT, async || {
            let log = load.log().await?;
            ensure!(log.contains("calls"), "{log}");
            Ok(())
        })
        .await?;
        self.timeline.line(&format!("load: {}", rates.join(" ")));
        let result = disruption().await;
        let terminated = load.terminate().await;
        let log = load.wait_until_succeeded().await;
        // The first failure is the error, the load's log its context.
        if let Err(error) = result {
            return Err(error.context(log.unwrap_or_else(|error| format!("{error:#}"))));
        }
        let log = log?;
        terminated?;
        let lines: Vec<_> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(3)..] {
            self.timeline.line(&format!("load: {line}"));
        }
        load.delete().await
    }
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}
