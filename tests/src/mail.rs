//! A mail server in a process of its own ([`server`]), and the e-mails that it has received.

pub mod server;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use mail_parser::{MessageParser, MimeHeaders};
use theater_infra::port;
use theater_infra::supervise::{Child, Program, TempDir};
use tokio::net::TcpStream;

use crate::eventually;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A server with this prefix refuses no recipient.
pub const REFUSE_NONE: &str = "";

/// The password of all users.
pub const PASSWORD: &str = "s cret";

/// The user of an e-mail that was sent without a login.
pub const ANONYMOUS: &str = "-";

pub struct MailServer {
    binary: &'static str,
    open_port: u16,
    login_port: u16,
    child: Option<Child>,
    /// Each start has a folder of its own.
    folder: PathBuf,
    starts: usize,
    scratch: TempDir,
}

impl MailServer {
    /// A server that has ports but does not run yet. `binary` is `env!("CARGO_BIN_EXE_theater-tests")`.
    ///
    /// # Errors
    /// If there is no free port, or the folder can't be created.
    pub fn new(binary: &'static str) -> anyhow::Result<Self> {
        let scratch = TempDir::new(&std::env::temp_dir(), "theater-mail")?;
        let folder = scratch.path().to_owned();
        let (open_port, login_port) = (port::free()?, port::free()?);
        Ok(Self { binary, open_port, login_port, child: None, folder, starts: 0, scratch })
    }

    /// Starts a server that accepts every e-mail.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn start(binary: &'static str) -> anyhow::Result<Self> {
        let mut server = Self::new(binary)?;
        server.listen(REFUSE_NONE).await?;
        Ok(server)
    }

    /// Starts it with no e-mails. It answers 550 to recipients that begin with `refused_prefix`.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn listen(&mut self, refused_prefix: &str) -> anyhow::Result<()> {
        self.starts += 1;
        self.folder = self.scratch.path().join(self.starts.to_string());
        fs::create_dir(&self.folder)?;
        let mut command = Command::new(self.binary);
        let ports = [self.open_port, self.login_port].map(|port| port.to_string());
        command.arg("mail").args(ports).arg(&self.folder).arg(refused_prefix);
        let child = Program::new(command, self.scratch.path().join("mail.log")).spawn()?;
        eventually("the mail server listens", START_TIMEOUT, async || {
            ensure!(child.exit_status().is_none(), "it has ended:\n{}", child.log_tail());
            // The server opens this port last.
            Ok(TcpStream::connect(("127.0.0.1", self.login_port)).await?)
        })
        .await?;
        self.child = Some(child);
        Ok(())
    }

    /// Kills it.
    pub async fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
    }

    /// The URL of the port without login.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.open_port)
    }

    /// The URL of the port with login, with the right or a wrong password.
    pub fn url_with_login(&self, user: &str, right_password: bool) -> String {
        let password = if right_password { PASSWORD.replace(' ', "%20") } else { "another".to_owned() };
        format!("smtp://{user}:{password}@127.0.0.1:{}", self.login_port)
    }

    /// The e-mails that it has received since its last start.
    ///
    /// # Errors
    /// If a file is not a valid e-mail.
    pub fn received(&self) -> anyhow::Result<Vec<Mail>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "mail") {
                files.push(path);
            }
        }
        files.sort();
        files.into_iter().map(|path| Mail::parse(&fs::read(path)?)).collect()
    }
}

/// A received e-mail, parsed.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The user that was logged in, or [`ANONYMOUS`].
    pub user: String,
    pub recipient: String,
    pub subject: String,
    pub from: String,
    pub to: String,
    pub id: String,
    pub text: String,
    pub html: String,
    /// The names of all headers.
    pub headers: Vec<String>,
}

impl Mail {
    fn parse(file: &[u8]) -> anyhow::Result<Self> {
        let end = file.iter().position(|byte| *byte == b'\n').context("no first line")?;
        let first = std::str::from_utf8(&file[..end])?;
        let (user, recipient) = first.split_once(' ').context("no recipient")?;
        let bytes = &file[end + 1..];
        let message = MessageParser::default().parse(bytes).context("no e-mail")?;
        let kinds: Vec<_> = message
            .parts
            .iter()
            .filter_map(|part| part.content_type()?.c_subtype.as_deref().map(str::to_owned))
            .collect();
        ensure!(kinds == ["alternative", "plain", "html"], "parts: {kinds:?}");
        let address = |address: Option<&mail_parser::Address>| {
            address.and_then(|address| address.first()?.address.as_deref().map(str::to_owned))
        };
        Ok(Self {
            user: user.to_owned(),
            recipient: recipient.to_owned(),
            subject: message.subject().context("subject")?.to_owned(),
            from: address(message.from()).context("from")?,
            to: address(message.to()).context("to")?,
            id: message.message_id().context("message id")?.to_owned(),
            text: message.body_text(0).context("text")?.into_owned(),
            html: message.body_html(0).context("html")?.into_owned(),
            headers: message.headers().iter().map(|header| header.name().to_owned()).collect(),
        })
    }
}
