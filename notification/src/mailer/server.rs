//! The mail server's URL, and connecting to it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::TypedValueParser;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::{Error, SMTP_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

#[derive(Clone)]
enum Security {
    None,
    /// TLS from the first byte.
    Tls(TlsParameters),
    /// STARTTLS; without it nothing is sent.
    Required(TlsParameters),
    /// STARTTLS if the server offers it.
    Opportunistic(TlsParameters),
}

/// A parsed URL of a mail server. It holds the password, so its `Debug` shows nothing.
#[derive(Clone)]
pub struct SmtpUrl {
    host: String,
    port: u16,
    security: Security,
    /// The name with which this client greets the server.
    hello: ClientId,
    credentials: Option<Credentials>,
}

impl fmt::Debug for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mail server")
    }
}

impl SmtpUrl {
    /// Opens a connection that is ready for an e-mail. `limit` bounds only TCP's connecting, to each of the server's
    /// addresses.
    ///
    /// # Errors
    /// If the server can't be reached, offers no TLS where it is required, or refuses the user.
    pub async fn connect(&self, limit: Duration) -> Result<AsyncSmtpConnection, Error> {
        let tls = if let Security::Tls(tls) = &self.security { Some(tls.clone()) } else { None };
        let address = (self.host.as_str(), self.port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(address, Some(limit), &self.hello, tls, None).await?;
        match &self.security {
            Security::Required(tls) => connection.starttls(tls.clone(), &self.hello).await?,
            Security::Opportunistic(tls) if connection.can_starttls() => {
                connection.starttls(tls.clone(), &self.hello).await?;
            }
            Security::None | Security::Tls(_) | Security::Opportunistic(_) => {}
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }
}

impl FromStr for SmtpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        if url.fragment().is_some() {
            return Err("there may be no `#`; in a password it is %23".into());
        }
        let host = match url.host() {
            // Without brackets.
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => return Err("it names no host".into()),
        };
        let tls = || TlsParameters::new(host.clone()).map_err(|error| error.to_string());
        let (security, port) = match (url.scheme(), url.query()) {
            ("smtp", None) => (Security::None, SMTP_PORT),
            ("smtp", Some("tls=required")) => (Security::Required(tls()?), SUBMISSION_PORT),
            ("smtp", Some("tls=opportunistic")) => (Security::Opportunistic(tls()?), SUBMISSION_PORT),
            ("smtps", None) => (Security::Tls(tls()?), SUBMISSIONS_PORT),
            ("smtp", Some(_)) => {
                return Err("after `?` there may only be tls=required or tls=opportunistic".into());
            }
            ("smtps", Some(_)) => return Err("smtps:// takes nothing after `?`: it is always TLS".into()),
            _ => return Err("must begin with smtp:// or smtps://".into()),
        };
        let hello = match url.path().trim_matches('/') {
            "" => ClientId::default(),
            name => ClientId::Domain(name.to_owned()),
        };
        let credentials = credentials(&url)?;
        Ok(Self { host, port: url.port().unwrap_or(port), security, hello, credentials })
    }
}

fn credentials(url: &Url) -> Result<Option<Credentials>, String> {
    let decode =
        |text| percent_decode_str(text).decode_utf8().map(Cow::into_owned).map_err(|error| error.to_string());
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        ("", Some(_)) | (_, None) => Err("a user needs a password: user:password@host".into()),
        (user, Some(password)) => Ok(Some(Credentials::new(decode(user)?, decode(password)?))),
    }
}

/// As [`SmtpUrl::from_str`], but an error doesn't show the value: clap's own message would show the password.
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
