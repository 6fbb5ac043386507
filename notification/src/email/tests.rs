use lettre::message::Mailbox;
use shared_events::{CancelReason, Count, MovieId, ReservationId};
use uuid::Uuid;

use super::*;
use crate::notification::Outcome;

fn from() -> Mailbox {
    "theater <no-reply@theater.example>".parse().unwrap()
}

pub(crate) fn notification(outcome: Outcome, movie_name: Option<&str>, message: &str) -> Notification {
    Notification {
        id: Uuid::from_u128(7),
        reservation_id: ReservationId(Uuid::from_u128(1)),
        outcome,
        user_id: "7".into(),
        user_name: "Jane".into(),
        email: Some("jane@example.org".into()),
        movie_id: MovieId(Uuid::from_u128(2)),
        movie_name: movie_name.map(str::to_owned),
        count: Count::new(45).unwrap(),
        message: message.into(),
    }
}

fn formatted(notification: &Notification) -> String {
    String::from_utf8(compose(notification, &from()).unwrap().formatted()).unwrap()
}

#[test]
fn an_outcome_is_composed_in_text_and_html() {
    let confirmed = notification(
        Outcome::Confirmed,
        Some("LALALand"),
        "Jane, your 45 tickets for LALALand are confirmed.",
    );
    let mail = formatted(&confirmed);
    for expected in [
        "From: theater <no-reply@theater.example>\r\n",
        "To: jane@example.org\r\n",
        "Subject: Your tickets are confirmed: LALALand\r\n",
        "Message-ID: <00000000-0000-0000-0000-000000000007@theater.example>\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "Content-Type: multipart/alternative;",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Type: text/html; charset=utf-8",
        "Jane, your 45 tickets for LALALand are confirmed.\r\n\r\nMovie:       LALALand\r\nTickets:     45\r\n",
        "<p>Jane, your 45 tickets for LALALand are confirmed.</p>",
        "<title>Your tickets are confirmed: LALALand</title>",
    ] {
        assert!(mail.contains(expected), "{expected:?} is not in\n{mail}");
    }
}

#[test]
fn an_unknown_movie_is_left_out() {
    let cancelled =
        notification(Outcome::Cancelled(CancelReason::MovieNotFound), None, "Jane, there is no such movie.");
    let mail = formatted(&cancelled);
    assert!(mail.contains("Subject: Your reservation is cancelled\r\n"), "{mail}");
    assert!(!mail.contains("Movie"), "{mail}");
    assert!(mail.contains("\r\n\r\nTickets:     45\r\n"), "{mail}");
}

#[test]
fn values_are_neither_headers_nor_markup() {
    let name = "x\r\nBcc: all@example.org\r\n\r\n<script>alert(\"1\")</script>\u{202e}";
    let mail = formatted(&notification(Outcome::Confirmed, Some(name), name));
    let (headers, body) = mail.split_once("\r\n\r\n").unwrap();
    assert!(!headers.lines().any(|line| line.starts_with("Bcc")), "{headers}");
    assert!(headers.contains("Subject: Your tickets are confirmed: x Bcc: all@example.org"), "{headers}");
    let (_, html) = body.split_once("text/html").unwrap();
    assert!(!html.contains("<script>"), "{html}");
    assert!(html.contains("&#60;script&#62;"), "{html}");
}

#[test]
fn a_long_name_is_cut_in_the_subject() {
    let name = "x".repeat(100_000);
    let mail = compose(&notification(Outcome::Confirmed, Some(&name), "m"), &from()).unwrap();
    let subject = mail.headers().get_raw("Subject").unwrap();
    assert_eq!(subject.matches('x').count(), SUBJECT_NAME_MAX);
}

#[test]
fn unusable_addresses_are_refused() {
    let mut unusable = notification(Outcome::Confirmed, None, "m");
    for address in ["jane@", "a@b@c", "jane@example..org", "a b@c", ""] {
        unusable.email = Some(address.to_owned());
        assert!(compose(&unusable, &from()).unwrap_err().contains("address"), "{address}");
    }
    unusable.email = None;
    assert!(compose(&unusable, &from()).unwrap_err().contains("no address"));
}
