//! Programs that run inside the cluster, as pods of their own.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use super::PERIOD;
use super::kubectl::Kubectl;
use crate::eventually_at;

/// How long an image that is there may take to be a running process.
const START: Duration = Duration::from_secs(120);

/// How long it may take until the cluster knows that a process has ended.
const ENDING: Duration = Duration::from_secs(30);

/// A program that runs, or has ended.
#[derive(Debug)]
pub struct Pod<'a> {
    kubectl: &'a Kubectl,
    name: String,
}

impl<'a> Pod<'a> {
    /// Starts one, in place of one of that name.
    ///
    /// # Errors
    /// What the cluster refuses.
    pub async fn start(kubectl: &'a Kubectl, name: &str, image: &str, args: &[&str]) -> anyhow::Result<Self> {
        let pod = Self { kubectl, name: name.to_owned() };
        pod.remove().await?;
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": name}},
            "spec": {
                "restartPolicy": "Never",
                // Should nobody be left to end it.
                "activeDeadlineSeconds": 3600,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": name,
                    "image": image,
                    "args": args,
                    "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        });
        kubectl.run(&["apply", "--filename=-"], Some(&manifest.to_string())).await?;
        Ok(pod)
    }

    /// Waits until it runs, or has ended already.
    ///
    /// # Errors
    /// One that doesn't start.
    pub async fn started(&self) -> anyhow::Result<()> {
        eventually_at(PERIOD, &format!("{} runs", self.name), START, async || {
            let pod = self.kubectl.get(&["pod", &self.name]).await?;
            let phase = &pod["status"]["phase"];
            ensure!(phase != "Pending", "{phase}");
            Ok(())
        })
        .await
    }

    /// Asks it to end, as the kubelet would.
    ///
    /// # Errors
    /// One that doesn't run.
    pub async fn end(&self) -> anyhow::Result<()> {
        self.kubectl.run(&["exec", &self.name, "--", "sh", "-c", "kill -TERM 1"], None).await?;
        Ok(())
    }

    /// What it said, once it has ended well.
    ///
    /// # Errors
    /// One that fails, with what it said; one that doesn't end.
    pub async fn succeeded(&self) -> anyhow::Result<String> {
        self.started().await?;
        let said = self.kubectl.run(&["logs", "--follow", &self.name], None).await?;
        let (pod, limit) = (format!("pod/{}", self.name), format!("--timeout={}s", ENDING.as_secs()));
        let ended =
            self.kubectl.run(&["wait", &pod, "--for=jsonpath={.status.phase}=Succeeded", &limit], None).await;
        ended.with_context(|| format!("{} failed:\n{said}", self.name))?;
        Ok(said)
    }

    /// What it has said so far.
    ///
    /// # Errors
    /// kubectl's.
    pub async fn said(&self) -> anyhow::Result<String> {
        self.kubectl.run(&["logs", &self.name], None).await
    }

    /// # Errors
    /// kubectl's.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let args = ["delete", "pod", &self.name, "--ignore-not-found", "--grace-period=5", "--wait=true"];
        self.kubectl.run(&args, None).await?;
        Ok(())
    }
}
