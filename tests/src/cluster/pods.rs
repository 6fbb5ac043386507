//! Programs that run inside the cluster, each in a pod.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use super::QUERY_PERIOD;
use super::kubectl::Kubectl;
use crate::eventually_at;

/// How long a pod may take to start, with its image on the node.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long it may take until the cluster reports that a process has ended.
const STATUS_TIMEOUT: Duration = Duration::from_secs(30);

/// A pod that runs a program, or has run it.
#[derive(Debug)]
pub struct Pod<'a> {
    kubectl: &'a Kubectl,
    name: String,
}

impl<'a> Pod<'a> {
    /// Starts a pod. Deletes an older one of that name.
    ///
    /// # Errors
    /// If the cluster refuses it.
    pub async fn start(kubectl: &'a Kubectl, name: &str, image: &str, args: &[&str]) -> anyhow::Result<Self> {
        let pod = Self { kubectl, name: name.to_owned() };
        pod.delete().await?;
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": name}},
            "spec": {
                "restartPolicy": "Never",
                // In case this program is killed.
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

    /// Waits until it runs or has ended.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn wait_until_started(&self) -> anyhow::Result<()> {
        eventually_at(QUERY_PERIOD, &format!("{} runs", self.name), START_TIMEOUT, async || {
            let pod = self.kubectl.get(&["pod", &self.name]).await?;
            let phase = &pod["status"]["phase"];
            ensure!(phase != "Pending", "{phase}");
            Ok(())
        })
        .await
    }

    /// Sends it SIGTERM, as the kubelet does.
    ///
    /// # Errors
    /// If it doesn't run.
    pub async fn terminate(&self) -> anyhow::Result<()> {
        self.kubectl.run(&["exec", &self.name, "--", "sh", "-c", "kill -TERM 1"], None).await?;
        Ok(())
    }

    /// Waits until it has succeeded, and returns its log.
    ///
    /// # Errors
    /// If it fails, with its log; if it doesn't end.
    pub async fn wait_until_succeeded(&self) -> anyhow::Result<String> {
        self.wait_until_started().await?;
        let log = self.kubectl.run(&["logs", "--follow", &self.name], None).await?;
        let (pod, limit) = (format!("pod/{}", self.name), format!("--timeout={}s", STATUS_TIMEOUT.as_secs()));
        let ended =
            self.kubectl.run(&["wait", &pod, "--for=jsonpath={.status.phase}=Succeeded", &limit], None).await;
        ended.with_context(|| format!("{} failed:\n{log}", self.name))?;
        Ok(log)
    }

    /// Its log so far.
    ///
    /// # Errors
    /// If kubectl fails.
    pub async fn log(&self) -> anyhow::Result<String> {
        self.kubectl.run(&["logs", &self.name], None).await
    }

    /// # Errors
    /// If kubectl fails.
    pub async fn delete(&self) -> anyhow::Result<()> {
        let args = ["delete", "pod", &self.name, "--ignore-not-found", "--grace-period=5", "--wait=true"];
        self.kubectl.run(&args, None).await?;
        Ok(())
    }
}
