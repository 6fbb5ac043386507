//! The way to the mail server: one e-mail, one attempt, one verdict.

pub mod server;

use std::time::Duration;

use lettre::Message;
use lettre::message::Mailbox;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{MailBodyParameter, MailParameter};
use service_kit::messaging::failpoint::failpoint;
use tracing::debug;

use crate::email;
use crate::failpoints;
use crate::notification::Notification;
use server::SmtpUrl;

/// From connecting to the mail server's answer to the whole e-mail. It may look into it for long (RFC 5321, 4.5.3.2.6).
pub const SEND_LIMIT: Duration = Duration::from_secs(30);

/// For a connection to one of its addresses: the next one is to have its turn.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a mail server is waited for that doesn't say goodbye. By then it has the e-mail, or has refused it.
pub const QUIT_LIMIT: Duration = Duration::from_secs(1);

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
    server: SmtpUrl,
    from: Mailbox,
}

impl Mailer {
    pub fn new(server: SmtpUrl, from: Mailbox) -> Self {
        Self { server, from }
    }

    /// Sends one e-mail on a connection of its own, within [`SEND_LIMIT`]: one that is cut off in the middle is
    /// never given to the next. It is sent once the server has taken it, whatever becomes of the connection then.
    pub async fn send(&self, notification: &Notification) -> Verdict {
        let message = match email::compose(notification, &self.from) {
            Ok(message) => message,
            Err(reason) => return Verdict::Never(reason),
        };
        let attempt = async {
            let mut connection = self.server.connect(CONNECT_LIMIT).await?;
            let delivered = failpoint(failpoints::SEND, deliver(&mut connection, &message)).await;
            Ok::<_, Error>((connection, delivered))
        };
        match tokio::time::timeout(SEND_LIMIT, attempt).await {
            Ok(Ok((connection, delivered))) => {
                say_goodbye(connection).await;
                delivered.map_or_else(|error| verdict(&error), |()| Verdict::Sent)
            }
            Ok(Err(error)) => verdict(&error),
            Err(_) => Verdict::Later(format!("the mail server was not done within {SEND_LIMIT:?}")),
        }
    }
}

/// Gives the server an e-mail. The library's own `send` says goodbye after a refusal, and waits for the answer to that
/// for as long as it takes.
async fn deliver(connection: &mut AsyncSmtpConnection, message: &Message) -> Result<(), Error> {
    let envelope = message.envelope();
    let content = message.formatted();
    // A server that doesn't offer what is asked for here refuses it.
    let mut parameters = Vec::new();
    if envelope.to().iter().chain(envelope.from()).any(|address| !address.to_string().is_ascii()) {
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !content.is_ascii() {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    connection.command(Mail::new(envelope.from().cloned(), parameters)).await?;
    for to in envelope.to() {
        connection.command(Rcpt::new(to.clone(), Vec::new())).await?;
    }
    connection.command(Data).await?;
    connection.message(&content).await?;
    Ok(())
}

/// What the server has said by now stands, whatever it says to that.
async fn say_goodbye(mut connection: AsyncSmtpConnection) {
    match tokio::time::timeout(QUIT_LIMIT, connection.quit()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!(%error, "the mail server takes no goodbye"),
        Err(_) => debug!("the mail server says no goodbye"),
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
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
            let mailer = Mailer::new(url.parse().unwrap(), "no-reply@localhost".parse().unwrap());
            let notification = notification(Outcome::Confirmed, None, "m");
            let (verdict, said) = tokio::join!(mailer.send(&notification), server);
            assert!(matches!(verdict, Verdict::Later(_)), "{url}: {verdict:?}");
            let said = String::from_utf8_lossy(&said);
            assert!(!said.contains("MAIL") && !said.contains("AUTH"), "{url}: {said}");
        }
    }

    /// What it said to the e-mail stands: sent again, it would tell the customer twice; refused, it is refused.
    #[tokio::test]
    async fn a_server_that_says_no_goodbye_has_said_enough() {
        let (verdict, last) = of_a_server_that_answers(&["220", "250", "250", "250", "354", "250"]).await;
        assert_eq!((verdict, last.as_str()), (Verdict::Sent, "."));
        let (verdict, last) = of_a_server_that_answers(&["220", "250", "250", "550"]).await;
        assert!(matches!(verdict, Verdict::Never(_)) && last.starts_with("RCPT"), "{verdict:?} to {last}");
        let (verdict, last) = of_a_server_that_answers(&["220", "250", "250", "250", "354", "451"]).await;
        assert!(matches!(verdict, Verdict::Later(_)) && last == ".", "{verdict:?} to {last}");
    }

    /// What comes of an e-mail, and what the last answer was to. After its answers the server is silent.
    async fn of_a_server_that_answers(answers: &[&str]) -> (Verdict, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let server = async {
            let (connection, _) = listener.accept().await.unwrap();
            let mut connection = BufReader::new(connection);
            let mut line = String::new();
            // The greeting answers nothing; a dot alone ends the e-mail.
            for (heard, answer) in ["", "EHLO", "MAIL", "RCPT", "DATA", ".\r\n"].into_iter().zip(answers) {
                while !line.starts_with(heard) {
                    line.clear();
                    connection.read_line(&mut line).await.unwrap();
                }
                connection.write_all(format!("{answer} well\r\n").as_bytes()).await.unwrap();
            }
            let last = line.trim_end().to_owned();
            // Until the client hangs up.
            while connection.read_line(&mut line).await.unwrap() > 0 {}
            last
        };
        let mailer = Mailer::new(url.parse().unwrap(), "no-reply@localhost".parse().unwrap());
        let notification = notification(Outcome::Confirmed, None, "m");
        tokio::join!(mailer.send(&notification), server)
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_used_never_reaches_the_server() {
        let mailer =
            Mailer::new("smtp://127.0.0.1:1".parse().unwrap(), "no-reply@localhost".parse().unwrap());
        let mut lost = notification(Outcome::Confirmed, None, "m");
        assert!(matches!(mailer.send(&lost).await, Verdict::Later(_)));
        lost.email = Some("jane@".into());
        assert!(matches!(mailer.send(&lost).await, Verdict::Never(_)));
    }
}
