//! Runs kubectl, the same client that operators use.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a command may take. Commands that wait have a shorter timeout of their own.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The program and its first arguments.
    command: Vec<String>,
    namespace: String,
}

/// The result of a command.
#[derive(Clone, Debug)]
pub struct Output {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Kubectl {
    /// `command` may have arguments of its own.
    ///
    /// # Errors
    /// If it is empty.
    pub fn new(command: &str, namespace: &str) -> anyhow::Result<Self> {
        let command: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
        ensure!(!command.is_empty(), "the command that stands for kubectl is empty");
        Ok(Self { command, namespace: namespace.to_owned() })
    }

    fn build_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(["--namespace", &self.namespace]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Starts a command, whose output can be read while it runs.
    ///
    /// # Errors
    /// If the program doesn't exist.
    pub fn spawn(&self, args: &[&str]) -> anyhow::Result<Child> {
        self.build_command(args).spawn().with_context(|| self.command.join(" "))
    }

    /// Runs a command to its end, whether it succeeds or fails.
    ///
    /// # Errors
    /// If the program doesn't exist, or the command doesn't end.
    pub async fn output(&self, args: &[&str], input: Option<&str>) -> anyhow::Result<Output> {
        let mut command = self.build_command(args);
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().with_context(|| self.command.join(" "))?;
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(text.as_bytes()).await?;
        }
        let output = timeout(COMMAND_TIMEOUT, child.wait_with_output())
            .await
            .with_context(|| format!("kubectl {} doesn't end", args.join(" ")))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Ok(Output { success: output.status.success(), stdout, stderr })
    }

    /// As [`output`](Self::output), for a command that must succeed. Returns its output.
    ///
    /// # Errors
    /// If it fails, with its output.
    pub async fn run(&self, args: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let output = self.output(args, input).await?;
        ensure!(output.success, "kubectl {}: {}{}", args.join(" "), output.stdout, output.stderr);
        Ok(output.stdout)
    }

    /// Reads an object or a list of objects.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn get(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.run(&[&["get", "--output=json"], args].concat(), None).await?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// The pods of a service that are not terminating.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn pods(&self, service: &str) -> anyhow::Result<Vec<Value>> {
        let label = format!("--selector=app.kubernetes.io/name={service}");
        let list = self.get(&["pods", &label]).await?;
        let pods = list["items"].as_array().context("items")?;
        Ok(pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect())
    }
}

/// An object's name.
pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Whether a pod is ready for calls.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// The hash of the pod template from which a pod was created.
pub fn template_hash(pod: &Value) -> String {
    pod["metadata"]["labels"]["pod-template-hash"].as_str().unwrap_or_default().to_owned()
}
