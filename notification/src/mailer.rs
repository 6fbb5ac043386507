//! Sends one e-mail to the mail server: one attempt, one verdict.
//!
//! lettre's `AsyncSmtpTransport` is not used: it doesn't say at which command an attempt failed, and it waits without limit
//! for the answer to QUIT.

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

/// From connecting to the mail server's answer to the whole e-mail, which the server may inspect for long (RFC 5321,
/// 4.5.3.2.6).
pub const SEND_LIMIT: Duration = Duration::from_secs(30);

/// For connecting to one of the server's addresses. Then the next address is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait for the answer to QUIT. The server has accepted or refused the e-mail by then.
pub const QUIT_LIMIT: Duration = Duration::from_secs(1);

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Sent,
    /// Another attempt may succeed.
    Transient(String),
    /// No attempt can succeed: the address or the content is refused.
    Permanent(String),
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

    /// Sends one e-mail on a connection of its own, within [`SEND_LIMIT`]: a connection that was cut off in the middle is
    /// never reused. The e-mail counts as sent once the server has accepted it, whatever happens to the connection then.
    pub async fn send(&self, notification: &Notification) -> Verdict {
        let message = match email::compose(notification, &self.from) {
            Ok(message) => message,
            Err(reason) => return Verdict::Permanent(reason),
        };
        let attempt = async {
            let mut connection = self.server.connect(CONNECT_LIMIT).await?;
            let delivered = failpoint(failpoints::SEND, deliver(&mut connection, &message)).await;
            Ok::<_, Error>((connection, delivered))
        };
        match tokio::time::timeout(SEND_LIMIT, attempt).await {
            Ok(Ok((connection, delivered))) => {
                quit(connection).await;
                delivered.map_or_else(|error| verdict(&error), |()| Verdict::Sent)
            }
            Ok(Err(error)) => verdict(&error),
            Err(_) => Verdict::Transient(format!("the mail server was not done within {SEND_LIMIT:?}")),
        }
    }
}

/// Transfers an e-mail. The library's own `send` sends QUIT after a refusal and waits for its answer without limit.
async fn deliver(connection: &mut AsyncSmtpConnection, message: &Message) -> Result<(), Error> {
    let envelope = message.envelope();
    let content = message.formatted();
    // A server without these extensions refuses the command.
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

/// Ends the session. The server's verdict on the e-mail stands, whatever it answers to QUIT.
async fn quit(mut connection: AsyncSmtpConnection) {
    match tokio::time::timeout(QUIT_LIMIT, connection.quit()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!(%error, "QUIT was refused"),
        Err(_) => debug!("QUIT was not answered"),
    }
}

fn verdict(error: &Error) -> Verdict {
    let reason = error.to_string();
    match error.status() {
        Some(code) if error.is_permanent() && !is_about_client(code.into()) => Verdict::Permanent(reason),
        _ => Verdict::Transient(reason),
    }
}

/// Permanent refusals of this client, not of the e-mail: authentication (RFC 4954), a server that accepts no mail at all
/// (RFC 7504). Another attempt succeeds once an operator has corrected the settings.
fn is_about_client(code: u16) -> bool {
    matches!(code, 521 | 530 | 534 | 535 | 538)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::email::tests::notification;
    use crate::notification::Outcome;

    /// A server that speaks first doesn't speak TLS: the attempt fails, and a missing TLS provider causes no panic.
    #[tokio::test]
    async fn without_tls_nothing_is_sent_in_the_clear() {
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
            assert!(matches!(verdict, Verdict::Transient(_)), "{url}: {verdict:?}");
            let said = String::from_utf8_lossy(&said);
            assert!(!said.contains("MAIL") && !said.contains("AUTH"), "{url}: {said}");
        }
    }

    /// The verdict on the e-mail stands without an answer to QUIT: a retry would notify the customer twice.
    #[tokio::test]
    async fn an_unanswered_quit_does_not_change_the_verdict() {
        let (verdict, last) = send_to_server_answering(&["220", "250", "250", "250", "354", "250"]).await;
        assert_eq!((verdict, last.as_str()), (Verdict::Sent, "."));
        let (verdict, last) = send_to_server_answering(&["220", "250", "250", "550"]).await;
        assert!(
            matches!(verdict, Verdict::Permanent(_)) && last.starts_with("RCPT"),
            "{verdict:?} to {last}"
        );
        let (verdict, last) = send_to_server_answering(&["220", "250", "250", "250", "354", "451"]).await;
        assert!(matches!(verdict, Verdict::Transient(_)) && last == ".", "{verdict:?} to {last}");
    }

    /// The verdict on an e-mail, and the command that the last answer was for. After its answers the server is silent.
    async fn send_to_server_answering(answers: &[&str]) -> (Verdict, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let server = async {
            let (connection, _) = listener.accept().await.unwrap();
            let mut connection = BufReader::new(connection);
            let mut line = String::new();
            // The greeting is sent unasked; a dot alone ends the e-mail.
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
    async fn an_unusable_address_never_reaches_the_server() {
        let mailer =
            Mailer::new("smtp://127.0.0.1:1".parse().unwrap(), "no-reply@localhost".parse().unwrap());
        let mut unusable = notification(Outcome::Confirmed, None, "m");
        assert!(matches!(mailer.send(&unusable).await, Verdict::Transient(_)));
        unusable.email = Some("jane@".into());
        assert!(matches!(mailer.send(&unusable).await, Verdict::Permanent(_)));
    }
}
