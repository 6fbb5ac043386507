//! The images of the programs: each is built by itself, put into an image of its own, and seen to start there.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::options::{Images, Program};
use crate::show;
use crate::supervise::Scratch;

const DOCKERFILE: &str = include_str!("../images/Dockerfile");
/// What a build may have to know of the way to Debian's packages.
const PROXIES: [&str; 3] = ["http_proxy", "https_proxy", "no_proxy"];
/// The revision of what comes from elsewhere.
const UNKNOWN: &str = "unknown";

impl Program {
    const fn package(self) -> &'static str {
        match self {
            Self::Theater => "theater-infra",
            program => program.name(),
        }
    }

    /// Beside its own; the gateway has no business with Kafka.
    const fn features(self, images: &Images) -> &'static str {
        if images.kafka_tls && !matches!(self, Self::Gateway) { "service-kit/ssl" } else { "" }
    }
}

/// Builds the images that are wanted, showing each one's name and size.
///
/// # Errors
/// If cargo or Docker fails, or a program does not start in its image.
pub async fn build(images: &Images) -> anyhow::Result<()> {
    let scratch = Scratch::new(&env::temp_dir(), "theater-images")?;
    let revision = if images.binaries.is_none() { revision().await } else { UNKNOWN.to_owned() };
    for program in images.programs() {
        let binary = match &images.binaries {
            Some(folder) => folder.join(program.name()),
            None => compile(program, images).await?,
        };
        let folder = scratch.path().join(program.name());
        lay_out(program, &binary, &folder).await?;
        let image = format!("{}/{}:{}", images.repository, program.name(), images.tag);
        let arguments = [
            ("SERVICE", program.name()),
            ("VERSION", images.tag.as_str()),
            ("REVISION", revision.as_str()),
            ("FEATURES", program.features(images)),
        ];
        build_image(&image, &folder, arguments).await?;
        start(program, &image).await?;
        let size: u64 = output(docker(["image", "inspect", "-f", "{{.Size}}", &image])).await?.parse()?;
        show::line(&format!("{image}  {} MB", size / 1_000_000));
    }
    Ok(())
}

/// By itself: what is built together shares the features of what it depends on, and the gateway would get a driver for
/// a database.
async fn compile(program: Program, images: &Images) -> anyhow::Result<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--locked",
        "--message-format=json-render-diagnostics",
        "--profile",
        &images.profile,
    ]);
    cargo.args(["-p", program.package(), "--bin", program.name(), "--features", program.features(images)]);
    let messages = output(cargo).await?;
    built(&messages, program.name()).with_context(|| format!("cargo did not say where {} is", program.name()))
}

/// Where the program is, by what cargo says of each thing it made.
fn built(messages: &str, name: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        target: Target,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    // Other messages have other fields.
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    messages.filter(|message| message.target.name == name).find_map(|message| message.executable)
}

/// What Docker is given: the recipe and the program, which anybody may execute, without the names of its functions: a
/// panic still tells file and line.
async fn lay_out(program: Program, binary: &Path, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder)?;
    fs::write(folder.join("Dockerfile"), DOCKERFILE)?;
    let copy = folder.join(program.name());
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&copy).arg(binary);
    output(strip).await?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    Ok(())
}

async fn build_image(image: &str, folder: &Path, arguments: [(&str, &str); 4]) -> anyhow::Result<()> {
    // The host's network: the way to Debian's packages may be a proxy on loopback.
    let mut docker = docker(["build", "--quiet", "--network", "host", "--tag", image]);
    for (name, value) in arguments {
        docker.arg("--build-arg").arg(format!("{name}={value}"));
    }
    for proxy in PROXIES.into_iter().filter(|proxy| env::var_os(proxy).is_some()) {
        docker.args(["--build-arg", proxy]);
    }
    docker.arg(folder);
    output(docker).await?;
    Ok(())
}

/// Whether it starts in there: it may have been linked against what the image does not have.
async fn start(program: Program, image: &str) -> anyhow::Result<()> {
    let run =
        docker(["run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", image, "--version"]);
    let answer =
        output(run).await.with_context(|| format!("{} does not start in its image", program.name()))?;
    ensure!(answer.starts_with(program.name()), "{image} is not {}, but {answer}", program.name());
    Ok(())
}

/// The commit, and whether more than that was built. Where there is no repository git says so, and that is all.
async fn revision() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]);
    output(git).await.unwrap_or_else(|_| UNKNOWN.to_owned())
}

fn docker<const N: usize>(arguments: [&str; N]) -> Command {
    let mut docker = Command::new("docker");
    docker.args(arguments);
    docker
}

/// What a command says; what it complains of is shown.
async fn output(mut command: Command) -> anyhow::Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().with_context(|| format!("`{name}` can't be run"))?;
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("`{name}` failed ({})", output.status);
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tells_where_a_program_is() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"movie","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","target":{"name":"movie","kind":["bin"]},"executable":"/target/release/movie"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(built(messages, "movie").unwrap(), Path::new("/target/release/movie"));
        assert_eq!(built(messages, "serde"), None);
    }
}
