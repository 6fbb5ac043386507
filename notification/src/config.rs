//! The notification service's settings.

use std::net::SocketAddr;

use lettre::message::Mailbox;
use service_kit::config::TelemetryConfig;
use service_kit::messaging::EventsConfig;
use shared_events::ReservationId;
use uuid::Uuid;

use crate::mailer::server::{SmtpUrl, SmtpUrlParser};

/// Tells customers how their reservations ended: one notification per outcome, and an e-mail
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "notification", version)]
pub struct Config {
    /// A command to run instead of the service
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub events: EventsConfig,

    /// Where HTTP is served; port 0 takes a free one
    #[arg(long, env = "BIND_ADDRESS", default_value = "0.0.0.0:8084")]
    pub bind_address: SocketAddr,

    #[command(flatten)]
    pub email: EmailConfig,

    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}

/// How e-mails are sent.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "E-mail")]
pub struct EmailConfig {
    /// The mail server: smtp://user:password@host:port, smtps:// for TLS, smtp://…?tls=required for STARTTLS, the user
    /// only if the server wants one; without this setting notifications are only stored
    #[arg(long, env = "SMTP_URL", hide_env_values = true, value_parser = SmtpUrlParser)]
    pub smtp_url: Option<SmtpUrl>,

    /// The sender of e-mails
    #[arg(long, env = "SMTP_FROM", default_value = "theater <no-reply@localhost>")]
    pub smtp_from: Mailbox,

    /// Attempts at an e-mail before it counts as failed. The waits between them are 1, 2, 4 … seconds, up to an hour: 16
    /// attempts take some five hours
    #[arg(long, env = "SMTP_ATTEMPTS_MAX", default_value_t = 16,
          value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub smtp_attempts_max: i32,
}

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Returns failed e-mails to the queue with a fresh number of attempts, and prints how many; a running service sends
    /// them. It needs only DATABASE_URL
    RetryFailed {
        /// Only the e-mails of this reservation
        #[arg(long, value_name = "ID", value_parser = reservation)]
        reservation: Option<ReservationId>,
    },
}

fn reservation(text: &str) -> Result<ReservationId, String> {
    text.parse::<Uuid>().map(ReservationId).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = ["notification", "--database-url=postgres://localhost/n"].iter().chain(args);
        Config::try_parse_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn mail_servers_are_given_by_url() {
        for url in [
            "smtp://localhost",
            "smtp://localhost:2525",
            "smtp://jane:s%20e@mail.example.org:587?tls=required",
            "smtp://mail.example.org?tls=opportunistic",
            "smtps://jane:secret@mail.example.org",
            "smtps://[::1]:465/helo.example.org",
        ] {
            let config = parse(&["--smtp-url", url]).unwrap();
            assert!(config.email.smtp_url.is_some(), "{url}");
        }
        assert!(parse(&[]).unwrap().email.smtp_url.is_none());
    }

    #[test]
    fn refusals_name_the_setting_and_show_no_password() {
        for (args, name) in [
            (["--smtp-url", "http://jane:secret@mail"], "--smtp-url"),
            (["--smtp-url", "smtp://jane:secret@"], "--smtp-url"),
            (["--smtp-url", "smtp://jane:secret@mail:port"], "--smtp-url"),
            (["--smtp-url", "smtp://jane:secret@mail?tls=perhaps"], "tls=required"),
            (["--smtp-url", "smtp://jane:secret@mail?TLS=required"], "tls=required"),
            (["--smtp-url", "smtps://jane:secret@mail?tls=required"], "always TLS"),
            (["--smtp-url", "smtp://jane:secret@mail#tls=required"], "no `#`"),
            (["--smtp-url", "smtp://secret@mail"], "user:password@host"),
            (["--smtp-url", "smtp://:secret@mail"], "user:password@host"),
            (["--smtp-url", ""], "--smtp-url"),
            (["--smtp-from", "nobody"], "--smtp-from"),
            (["--smtp-from", "a@b\r\nBcc: c@d"], "--smtp-from"),
            (["--smtp-attempts-max", "0"], "--smtp-attempts-max"),
        ] {
            let message = parse(&args).unwrap_err();
            assert!(message.contains(name), "{args:?}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
        let config = parse(&["--smtp-url", "smtp://jane:secret@mail"]).unwrap();
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
    }

    #[test]
    fn help_documents_each_setting() {
        let help = parse(&["--help"]).unwrap_err();
        for name in ["SMTP_URL", "SMTP_FROM", "SMTP_ATTEMPTS_MAX", "retry-failed", "smtps://"] {
            assert!(help.contains(name), "{help}");
        }
    }

    #[test]
    fn commands_are_parsed() {
        assert!(parse(&[]).unwrap().command.is_none());
        let all = parse(&["retry-failed"]).unwrap().command.unwrap();
        assert!(matches!(all, Command::RetryFailed { reservation: None }));
        let id = "0192f0c1-7c1a-7000-8000-000000000001";
        let one = parse(&["retry-failed", "--reservation", id]).unwrap().command.unwrap();
        assert!(matches!(one, Command::RetryFailed { reservation: Some(found) } if found.to_string() == id));
        assert!(parse(&["retry-failed", "--reservation", "7"]).unwrap_err().contains("--reservation"));
    }
}
