//! Reservations as CSV (RFC 4180): UTF-8, commas, CRLF, a header row first. Pure.
//!
//! Customers choose their ids and vendors name their movies, but another person opens the file in a spreadsheet, which
//! would run a cell that begins like a formula. Such a cell gets a leading `'`. So does a cell that begins with `'`:
//! taking one leading `'` away always restores the value (<https://owasp.org/www-community/attacks/CSV_Injection>). The
//! `csv` crate quotes cells, but doesn't escape formulas.

use std::borrow::Cow;

use csv::{Terminator, WriterBuilder};

use crate::projection::Reservation;

/// The `Content-Type` of a download.
pub const MEDIA_TYPE: &str = "text/csv; charset=utf-8; header=present";

const COLUMNS: [&str; 7] = ["reserveId", "reserveStatus", "userId", "movieId", "movieName", "count", "date"];

/// The characters that begin a formula in some spreadsheet, full-width ones included; and the escape itself.
const ESCAPED_FIRST_CHARS: [char; 12] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠', '\''];

/// The first row.
pub fn header() -> Vec<u8> {
    encode([COLUMNS.map(Cow::Borrowed)])
}

/// A row for each reservation.
pub fn rows(reservations: &[Reservation]) -> Vec<u8> {
    encode(reservations.iter().map(|reservation| {
        [
            reservation.id.to_string().into(),
            reservation.status.as_str().into(),
            escape_formula(&reservation.user_id),
            reservation.movie_id.to_string().into(),
            escape_formula(reservation.movie_name.as_deref().unwrap_or_default()),
            reservation.count.get().to_string().into(),
            escape_formula(&reservation.date),
        ]
    }))
}

fn encode<'a>(rows: impl IntoIterator<Item = [Cow<'a, str>; 7]>) -> Vec<u8> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new());
    for row in rows {
        writer.write_record(row.iter().map(|cell| cell.as_bytes())).expect("writing to memory can't fail");
    }
    writer.into_inner().expect("writing to memory can't fail")
}

fn escape_formula(value: &str) -> Cow<'_, str> {
    if value.starts_with(ESCAPED_FIRST_CHARS) { format!("'{value}").into() } else { value.into() }
}

#[cfg(test)]
mod tests {
    use csv::ReaderBuilder;
    use proptest::prelude::*;
    use shared_events::{Count, MovieId, ReservationId};
    use uuid::Uuid;

    use super::*;
    use crate::projection::Status;

    fn reservation(user_id: &str, movie_name: Option<&str>) -> Reservation {
        Reservation {
            id: ReservationId(Uuid::nil()),
            status: Status::Confirmed,
            user_id: user_id.to_owned(),
            movie_id: MovieId(Uuid::max()),
            movie_name: movie_name.map(str::to_owned),
            count: Count::new(45).unwrap(),
            date: "2026-12-24".to_owned(),
        }
    }

    fn line(user_id: &str, movie_name: Option<&str>) -> String {
        let line = String::from_utf8(rows(&[reservation(user_id, movie_name)])).unwrap();
        let line = line.replace(&Uuid::nil().to_string(), "R").replace(&Uuid::max().to_string(), "M");
        line.strip_suffix("\r\n").unwrap().to_owned()
    }

    #[test]
    fn rows_are_encoded_as_lines() {
        assert_eq!(header(), b"reserveId,reserveStatus,userId,movieId,movieName,count,date\r\n");
        assert_eq!(line("7", Some("LALALand")), "R,CONFIRMED,7,M,LALALand,45,2026-12-24");
        assert_eq!(line("7", None), "R,CONFIRMED,7,M,,45,2026-12-24");
        assert_eq!(
            line("O\"Neill, Jane", Some("Two\r\nlines")),
            "R,CONFIRMED,\"O\"\"Neill, Jane\",M,\"Two\r\nlines\",45,2026-12-24"
        );
        assert_eq!(rows(&[]), b"");
    }

    #[test]
    fn no_cell_begins_a_formula() {
        for value in ["=1+1", "+1", "-1", "@SUM(A1)", "＝1", "'"] {
            assert_eq!(line(value, None), format!("R,CONFIRMED,'{value},M,,45,2026-12-24"));
        }
        assert_eq!(line("\t=1", Some("\r=1")), "R,CONFIRMED,'\t=1,M,\"'\r=1\",45,2026-12-24");
        assert_eq!(line("1=1", Some("it's")), "R,CONFIRMED,1=1,M,it's,45,2026-12-24");
    }

    proptest! {
        #[test]
        fn removing_one_quote_restores_the_value(values: Vec<(String, String)>) {
            let reservations: Vec<_> =
                values.iter().map(|(user, movie)| reservation(user, Some(movie))).collect();
            let file = [header(), rows(&reservations)].concat();
            let read = ReaderBuilder::new().from_reader(file.as_slice()).into_records();
            let unescape = |cell: &str| cell.strip_prefix('\'').unwrap_or(cell).to_owned();
            let read: Vec<_> =
                read.map(|row| row.map(|row| (unescape(&row[2]), unescape(&row[4]))).unwrap()).collect();
            prop_assert_eq!(read, values);
        }
    }
}
