//! A mail server, as a process of its own: SubEthaSMTP on the machine's JDK (`tests/mail`), which keeps what it takes.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mail_parser::{MessageParser, MimeHeaders};
use theater_infra::java::{Jars, Wanted};
use theater_infra::port;
use theater_infra::supervise::{Child, Program, Scratch};

use crate::{Api, eventually};

const START: Duration = Duration::from_secs(60);

const SOURCE: &str = "MailServer.java";

const SUBETHA: Wanted = Wanted {
    what: "the tests' mail server",
    name: "mail",
    pom: include_str!("../mail/pom.xml"),
    beside: (SOURCE, include_str!("../mail/MailServer.java")),
};

/// Refuses nobody.
pub const NOBODY: &str = "^$";

pub struct MailServer {
    jars: Jars,
    smtp: u16,
    http: u16,
    child: Option<Child>,
    scratch: Scratch,
}

impl MailServer {
    /// Ports for one that is not there yet.
    ///
    /// # Errors
    /// No JDK 17 or Maven.
    pub async fn away() -> anyhow::Result<Self> {
        let jars = Jars::get(SUBETHA).await?;
        let scratch = Scratch::new(&std::env::temp_dir(), "theater-mail")?;
        Ok(Self { jars, smtp: port::free()?, http: port::free()?, child: None, scratch })
    }

    /// One that takes all mail.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn start() -> anyhow::Result<Self> {
        let mut server = Self::away().await?;
        server.come(NOBODY).await?;
        Ok(server)
    }

    /// Starts it; recipients that match the regular expression `refused` get 550.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn come(&mut self, refused: &str) -> anyhow::Result<()> {
        let mut command = Command::new(self.jars.java());
        command.args(["-Xmx64m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-cp"]);
        command.arg(self.jars.class_path()).arg(self.jars.beside(SOURCE));
        command.args([&self.smtp.to_string(), &self.http.to_string(), refused]);
        let child = Program::new(command, self.scratch.path().join("mail.log")).spawn()?;
        eventually("the mail server answers", START, async || {
            ensure!(child.exit_status().is_none(), "it has ended:\n{}", child.last_words());
            self.mails().await
        })
        .await?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends it; it forgets what it has kept.
    pub async fn go(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
    }

    /// For who has no user there.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.smtp)
    }

    /// For a user; there is one password, and it is not this one's if `right` is false.
    pub fn url_of(&self, user: &str, right: bool) -> String {
        let password = if right { "s%20cret" } else { "another" };
        format!("smtp://{user}:{password}@127.0.0.1:{}", self.smtp)
    }

    /// All that it has taken.
    ///
    /// # Errors
    /// A server that doesn't answer.
    pub async fn mails(&self) -> anyhow::Result<Vec<Mail>> {
        let answer = Api::new(format!("http://127.0.0.1:{}", self.http))?.get("/").await?;
        answer.text.lines().map(Mail::read).collect()
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
    fn read(line: &str) -> anyhow::Result<Self> {
        let mut words = line.split(' ');
        let (user, recipient) = (words.next().context("user")?, words.next().context("recipient")?);
        let bytes = BASE64_STANDARD.decode(words.next().context("bytes")?)?;
        let message = MessageParser::default().parse(&bytes).context("no e-mail")?;
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
