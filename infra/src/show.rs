//! Records as lines for people. Nothing in them can move the terminal's cursor.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};

use crate::records::Record;

/// Longer values are cut: a dead letter may hold 2 MiB.
const VALUE_CHARS: usize = 2000;

/// Topic, partition, offset and key; the headers; the value. The first line begins with `mark`, the others are
/// indented below it.
pub fn record(record: &Record, mark: &str) -> String {
    let indent = " ".repeat(mark.len());
    let mut lines = format!("{mark}{}[{}]@{}", record.topic, record.partition, record.offset);
    if let Some(key) = &record.key {
        let _ = write!(lines, " key={}", text(key)); // a String takes everything
    }
    if !record.headers.is_empty() {
        let header = |(name, value): &(String, Option<Vec<u8>>)| {
            format!("{name}={}", value.as_deref().map_or("(null)".to_owned(), text))
        };
        let headers: Vec<String> = record.headers.iter().map(header).collect();
        let _ = write!(lines, "\n{indent}  {}", headers.join("  "));
    }
    let value = record.value.as_deref().map_or("(no value)".to_owned(), text);
    let _ = write!(lines, "\n{indent}  {value}");
    lines
}

/// Prints a line. That nobody reads it any more is no reason to stop.
pub fn line(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}

/// As it is if it is text, else with its odd bytes escaped.
pub fn text(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for (count, c) in String::from_utf8_lossy(bytes).chars().enumerate() {
        if count == VALUE_CHARS {
            let _ = write!(shown, "… ({} bytes)", bytes.len());
            break;
        }
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_a_record_is_shown() {
        let record = Record {
            topic: "theater.movies".into(),
            partition: 3,
            offset: 7,
            key: Some(b"key".to_vec()),
            headers: vec![("ce_id".into(), Some(b"1".to_vec())), ("none".into(), None)],
            value: Some(b"{\"a\":1}".to_vec()),
        };
        assert_eq!(
            super::record(&record, "* "),
            "* theater.movies[3]@7 key=key\n    ce_id=1  none=(null)\n    {\"a\":1}"
        );
    }

    #[test]
    fn what_is_no_text_is_escaped_and_cut() {
        assert_eq!(text(b"a\x1b[2J\n\xff"), "a\\u{1b}[2J\\n\u{fffd}");
        assert!(text(&[b'x'; 3000]).ends_with("x… (3000 bytes)"));
    }
}
