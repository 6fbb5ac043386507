//! The theater's deployment: its namespace, its manifests, its pods and the nodes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::kubectl::{Kubectl, name_of, template_hash};
use super::timeline::Timeline;
use super::{NAMESPACE, OWNER_LABEL, Options};

/// How long a roll-out, or the end of a load, may take. A machine that runs a whole cluster beside other work is slow.
pub(super) const ROLLOUT_TIMEOUT: Duration = Duration::from_secs(300);

/// The names of the pods that scenarios start.
pub(super) const DEMO: &str = "demo";
pub(super) const LOAD: &str = "load";
pub(super) const EXPORTS: &str = "exports";

pub(super) struct Deployment<'a> {
    pub(super) options: &'a Options,
    pub(super) kubectl: Kubectl,
    pub(super) timeline: Timeline,
    /// The nodes that were schedulable at the start.
    nodes: Vec<String>,
    /// The folder of generated kustomizations.
    folder: tempfile::TempDir,
}

impl<'a> Deployment<'a> {
    /// # Errors
    /// If the cluster has no metrics for autoscalers, or the namespace is not this program's.
    pub(super) async fn open(options: &'a Options, kubectl: Kubectl) -> anyhow::Result<Self> {
        let metrics = kubectl.run(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1"], None).await;
        metrics.context("autoscalers need metrics-server")?;
        let nodes = kubectl.get(&["nodes"]).await?;
        let nodes = nodes["items"].as_array().context("items")?;
        let nodes =
            nodes.iter().filter(|node| node["spec"]["unschedulable"] != json!(true)).map(name_of).collect();
        let deployment =
            Self { options, kubectl, timeline: Timeline::new(), nodes, folder: tempfile::tempdir()? };
        deployment.claim_namespace().await?;
        Ok(deployment)
    }

    /// Creates the namespace. An existing one is used only if this program has created it, as it is deleted at the end.
    async fn claim_namespace(&self) -> anyhow::Result<()> {
        let (label, owner) = OWNER_LABEL;
        let found =
            self.kubectl.run(&["get", "namespace", NAMESPACE, "--ignore-not-found", "--output=json"], None);
        let found = found.await?;
        if found.trim().is_empty() {
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {label: owner}},
            });
            self.kubectl.run(&["create", "--filename=-"], Some(&namespace.to_string())).await?;
            return Ok(());
        }
        let found: Value = serde_json::from_str(&found)?;
        let made_by = &found["metadata"]["labels"][label];
        ensure!(made_by == owner, "there is a namespace {NAMESPACE} that was not made by this program");
        Ok(())
    }

    /// Makes the nodes schedulable again, and deletes the pods that scenarios have started, whatever their result.
    pub(super) async fn clean_up(&self) -> anyhow::Result<()> {
        self.uncordon().await?;
        let pods = ["delete", "pod", DEMO, LOAD, EXPORTS, "--ignore-not-found", "--grace-period=5"];
        self.kubectl.run(&pods, None).await?;
        Ok(())
    }

    pub(super) async fn delete_namespace(&self) -> anyhow::Result<()> {
        self.kubectl
            .run(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s"], None)
            .await?;
        Ok(())
    }

    pub(super) async fn uncordon(&self) -> anyhow::Result<()> {
        self.kubectl.run(&[&["uncordon"], &self.nodes()[..]].concat(), None).await?;
        Ok(())
    }

    pub(super) fn nodes(&self) -> Vec<&str> {
        self.nodes.iter().map(String::as_str).collect()
    }

    /// The template hash of a service's pods, which must all have the same.
    pub(super) async fn current_template(&self, service: &str) -> anyhow::Result<String> {
        let hashes: BTreeSet<_> = self.kubectl.pods(service).await?.iter().map(template_hash).collect();
        ensure!(hashes.len() == 1, "{service}: {hashes:?}");
        hashes.into_iter().next().context("no pod")
    }

    pub(super) fn overlay(&self) -> PathBuf {
        self.options.manifests.join("overlays/dev")
    }

    /// The overlay with another reservation deadline.
    pub(super) fn overlay_with_deadline(&self, value: &str) -> anyhow::Result<PathBuf> {
        let literal = format!("RESERVATION_DEADLINE_SECS={value}");
        let generator = format!("[{{ name: reservation, behavior: merge, literals: [{literal}] }}]");
        self.extend_overlay(&format!("configMapGenerator: {generator}"))
    }

    /// A kustomization of the overlay and `more`.
    pub(super) fn extend_overlay(&self, more: &str) -> anyhow::Result<PathBuf> {
        let text = format!("resources: [{}]\n{more}\n", self.relative_path(&self.overlay())?.display());
        std::fs::write(self.folder.path().join("kustomization.yaml"), text)?;
        Ok(self.folder.path().to_owned())
    }

    /// The path from the folder of generated kustomizations, as kustomizations refuse absolute paths.
    pub(super) fn relative_path(&self, manifests: &Path) -> anyhow::Result<PathBuf> {
        let to = manifests.canonicalize().with_context(|| manifests.display().to_string())?;
        Ok(relative(&to, &self.folder.path().canonicalize()?))
    }

    pub(super) async fn apply(&self, kustomization: &Path) -> anyhow::Result<()> {
        let folder = kustomization.to_str().context("a folder whose name isn't text")?;
        self.kubectl.run(&["apply", "--kustomize", folder], None).await?;
        Ok(())
    }

    /// Waits until all pods of a service have the current template and are ready.
    pub(super) async fn wait_until_rolled_out(&self, service: &str) -> anyhow::Result<()> {
        let timeout = format!("--timeout={}s", ROLLOUT_TIMEOUT.as_secs());
        self.kubectl.run(&["rollout", "status", "deployment", service, &timeout], None).await?;
        Ok(())
    }
}

fn relative(to: &Path, from: &Path) -> PathBuf {
    from.components().skip(1).map(|_| Path::new("..")).chain([to.strip_prefix("/").unwrap_or(to)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_between_folders() {
        assert_eq!(relative(Path::new("/a/b"), Path::new("/c/d/e")), Path::new("../../../a/b"));
    }
}
