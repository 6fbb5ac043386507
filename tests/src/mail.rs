//! A mail server, as a process of its own ([`server`]), which keeps what it takes.

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

const START: Duration = Duration::from_secs(60);

/// Refuses nobody.
pub const NOBODY: &str = "";

/// Of all users.
pub const PASSWORD: &str = "s cret";

/// Who was not logged in.
pub const STRANGER: &str = "-";

pub struct MailServer {
    binary: &'static str,
    open: u16,
    users: u16,
    child: Option<Child>,
    /// A folder for each time that it came.
    folder: PathBuf,
    times: usize,
    scratch: TempDir,
}

impl MailServer {
    /// Ports for one that is not there yet. `binary` is `env!("CARGO_BIN_EXE_theater-tests")`.
    ///
    /// # Errors
    /// No port, or no folder.
    pub fn away(binary: &'static str) -> anyhow::Result<Self> {
        let scratch = TempDir::new(&std::env::temp_dir(), "theater-mail")?;
        let folder = scratch.path().to_owned();
        let (open, users) = (port::free()?, port::free()?);
        Ok(Self { binary, open, users, child: None, folder, times: 0, scratch })
    }

    /// One that takes all mail.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn start(binary: &'static str) -> anyhow::Result<Self> {
        let mut server = Self::away(binary)?;
        server.come(NOBODY).await?;
        Ok(server)
    }

    /// Starts it, with nothing kept; recipients that begin with `refused` get 550.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn come(&mut self, refused: &str) -> anyhow::Result<()> {
        self.times += 1;
        self.folder = self.scratch.path().join(self.times.to_string());
        fs::create_dir(&self.folder)?;
        let mut command = Command::new(self.binary);
        let ports = [self.open, self.users].map(|port| port.to_string());
        command.arg("mail").args(ports).arg(&self.folder).arg(refused);
        let child = Program::new(command, self.scratch.path().join("mail.log")).spawn()?;
        eventually("the mail server listens", START, async || {
            ensure!(child.exit_status().is_none(), "it has ended:\n{}", child.log_tail());
            // The one that it opens last.
            Ok(TcpStream::connect(("127.0.0.1", self.users)).await?)
        })
        .await?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends it.
    pub async fn go(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
    }

    /// For who has no user there.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.open)
    }

    /// For a user; there is one password, and it is not this one's if `right` is false.
    pub fn url_of(&self, user: &str, right: bool) -> String {
        let password = if right { PASSWORD.replace(' ', "%20") } else { "another".to_owned() };
        format!("smtp://{user}:{password}@127.0.0.1:{}", self.users)
    }

    /// All that it has taken since it came.
    ///
    /// # Errors
    /// What is no e-mail.
    pub fn mails(&self) -> anyhow::Result<Vec<Mail>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "mail") {
                files.push(path);
            }
        }
        files.sort();
        files.into_iter().map(|path| Mail::read(&fs::read(path)?)).collect()
    }
}

/// An e-mail as its reader sees it.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Who was logged in, or `-`.
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
    fn read(kept: &[u8]) -> anyhow::Result<Self> {
        let end = kept.iter().position(|byte| *byte == b'\n').context("no first line")?;
        let first = std::str::from_utf8(&kept[..end])?;
        let (user, recipient) = first.split_once(' ').context("no recipient")?;
        let bytes = &kept[end + 1..];
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
