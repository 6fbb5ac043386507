//! The process of the mail server: the crate mailin implements SMTP, and each e-mail becomes a file in a folder.
//!
//! `theater-tests mail OPEN_PORT USERS_PORT FOLDER REFUSED`
//!
//! OPEN_PORT accepts e-mails without a login, USERS_PORT only with the password. Recipients that begin with REFUSED get
//! 550, unless REFUSED is empty. An e-mail's file has its user and its recipient in the first line, then its bytes.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Context;
use mailin::response::{AUTH_OK, INTERNAL_ERROR, INVALID_CREDENTIALS, NO_MAILBOX, OK};
use mailin::{Action, AuthMechanism, Handler, Response, SessionBuilder};

use crate::mail::{ANONYMOUS, PASSWORD};

/// Numbers the e-mails.
static RECEIVED: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone)]
struct Mailbox {
    folder: PathBuf,
    refused_prefix: String,
    user: String,
    recipient: String,
    bytes: Vec<u8>,
}

impl Handler for Mailbox {
    fn rcpt(&mut self, to: &str) -> Response {
        if !self.refused_prefix.is_empty() && to.starts_with(&self.refused_prefix) {
            return NO_MAILBOX;
        }
        to.clone_into(&mut self.recipient);
        OK
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        match self.store() {
            Ok(()) => OK,
            Err(error) => {
                eprintln!("mail: {error}");
                INTERNAL_ERROR
            }
        }
    }

    fn auth_plain(&mut self, _: &str, user: &str, password: &str) -> Response {
        if password != PASSWORD {
            return INVALID_CREDENTIALS;
        }
        user.clone_into(&mut self.user);
        AUTH_OK
    }
}

impl Mailbox {
    fn store(&mut self) -> io::Result<()> {
        let mut content = format!("{} {}\n", self.user, self.recipient).into_bytes();
        content.append(&mut self.bytes);
        let number = RECEIVED.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!("{number}.new"));
        fs::write(&unfinished, content)?;
        fs::rename(unfinished, self.folder.join(format!("{number:06}.mail")))
    }
}

/// The ports, the folder and the refused recipients.
#[derive(clap::Args)]
pub struct Options {
    open_port: u16,
    users_port: u16,
    folder: PathBuf,
    refused: String,
}

/// Serves until it is killed.
///
/// # Errors
/// If a port is in use.
pub fn main(options: Options) -> anyhow::Result<()> {
    let Options { open_port, users_port, folder, refused: refused_prefix } = options;
    let (user, recipient, bytes) = (ANONYMOUS.to_owned(), String::new(), Vec::new());
    let mailbox = Mailbox { folder, refused_prefix, user, recipient, bytes };
    let listen =
        |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port}"));
    let (open, users) = (listen(open_port)?, listen(users_port)?);
    let mailbox_of_users = mailbox.clone();
    thread::spawn(move || {
        let mut sessions = SessionBuilder::new("mail.example");
        // This server has no TLS.
        sessions.enable_auth(AuthMechanism::Plain).insecure_enable_plaintext_auth();
        serve(&users, &sessions, &mailbox_of_users);
    });
    serve(&open, &SessionBuilder::new("mail.example"), &mailbox);
    Ok(())
}

/// Uses a thread per connection, as there are few connections.
fn serve(listener: &TcpListener, sessions: &SessionBuilder, mailbox: &Mailbox) {
    for stream in listener.incoming() {
        let (sessions, mailbox) = (sessions.clone(), mailbox.clone());
        thread::spawn(move || {
            if let Err(error) = stream.and_then(|stream| serve_connection(stream, &sessions, mailbox)) {
                eprintln!("mail: {error}");
            }
        });
    }
}

fn serve_connection(stream: TcpStream, sessions: &SessionBuilder, mailbox: Mailbox) -> io::Result<()> {
    let mut session = sessions.build(stream.peer_addr()?.ip(), mailbox);
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    session.greeting().write_to(&mut writer)?;
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let response = session.process(&line);
        line.clear();
        if response.action == Action::NoReply {
            continue;
        }
        response.write_to(&mut writer)?;
        writer.flush()?;
        if response.action == Action::Close {
            return Ok(());
        }
    }
    Ok(())
}
