//! What is done to a theater on a cluster, and what has to hold meanwhile and then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::kubectl::{Kubectl, name, ready};
use super::pods::Pod;
use super::watch::Timeline;
use super::{NAMESPACE, Options, PERIOD, SERVICES, Scene};
use crate::eventually_at;

/// What a roll-out, or the end of a load, may take. Machines that run a whole cluster beside other work are slow.
const PATIENCE: Duration = Duration::from_secs(300);

/// A cluster's own defaults wait five minutes before they take pods away.
const SCALE_DOWN: Duration = Duration::from_secs(480);

/// The load that an autoscaler answers to, and one that leaves room for more pods on a small machine; a second.
const HEAVY: [&str; 4] = ["--reservations", "100", "--looks", "400"];
const LIGHT: [&str; 4] = ["--reservations", "20", "--looks", "40"];

pub(super) struct Stage<'a> {
    options: &'a Options,
    kubectl: Kubectl,
    timeline: Timeline,
    /// Kustomizations that are made here.
    folder: tempfile::TempDir,
}

impl<'a> Stage<'a> {
    pub(super) fn new(options: &'a Options, kubectl: Kubectl) -> anyhow::Result<Self> {
        Ok(Self { options, kubectl, timeline: Timeline::new(), folder: tempfile::tempdir()? })
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

    pub(super) async fn clear(&self) -> anyhow::Result<()> {
        self.kubectl
            .run(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s"], None)
            .await?;
        Ok(())
    }

    async fn deploy(&self) -> anyhow::Result<()> {
        self.apply(&self.overlay()).await?;
        self.rolled_out().await?;
        self.timeline.line("the five services are available");
        let args = ["demo", "--gateway", "http://gateway:8088", "--kafka", "kafka:9092"];
        let demo = Pod::start(&self.kubectl, "demo", &self.options.demo_image, &args).await?;
        let said = demo.succeeded().await?;
        self.timeline.line(&format!("the demo, in a pod: {}", last_line(&said)));
        demo.remove().await?;
        for (topic, event) in [("movies", "MoviePublished"), ("reservations", "ReservationConfirmed")] {
            let said = self.consume(topic).await?;
            ensure!(said.contains(event), "no {event} in theater.{topic}:\n{said}");
            self.timeline.line(&format!("the console consumer, in a pod, reads theater.{topic}"));
        }
        Ok(())
    }

    /// By Kafka's own tool, in Kafka's pod.
    async fn consume(&self, topic: &str) -> anyhow::Result<String> {
        let topic = format!("theater.{topic}");
        let tool = "/opt/kafka/bin/kafka-console-consumer.sh";
        // The demo leaves as many in either topic.
        let what = ["--topic", &topic, "--from-beginning", "--max-messages", "5", "--timeout-ms", "60000"];
        let args =
            [&["exec", "kafka-0", "--", tool, "--bootstrap-server", "localhost:9092"], &what[..]].concat();
        Ok(self.kubectl.ask(&args, None).await?.out)
    }

    async fn scale(&self) -> anyhow::Result<()> {
        self.has_pods("movie", 1, SCALE_DOWN).await?;
        let scaling = async {
            self.under_load(&HEAVY, async || self.has_pods("movie", 3, PATIENCE).await).await?;
            self.has_pods("movie", 1, SCALE_DOWN).await
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
            self.drain("gateway").await?;
            self.drain("reservation").await
        })
        .await
    }

    /// With no other node to go to only one pod may go; the next one may when there is one instead.
    async fn drain(&self, service: &str) -> anyhow::Result<()> {
        let nodes = self.kubectl.get(&["nodes"]).await?;
        let nodes: Vec<String> = nodes["items"].as_array().context("items")?.iter().map(name).collect();
        let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
        self.kubectl.run(&[&["cordon"], &nodes[..]].concat(), None).await?;
        let drained = self.drained(service, &nodes).await;
        self.kubectl.run(&[&["uncordon"], &nodes[..]].concat(), None).await?;
        drained?;
        self.rolled(service).await
    }

    async fn drained(&self, service: &str, nodes: &[&str]) -> anyhow::Result<()> {
        let selector = format!("--pod-selector=app.kubernetes.io/name={service}");
        let mut drain = self.kubectl.begin(&[&["drain", "--timeout=300s", &selector], nodes].concat())?;
        let mut lines = BufReader::new(drain.stderr.take().context("stderr")?).lines();
        let held_back = loop {
            let line = lines.next_line().await?;
            let line = line.with_context(|| format!("nothing held back the drain of {service}"))?;
            if line.contains("disruption budget") {
                break line;
            }
        };
        self.timeline.line(&format!("draining, {service}: {}", held_back.trim()));
        let left = self.kubectl.pods(service).await?;
        ensure!(left.iter().any(ready), "no pod of {service} is left");
        self.kubectl.run(&[&["uncordon"], nodes].concat(), None).await?;
        while lines.next_line().await?.is_some() {}
        let status = drain.wait().await?;
        ensure!(status.success(), "the drain ended with {status}");
        self.timeline.line(&format!("{service} is drained"));
        Ok(())
    }

    async fn configure(&self) -> anyhow::Result<()> {
        self.under_load(&LIGHT, async || {
            let (before, others) = (self.names("reservation").await?, self.names("gateway").await?);
            self.apply(&self.with_deadline("29")?).await?;
            self.rolled("reservation").await?;
            let changed = self.names("reservation").await?;
            ensure!(changed.is_disjoint(&before), "{before:?} were to go: {changed:?}");
            ensure!(self.names("gateway").await? == others, "a setting of reservation's rolled the gateway");
            self.timeline.line("a changed setting rolled the pods that read it");

            self.apply(&self.with_deadline("soon")?).await?;
            let said = self.refused("reservation", &changed).await?;
            self.timeline.line(&format!("a wrong setting: {}", said.lines().next().unwrap_or_default()));
            let pods = self.kubectl.pods("reservation").await?;
            let serving: BTreeSet<_> = pods.iter().filter(|pod| ready(pod)).map(name).collect();
            ensure!(changed.is_subset(&serving), "{changed:?} were to go on serving: {serving:?}");
            self.timeline.line("no pod with it became ready, and the old ones go on serving");

            self.apply(&self.overlay()).await?;
            self.rolled("reservation").await
        })
        .await
    }

    /// What a pod says that isn't one of `others`, and was started in vain more than once.
    async fn refused(&self, service: &str, others: &BTreeSet<String>) -> anyhow::Result<String> {
        let pod = eventually_at(PERIOD, "a pod fails", PATIENCE, async || {
            let pods = self.kubectl.pods(service).await?;
            let pod = pods.into_iter().find(|pod| !others.contains(&name(pod)));
            let pod = pod.context("no pod but the old ones")?;
            let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
            ensure!(restarts.as_u64() >= Some(1), "restarts: {restarts}");
            Ok(pod)
        })
        .await?;
        ensure!(!ready(&pod), "a pod with a wrong setting is ready");
        let said = self.kubectl.run(&["logs", "--previous", &name(&pod)], None).await?;
        ensure!(said.contains("RESERVATION_DEADLINE_SECS"), "it doesn't say why: {said}");
        Ok(said)
    }

    async fn export(&self) -> anyhow::Result<()> {
        let component = self.onto(&self.options.manifests.join("components/exports"))?;
        self.apply(&self.onto_overlay(&format!("components: [{}]", component.display()))?).await?;
        self.rolled("reservation-list").await?;
        let gateway = self.kubectl.inside("services/gateway:8088");
        let movie = gateway.post("/movies", &json!({"movieName": "LALALand", "qty": 10})).await?;
        let order = json!({"userId": "7", "userName": "Jane", "movieId": movie["id"], "count": 2});
        let reservation = gateway.post("/reservations", &order).await?;
        let reservation = reservation["id"].as_str().context("id")?;
        self.until("the reservation is listed", async || {
            let listed = gateway.get("/reservationLists?userId=7&limit=200").await?;
            ensure!(listed.contains(reservation), "{listed}");
            Ok(())
        })
        .await?;
        let export = gateway.post("/reservationLists/exports", &json!({"movieId": movie["id"]})).await?;
        let path = format!("/reservationLists/exports/{}", export["id"].as_str().context("id")?);
        self.until("the export is ready", async || {
            let export = gateway.get(&path).await?;
            ensure!(export.contains("READY"), "{export}");
            Ok(())
        })
        .await?;
        let pods = self.kubectl.pods("reservation-list").await?;
        ensure!(pods.len() > 1, "one pod only");
        for pod in pods.iter().map(name) {
            let file = self.kubectl.inside(&format!("pods/{pod}:8085")).get(&format!("{path}/file")).await?;
            ensure!(file.contains(reservation), "{pod} shows:\n{file}");
            self.timeline.line(&format!("{pod} shows the export: {} lines", file.lines().count()));
        }
        Ok(())
    }

    async fn until(&self, what: &str, check: impl AsyncFnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
        eventually_at(PERIOD, what, PATIENCE, check).await
    }

    /// Does something while customers and a vendor are there; not a call of theirs may fail.
    async fn under_load(
        &self,
        rates: &[&str],
        what: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let args = [&["load", "--gateway", "http://gateway:8088"], rates].concat();
        let load = Pod::start(&self.kubectl, "load", &self.options.load_image, &args).await?;
        load.started().await?;
        self.timeline.line(&format!("load: {}", rates.join(" ")));
        let done = what().await;
        load.end().await?;
        let said = load.succeeded().await;
        // What failed first is told first.
        done.with_context(|| format!("under load: {said:?}"))?;
        for line in said?.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev() {
            self.timeline.line(&format!("load: {line}"));
        }
        load.remove().await
    }

    async fn names(&self, service: &str) -> anyhow::Result<BTreeSet<String>> {
        Ok(self.kubectl.pods(service).await?.iter().map(name).collect())
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
        let text = format!("resources: [{}]\n{more}\n", self.onto(&self.overlay())?.display());
        std::fs::write(self.folder.path().join("kustomization.yaml"), text)?;
        Ok(self.folder.path().to_owned())
    }

    /// Seen from where kustomizations are made.
    fn onto(&self, manifests: &Path) -> anyhow::Result<PathBuf> {
        Ok(relative(&manifests.canonicalize()?, &self.folder.path().canonicalize()?))
    }

    async fn apply(&self, kustomization: &Path) -> anyhow::Result<()> {
        let folder = kustomization.to_str().context("a folder whose name isn't text")?;
        self.kubectl.run(&["apply", "--kustomize", folder], None).await?;
        Ok(())
    }

    async fn rolled_out(&self) -> anyhow::Result<()> {
        for service in SERVICES {
            self.rolled(service).await?;
        }
        Ok(())
    }

    /// Waits until all pods of a service are of its last version, and ready.
    async fn rolled(&self, service: &str) -> anyhow::Result<()> {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl.run(&["rollout", "status", "deployment", service, &limit], None).await?;
        Ok(())
    }
}

/// Kustomize takes no absolute paths.
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
