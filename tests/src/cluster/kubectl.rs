//! A cluster by kubectl: what an operator types.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long one command may take; those that wait are told a shorter time themselves.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
pub struct Kubectl {
    words: Vec<String>,
    namespace: String,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Kubectl {
    /// `command` may have arguments of its own.
    ///
    /// # Errors
    /// No command.
    pub fn new(command: &str, namespace: &str) -> anyhow::Result<Self> {
        let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
        ensure!(!words.is_empty(), "the command that stands for kubectl is empty");
        Ok(Self { words, namespace: namespace.to_owned() })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(["--namespace", &self.namespace]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Begins one that is looked at while it runs.
    ///
    /// # Errors
    /// A command that isn't there.
    pub fn begin(&self, args: &[&str]) -> anyhow::Result<Child> {
        self.command(args).spawn().with_context(|| self.words.join(" "))
    }

    /// Runs one to its end.
    ///
    /// # Errors
    /// A command that isn't there, or doesn't end.
    pub async fn ask(&self, args: &[&str], input: Option<&str>) -> anyhow::Result<Said> {
        let mut command = self.command(args);
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().with_context(|| self.words.join(" "))?;
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(text.as_bytes()).await?;
        }
        let output = timeout(LIMIT, child.wait_with_output())
            .await
            .with_context(|| format!("kubectl {} doesn't end", args.join(" ")))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// As [`ask`](Self::ask), for what has to succeed.
    ///
    /// # Errors
    /// What kubectl complains of.
    pub async fn run(&self, args: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let said = self.ask(args, input).await?;
        ensure!(said.ok, "kubectl {}: {}{}", args.join(" "), said.out, said.err);
        Ok(said.out)
    }

    /// An object, or a list of them.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn get(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.run(&[&["get", "--output=json"], args].concat(), None).await?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// The pods of a service that aren't on their way out.
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
pub fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Whether a pod takes calls.
pub fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// Which version of its Deployment a pod is of.
pub fn version(pod: &Value) -> String {
    pod["metadata"]["labels"]["pod-template-hash"].as_str().unwrap_or_default().to_owned()
}
