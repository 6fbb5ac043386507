//! What is done to a theater on a cluster, and what has to hold meanwhile and then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::kubectl::{Kubectl, name, ready, version};
use super::pods::Pod;
use super::watch::Timeline;
use super::{NAMESPACE, OURS, Options, PERIOD, SERVICES, Scene};
use crate::eventually_at;

/// What a roll-out, or the end of a load, may take. Machines that run a whole cluster beside other work are slow.
const PATIENCE: Duration = Duration::from_secs(300);

/// A cluster's own defaults wait five minutes before they take pods away.
const SCALE_DOWN: Duration = Duration::from_secs(480);

/// Calls a second: as many as leave room for more pods on a small machine, and so few that an autoscaler takes pods away.
const LIGHT: [&str; 4] = ["--reservations", "20", "--looks", "40"];
const LEAST: [&str; 4] = ["--reservations", "2", "--looks", "5"];

/// The names of the pods that are run.
const DEMO: &str = "demo";
const LOAD: &str = "load";
const ASKING: &str = "asking";

pub(super) struct Stage<'a> {
    options: &'a Options,
    kubectl: Kubectl,
    timeline: Timeline,
    /// Those that took pods when it began.
    nodes: Vec<String>,
    /// Kustomizations that are made here.
    folder: tempfile::TempDir,
}

impl<'a> Stage<'a> {
    /// # Errors
    /// A cluster that has no metrics for its autoscalers, or a theater of somebody else's.
    pub(super) async fn open(options: &'a Options, kubectl: Kubectl) -> anyhow::Result<Self> {
        let metrics = kubectl.run(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1"], None).await;
        metrics.context("autoscalers need metrics-server")?;
        let nodes = kubectl.get(&["nodes"]).await?;
        let nodes = nodes["items"].as_array().context("items")?;
        let nodes =
            nodes.iter().filter(|node| node["spec"]["unschedulable"] != json!(true)).map(name).collect();
        let stage = Self { options, kubectl, timeline: Timeline::new(), nodes, folder: tempfile::tempdir()? };
        stage.claim().await?;
        Ok(stage)
    }

    /// Only what was made here is written over, and deleted.
    async fn claim(&self) -> anyhow::Result<()> {
        let (label, maker) = OURS;
        let found =
            self.kubectl.run(&["get", "namespace", NAMESPACE, "--ignore-not-found", "--output=json"], None);
        let found = found.await?;
        if found.trim().is_empty() {
            let ours = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {label: maker}},
            });
            self.kubectl.run(&["create", "--filename=-"], Some(&ours.to_string())).await?;
            return Ok(());
        }
        let found: Value = serde_json::from_str(&found)?;
        let made_by = &found["metadata"]["labels"][label];
        ensure!(made_by == maker, "there is a namespace {NAMESPACE} that was not made by this program");
        Ok(())
    }

    pub(super) async fn play(&self, scene: Scene) -> anyhow::Result<()> {
        self.timeline.line(&format!("--- {scene:?}"));
        match scene {
            Scene::Deploy => self.deploy().await,
            Scene::Scale => self.scale().await,
            Scene::Disrupt => self.disrupt().await,
            Scene::Configure => self.configure().await,
            Scene::Export => self.export().await,
        }
    }

    /// However it ended: nodes take pods as before, and nobody calls any more.
    pub(super) async fn leave(&self) -> anyhow::Result<()> {
        self.uncordon().await?;
        let pods = ["delete", "pod", DEMO, LOAD, ASKING, "--ignore-not-found", "--grace-period=5"];
        self.kubectl.run(&pods, None).await?;
        Ok(())
    }

    pub(super) async fn clear(&self) -> anyhow::Result<()> {
        self.kubectl
            .run(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s"], None)
            .await?;
        Ok(())
    }

    async fn deploy(&self) -> anyhow::Result<()> {
        self.apply(&self.overlay()).await?;
        for service in SERVICES {
            self.rolled(service).await?;
        }
        self.timeline.line("the five services are available");
        let args = ["demo", "--gateway", "http://gateway:8088", "--kafka", "kafka:9092"];
        let demo = Pod::start(&self.kubectl, DEMO, &self.options.demo_image, &args).await?;
        let said = demo.succeeded().await?;
        self.timeline.line(&format!("the demo, in a pod: {}", last_line(&said)));
        demo.remove().await?;
        self.consume("movies", "MoviePublished").await?;
        self.consume("reservations", "ReservationConfirmed").await
    }

    /// By Kafka's own tool, in Kafka's pod, which has memory for little beside the broker.
    async fn consume(&self, topic: &str, event: &str) -> anyhow::Result<()> {
        let topic = format!("theater.{topic}");
        let tool = ["env", "KAFKA_HEAP_OPTS=-Xmx128m", "/opt/kafka/bin/kafka-console-consumer.sh"];
        let what = ["--topic", &topic, "--from-beginning", "--timeout-ms", "5000"];
        let args =
            [&["exec", "kafka-0", "--"], &tool[..], &["--bootstrap-server", "localhost:9092"], &what[..]];
        // It complains when nothing more comes.
        let said = self.kubectl.ask(&args.concat(), None).await?;
        ensure!(said.out.contains(event), "no {event} in {topic}: {}{}", said.out, said.err);
        self.timeline.line(&format!("the console consumer, in a pod, reads {topic}"));
        Ok(())
    }

    async fn scale(&self) -> anyhow::Result<()> {
        self.has_pods("movie", 1, SCALE_DOWN).await?;
        let Options { reservations, looks, .. } = self.options;
        let busy = ["--reservations", reservations, "--looks", looks];
        let scaling = async {
            self.under_load(&busy, async || self.has_pods("movie", 3, PATIENCE).await).await?;
            self.under_load(&LEAST, async || self.has_pods("movie", 1, SCALE_DOWN).await).await
        };
        tokio::select! {
            result = scaling => result,
            result = self.timeline.follows(&self.kubectl, "movie") => result,
        }
    }

    async fn has_pods(&self, service: &str, count: u64, limit: Duration) -> anyhow::Result<()> {
        let (deployment, limit) =
            (format!("deployment/{service}"), format!("--timeout={}s", limit.as_secs()));
        for field in ["replicas", "readyReplicas"] {
            let count = format!("--for=jsonpath={{.status.{field}}}={count}");
            self.kubectl.run(&["wait", &deployment, &count, &limit], None).await?;
        }
        self.timeline.line(&format!("{service} has {count} ready"));
        Ok(())
    }

    async fn disrupt(&self) -> anyhow::Result<()> {
        self.under_load(&LIGHT, async || {
            for service in SERVICES {
                self.kubectl.run(&["rollout", "restart", "deployment", service], None).await?;
                self.rolled(service).await?;
                self.timeline.line(&format!("{service} is updated"));
            }
            for service in SERVICES {
                let pods = self.kubectl.pods(service).await?;
                let pod = name(pods.first().context("no pod")?);
                self.kubectl.run(&["delete", "pod", &pod, "--wait=true"], None).await?;
                self.rolled(service).await?;
                self.timeline.line(&format!("{pod} was deleted, and is replaced"));
            }
            for service in ["gateway", "reservation"] {
                self.drain(service).await?;
                self.rolled(service).await?;
            }
            Ok(())
        })
        .await
    }

    /// Of all nodes at once: with no other to go to only one pod may go. The next one may when there is another instead.
    async fn drain(&self, service: &str) -> anyhow::Result<()> {
        let selector = format!("--pod-selector=app.kubernetes.io/name={service}");
        let nodes = self.nodes();
        let mut drain =
            self.kubectl.begin(&[&["drain", "--timeout=300s", &selector], &nodes[..]].concat())?;
        let mut lines = BufReader::new(drain.stderr.take().context("stderr")?).lines();
        let (mut said, mut held_back) = (Vec::new(), false);
        while let Some(line) = lines.next_line().await? {
            if line.contains("disruption budget") && !held_back {
                held_back = true;
                self.timeline.line(&format!("draining, {service}: {}", line.trim()));
                let left = self.kubectl.pods(service).await?;
                ensure!(left.iter().any(ready), "no pod of {service} is left");
                self.uncordon().await?;
            }
            said.push(line);
        }
        let (status, said) = (drain.wait().await?, said.join("\n"));
        ensure!(held_back, "nothing held back the drain of {service}:\n{said}");
        ensure!(status.success(), "the drain ended with {status}:\n{said}");
        self.timeline.line(&format!("{service} is drained"));
        Ok(())
    }

    async fn uncordon(&self) -> anyhow::Result<()> {
        self.kubectl.run(&[&["uncordon"], &self.nodes()[..]].concat(), None).await?;
        Ok(())
    }

    fn nodes(&self) -> Vec<&str> {
        self.nodes.iter().map(String::as_str).collect()
    }

    async fn configure(&self) -> anyhow::Result<()> {
        self.under_load(&LIGHT, async || {
            let (before, others) = (self.version("reservation").await?, self.version("gateway").await?);
            self.apply(&self.with_deadline("29")?).await?;
            self.rolled("reservation").await?;
            let changed = self.version("reservation").await?;
            ensure!(changed != before, "the pods have the old setting still");
            ensure!(
                self.version("gateway").await? == others,
                "a setting of reservation's rolled the gateway"
            );
            self.timeline.line("a changed setting rolled the pods that read it, and no others");

            self.apply(&self.with_deadline("soon")?).await?;
            let said = self.refused("reservation", &changed).await?;
            self.timeline.line(&format!("a wrong setting: {}", said.lines().next().unwrap_or_default()));
            let wanted = self.kubectl.get(&["deployment", "reservation"]).await?;
            let wanted = wanted["spec"]["replicas"].as_u64().context("replicas")?;
            let pods = self.kubectl.pods("reservation").await?;
            let serving = pods.iter().filter(|pod| version(pod) == changed && ready(pod)).count();
            ensure!(serving as u64 >= wanted, "{serving} of {wanted} go on serving");
            self.timeline.line(&format!("no pod with it became ready, and {serving} go on serving"));

            self.apply(&self.overlay()).await?;
            self.rolled("reservation").await
        })
        .await
    }

    /// The one version that all pods of a service are of.
    async fn version(&self, service: &str) -> anyhow::Result<String> {
        let versions: BTreeSet<_> = self.kubectl.pods(service).await?.iter().map(version).collect();
        ensure!(versions.len() == 1, "{service}: {versions:?}");
        versions.into_iter().next().context("no pod")
    }

    /// What a pod of another version says, that was started in vain more than once.
    async fn refused(&self, service: &str, before: &str) -> anyhow::Result<String> {
        let pod = eventually_at(PERIOD, "a pod fails", PATIENCE, async || {
            let pods = self.kubectl.pods(service).await?;
            let pod =
                pods.into_iter().find(|pod| version(pod) != before).context("no pod but the old ones")?;
            let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
            ensure!(restarts.as_u64() >= Some(1), "restarts: {restarts}");
            Ok(pod)
        })
        .await?;
        ensure!(!ready(&pod), "a pod with a wrong setting is ready");
        // The container that has ended may be away already, and the next one not have begun.
        eventually_at(PERIOD, "it says why", PATIENCE, async || {
            let said = self.kubectl.ask(&["logs", &name(&pod)], None).await?;
            ensure!(said.out.contains("RESERVATION_DEADLINE_SECS"), "{}{}", said.out, said.err);
            Ok(said.out)
        })
        .await
    }

    async fn export(&self) -> anyhow::Result<()> {
        let component = self.seen(&self.options.manifests.join("components/exports"))?;
        self.apply(&self.onto_overlay(&format!("components: [{}]", component.display()))?).await?;
        self.rolled("reservation-list").await?;
        let pods = self.kubectl.pods("reservation-list").await?;
        ensure!(pods.len() > 1, "one pod only");
        let address = |pod: &Value| Some(format!("http://{}:8085", pod["status"]["podIP"].as_str()?));
        let replicas: Option<Vec<_>> = pods.iter().map(address).collect();
        let replicas = replicas.context("podIP")?;
        let replicas = replicas.iter().map(String::as_str);
        let args: Vec<_> =
            ["exports", "--gateway", "http://gateway:8088"].into_iter().chain(replicas).collect();
        let asking = Pod::start(&self.kubectl, ASKING, &self.options.load_image, &args).await?;
        for line in asking.succeeded().await?.lines() {
            self.timeline.line(line);
        }
        asking.remove().await
    }

    /// Does something while customers and a vendor are there; not a call of theirs may fail.
    async fn under_load(
        &self,
        rates: &[&str],
        what: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let args = [&["load", "--gateway", "http://gateway:8088"], rates].concat();
        let load = Pod::start(&self.kubectl, LOAD, &self.options.load_image, &args).await?;
        load.started().await?;
        eventually_at(PERIOD, "the load has begun", PATIENCE, async || {
            let said = load.said().await?;
            ensure!(said.contains("calls"), "{said}");
            Ok(())
        })
        .await?;
        self.timeline.line(&format!("load: {}", rates.join(" ")));
        let done = what().await;
        let ended = load.end().await;
        let said = load.succeeded().await;
        // What failed first is told first.
        if let Err(error) = done {
            return Err(error.context(said.unwrap_or_else(|error| format!("{error:#}"))));
        }
        let said = said?;
        ended?;
        let lines: Vec<_> = said.lines().collect();
        for line in &lines[lines.len().saturating_sub(3)..] {
            self.timeline.line(&format!("load: {line}"));
        }
        load.remove().await
    }

    fn overlay(&self) -> PathBuf {
        self.options.manifests.join("overlays/dev")
    }

    /// The overlay with another setting of reservation's.
    fn with_deadline(&self, value: &str) -> anyhow::Result<PathBuf> {
        let literal = format!("RESERVATION_DEADLINE_SECS={value}");
        let generator = format!("[{{ name: reservation, behavior: merge, literals: [{literal}] }}]");
        self.onto_overlay(&format!("configMapGenerator: {generator}"))
    }

    /// The overlay, and more.
    fn onto_overlay(&self, more: &str) -> anyhow::Result<PathBuf> {
        let text = format!("resources: [{}]\n{more}\n", self.seen(&self.overlay())?.display());
        std::fs::write(self.folder.path().join("kustomization.yaml"), text)?;
        Ok(self.folder.path().to_owned())
    }

    /// Seen from where kustomizations are made: they take no absolute paths.
    fn seen(&self, manifests: &Path) -> anyhow::Result<PathBuf> {
        let to = manifests.canonicalize().with_context(|| manifests.display().to_string())?;
        Ok(relative(&to, &self.folder.path().canonicalize()?))
    }

    async fn apply(&self, kustomization: &Path) -> anyhow::Result<()> {
        let folder = kustomization.to_str().context("a folder whose name isn't text")?;
        self.kubectl.run(&["apply", "--kustomize", folder], None).await?;
        Ok(())
    }

    /// Waits until all pods of a service are of its last version, and ready.
    async fn rolled(&self, service: &str) -> anyhow::Result<()> {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl.run(&["rollout", "status", "deployment", service, &limit], None).await?;
        Ok(())
    }
}

fn relative(to: &Path, from: &Path) -> PathBuf {
    from.components().skip(1).map(|_| Path::new("..")).chain([to.strip_prefix("/").unwrap_or(to)]).collect()
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_found_from_another() {
        assert_eq!(relative(Path::new("/a/b"), Path::new("/c/d/e")), Path::new("../../../a/b"));
    }
}
