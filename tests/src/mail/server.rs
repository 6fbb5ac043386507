//! A mail server as a process of its own: crate mailin speaks SMTP, and what it takes is kept in a folder.
//!
//! `theater-tests mail OPEN_PORT USERS_PORT FOLDER REFUSED`
//!
//! At OPEN_PORT anybody may send, at USERS_PORT who knows the password. Recipients that begin with REFUSED get 550; with
//! nothing there, nobody does. Each e-mail is a file: its user and its recipient in the first line, then its bytes.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Context;
use mailin::response::{AUTH_OK, INTERNAL_ERROR, INVALID_CREDENTIALS, NO_MAILBOX, OK};
use mailin::{Action, AuthMechanism, Handler, Response, SessionBuilder};

use crate::mail::{PASSWORD, STRANGER};

/// Numbers the e-mails.
static KEPT: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone)]
struct Keeper {
    folder: PathBuf,
    refused: String,
    user: String,
    recipient: String,
    bytes: Vec<u8>,
}

impl Handler for Keeper {
    fn rcpt(&mut self, to: &str) -> Response {
        if !self.refused.is_empty() && to.starts_with(&self.refused) {
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
        match self.keep() {
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

impl Keeper {
    fn keep(&mut self) -> io::Result<()> {
        let mut content = format!("{} {}\n", self.user, self.recipient).into_bytes();
        content.append(&mut self.bytes);
        let number = KEPT.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!("{number}.new"));
        fs::write(&unfinished, content)?;
        fs::rename(unfinished, self.folder.join(format!("{number:06}.mail")))
    }
}

/// Where it listens, and what it does with what it gets.
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
/// A port that is taken.
pub fn main(options: Options) -> anyhow::Result<()> {
    let Options { open_port, users_port, folder, refused } = options;
    let (user, recipient, bytes) = (STRANGER.to_owned(), String::new(), Vec::new());
    let keeper = Keeper { folder, refused, user, recipient, bytes };
    let listen =
        |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port}"));
    let (open, users) = (listen(open_port)?, listen(users_port)?);
    let for_users = keeper.clone();
    thread::spawn(move || {
        let mut sessions = SessionBuilder::new("mail.example");
        // There is no TLS here.
        sessions.enable_auth(AuthMechanism::Plain).insecure_enable_plaintext_auth();
        serve(&users, &sessions, &for_users);
    });
    serve(&open, &SessionBuilder::new("mail.example"), &keeper);
    Ok(())
}

/// A thread for each connection: there are few.
fn serve(listener: &TcpListener, sessions: &SessionBuilder, keeper: &Keeper) {
    for stream in listener.incoming() {
        let (sessions, keeper) = (sessions.clone(), keeper.clone());
        thread::spawn(move || {
            if let Err(error) = stream.and_then(|stream| converse(stream, &sessions, keeper)) {
                eprintln!("mail: {error}");
            }
        });
    }
}

fn converse(stream: TcpStream, sessions: &SessionBuilder, keeper: Keeper) -> io::Result<()> {
    let mut session = sessions.build(stream.peer_addr()?.ip(), keeper);
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
