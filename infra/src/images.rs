//! Builds the programs' images: each program is compiled by itself, put into an image, and started there once.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::options::{ImageOptions, Program};
use crate::service::Service;
use crate::supervise::TempDir;
use crate::terminal;

const DOCKERFILE: &str = include_str!("../images/Dockerfile");
/// Variables that a build may need to download Debian's packages.
const PROXIES: [&str; 3] = ["http_proxy", "https_proxy", "no_proxy"];
/// The revision of programs that were built elsewhere.
const UNKNOWN: &str = "unknown";

const fn package(program: Program) -> &'static str {
    match program {
        Program::Service(service) => service.name(),
        Program::Launcher => "theater-infra",
    }
}

/// Features besides the package's own. The gateway doesn't use Kafka.
const fn features(program: Program, options: &ImageOptions) -> &'static str {
    let uses_kafka = !matches!(program, Program::Service(Service::Gateway));
    if options.kafka_tls && uses_kafka { "service-kit/ssl" } else { "" }
}

/// Builds images, and prints the name and size of each.
///
/// # Errors
/// If cargo or Docker fails, or a program does not start in its image.
pub async fn build(options: &ImageOptions) -> anyhow::Result<()> {
    let temp_dir = TempDir::new(&env::temp_dir(), "theater-images")?;
    let revision = if options.binaries.is_none() { revision().await } else { UNKNOWN.to_owned() };
    for program in options.programs() {
        let binary = match &options.binaries {
            Some(folder) => folder.join(program.name()),
            None => compile(program, options).await?,
        };
        let folder = temp_dir.path().join(program.name());
        prepare_context(program, &binary, &folder).await?;
        let image = format!("{}/{}:{}", options.repository, program.name(), options.tag);
        let arguments = [
            ("SERVICE", program.name()),
            ("VERSION", options.tag.as_str()),
            ("REVISION", revision.as_str()),
            ("FEATURES", features(program, options)),
        ];
        build_image(&image, &folder, arguments).await?;
        check_start(program, &image).await?;
        let size: u64 = output(docker(["image", "inspect", "-f", "{{.Size}}", &image])).await?.parse()?;
        terminal::print_line(&format!("{image}  {} MB", size / 1_000_000));
    }
    Ok(())
}

/// One program at a time: programs that are compiled together share the features of their dependencies, and the gateway
/// would contain a database driver.
async fn compile(program: Program, options: &ImageOptions) -> anyhow::Result<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--locked",
        "--message-format=json-render-diagnostics",
        "--profile",
        &options.profile,
    ]);
    cargo.args(["-p", package(program), "--bin", program.name(), "--features", features(program, options)]);
    let messages = output(cargo).await?;
    executable(&messages, program.name())
        .with_context(|| format!("cargo did not say where {} is", program.name()))
}

/// The path of the program, from cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        target: Target,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    // Messages of other kinds have other fields.
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    messages.filter(|message| message.target.name == name).find_map(|message| message.executable)
}

/// The build context: the Dockerfile and the program, executable by any user and stripped of symbols. A panic still
/// names its file and line.
async fn prepare_context(program: Program, binary: &Path, folder: &Path) -> anyhow::Result<()> {
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
    // The host's network: the proxy for Debian's packages may listen on loopback.
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

/// Checks that the program starts: it may be linked against libraries that the image lacks.
async fn check_start(program: Program, image: &str) -> anyhow::Result<()> {
    let run =
        docker(["run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", image, "--version"]);
    let answer =
        output(run).await.with_context(|| format!("{} does not start in its image", program.name()))?;
    ensure!(answer.starts_with(program.name()), "{image} is not {}, but {answer}", program.name());
    Ok(())
}

/// The commit, marked if the working tree has changes. Without a repository git prints its error, and the build goes on.
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

/// The standard output of a command. Its standard error is shown.
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
    fn the_executable_is_taken_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"movie","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","target":{"name":"movie","kind":["bin"]},"executable":"/target/release/movie"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "movie").unwrap(), Path::new("/target/release/movie"));
        assert_eq!(executable(messages, "serde"), None);
    }
}
