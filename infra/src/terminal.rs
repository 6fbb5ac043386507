//! Output for people. Control characters of records are escaped: they can't move the terminal's cursor.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};

use crate::records::Record;

/// Longer values are cut: a dead letter may hold 2 MiB.
const VALUE_CHARS: usize = 2000;

/// A record as three lines: topic, partition, offset and key; the headers; the value. The first line begins with `mark`,
/// the others are indented below it.
pub fn format_record(record: &Record, mark: &str) -> String {
    let indent = " ".repeat(mark.len());
    let mut lines = format!("{mark}{}[{}]@{}", record.topic, record.partition, record.offset);
    if let Some(key) = &record.key {
        let _ = write!(lines, " key={}", escape(key)); // writing to a String can't fail
    }
    if !record.headers.is_empty() {
        let header = |(name, value): &(String, Option<Vec<u8>>)| {
            format!("{name}={}", value.as_deref().map_or("(null)".to_owned(), escape))
        };
        let headers: Vec<String> = record.headers.iter().map(header).collect();
        let _ = write!(lines, "\n{indent}  {}", headers.join("  "));
    }
    let value = record.value.as_deref().map_or("(no value)".to_owned(), escape);
    let _ = write!(lines, "\n{indent}  {value}");
    lines
}

/// Prints a line. A closed standard output is ignored.
pub fn print_line(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}

/// Replaces invalid UTF-8, escapes control characters and cuts long values.
pub fn escape(bytes: &[u8]) -> String {
    let mut escaped = String::new();
    for (count, c) in String::from_utf8_lossy(bytes).chars().enumerate() {
        if count == VALUE_CHARS {
            let _ = write!(escaped, "… ({} bytes)", bytes.len());
            break;
        }
        if c.is_control() { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_of_a_record_are_shown() {
        let record = Record {
            topic: "theater.movies".into(),
            partition: 3,
            offset: 7,
            key: Some(b"key".to_vec()),
            headers: vec![("ce_id".into(), Some(b"1".to_vec())), ("none".into(), None)],
            value: Some(b"{\"a\":1}".to_vec()),
        };
        assert_eq!(
            format_record(&record, "* "),
            "* theater.movies[3]@7 key=key\n    ce_id=1  none=(null)\n    {\"a\":1}"
        );
    }

    #[test]
    fn control_characters_are_escaped_and_long_values_cut() {
        assert_eq!(escape(b"a\x1b[2J\n\xff"), "a\\u{1b}[2J\\n\u{fffd}");
        assert!(escape(&[b'x'; 3000]).ends_with("x… (3000 bytes)"));
    }
}
