//! The way to the mail server: one e-mail, one attempt, one verdict.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::TypedValueParser;
use lettre::message::Mailbox;
use lettre::transport::smtp::Error;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use crate::email;
use crate::notification::Notification;

/// From connecting to the mail server's last word.
pub const SEND_LIMIT: Duration = Duration::from_secs(10);

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Sent,
    /// It may go well another time.
    Later(String),
    /// It never will: the address, or what the mail server says to it.
    Never(String),
}

#[derive(Clone)]
pub struct Mailer {
    transport: Transport,
    from: Mailbox,
}

impl Mailer {
    pub fn new(url: &SmtpUrl, from: Mailbox) -> Self {
        Self { transport: url.0.clone(), from }
    }

    /// Sends one e-mail on a connection of its own, within [`SEND_LIMIT`]: one that is cut off in the middle is
    /// never given to the next.
    pub async fn send(&self, notification: &Notification) -> Verdict {
        let message = match email::compose(notification, &self.from) {
            Ok(message) => message,
            Err(reason) => return Verdict::Never(reason),
        };
        match tokio::time::timeout(SEND_LIMIT, self.transport.send(message)).await {
            Ok(Ok(_)) => Verdict::Sent,
            Ok(Err(error)) => verdict(&error),
            Err(_) => Verdict::Later(format!("the mail server was not done within {SEND_LIMIT:?}")),
        }
    }
}

fn verdict(error: &Error) -> Verdict {
    let reason = error.to_string();
    match error.status() {
        Some(code) if error.is_permanent() && !is_ours(code.into()) => Verdict::Never(reason),
        _ => Verdict::Later(reason),
    }
}

/// Permanent refusals that are about us, not about this e-mail: authentication (RFC 4954), a server that takes no mail
/// at all (RFC 7504). They pass once someone has set that right.
fn is_ours(code: u16) -> bool {
    matches!(code, 521 | 530 | 534 | 535 | 538)
}

/// A mail server's URL that has been parsed; it keeps the password and is never logged.
#[derive(Clone)]
pub struct SmtpUrl(Transport);

impl fmt::Debug for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mail server")
    }
}

impl FromStr for SmtpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.starts_with("smtp://") && !text.starts_with("smtps://") {
            return Err("must begin with smtp:// or smtps://".into());
        }
        // What the library would pass over silently.
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        if !matches!(query, "" | "tls=required" | "tls=opportunistic") {
            return Err("after `?` there may only be tls=required or tls=opportunistic".into());
        }
        if address.rsplit_once('@').is_some_and(|(user, _)| user.matches(':').count() < 2) {
            return Err("a user needs a password: user:password@host".into());
        }
        let transport = Transport::from_url(text).map_err(|error| error.to_string())?;
        Ok(Self(transport.timeout(Some(SEND_LIMIT)).build()))
    }
}

/// As [`SmtpUrl::from_str`], but what is refused is named without being shown: clap's own message would show the
/// password.
#[derive(Clone)]
pub struct SmtpUrlParser;

impl TypedValueParser for SmtpUrlParser {
    type Value = SmtpUrl;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<SmtpUrl, clap::Error> {
        let parsed = value.to_str().ok_or("not UTF-8".to_owned()).and_then(str::parse);
        parsed.map_err(|reason: String| {
            let message = format!("invalid value for '--smtp-url <SMTP_URL>': {reason}\n");
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::email::tests::notification;
    use crate::notification::Outcome;

    /// Who speaks first doesn't speak TLS: the attempt fails, and nothing panics for want of a TLS provider.
    #[tokio::test]
    async fn a_server_without_tls_is_never_written_to_in_the_clear() {
        for url in ["smtps://jane:secret@{}", "smtp://jane:secret@{}?tls=required"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = url.replace("{}", &listener.local_addr().unwrap().to_string());
            let server = async {
                let (mut connection, _) = listener.accept().await.unwrap();
                connection.write_all(b"220 plain ESMTP\r\n250 plain\r\n221 bye\r\n").await.unwrap();
                let mut said = Vec::new();
                // The client may cut it.
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut said).await;
                said
            };
            let mailer = Mailer::new(&url.parse().unwrap(), "no-reply@localhost".parse().unwrap());
            let notification = notification(Outcome::Confirmed, None, "m");
            let (verdict, said) = tokio::join!(mailer.send(&notification), server);
            assert!(matches!(verdict, Verdict::Later(_)), "{url}: {verdict:?}");
            let said = String::from_utf8_lossy(&said);
            assert!(!said.contains("MAIL") && !said.contains("AUTH"), "{url}: {said}");
        }
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_used_never_reaches_the_server() {
        let mailer =
            Mailer::new(&"smtp://127.0.0.1:1".parse().unwrap(), "no-reply@localhost".parse().unwrap());
        let mut lost = notification(Outcome::Confirmed, None, "m");
        assert!(matches!(mailer.send(&lost).await, Verdict::Later(_)));
        lost.email = Some("jane@".into());
        assert!(matches!(mailer.send(&lost).await, Verdict::Never(_)));
    }
}
