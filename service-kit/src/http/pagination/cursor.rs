//! Cursors: where a page ended, as text that only the same collection takes back, filtered and sorted as it
//! was. They are opaque, not secret: who forges one reads on from another place, and sees nothing else.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use crate::http::problem::Problem;

/// What two pages must have in common, so that one goes on where the other ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope(u64);

impl Scope {
    /// `filters` are everything that chooses or sorts the rows, each parameter at a place of its own.
    pub(super) fn new(collection: &str, filters: &[Option<&str>]) -> Self {
        // FNV-1a, 64 bits: the same in every replica and version. 0xff ends a part, and stands in no UTF-8.
        let mut hash = 0xcbf2_9ce4_8422_2325;
        let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        for part in [Some(collection)].iter().chain(filters) {
            add(u8::from(part.is_some()));
            part.unwrap_or_default().bytes().for_each(&mut add);
            add(0xff);
        }
        Self(hash)
    }

    /// URL-safe text.
    pub(super) fn encode<P: Serialize>(self, place: &P) -> String {
        let json =
            serde_json::to_string(&(format!("{:016x}", self.0), place)).expect("a place is plain data");
        URL_SAFE_NO_PAD.encode(json)
    }

    /// # Errors
    ///
    /// 400 for what was not given out here.
    pub(super) fn decode<P: Serialize + DeserializeOwned>(self, cursor: &str) -> Result<P, Problem> {
        let decode = || {
            let json = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
            let (_, place): (String, P) = serde_json::from_str(&json).ok()?;
            // One text per place and scope. No place holds NUL, which no database takes.
            (self.encode(&place) == cursor && !json.contains("\\u0000")).then_some(place)
        };
        decode().ok_or_else(foreign)
    }
}

/// What a cursor is told that was not given out here.
#[must_use]
pub fn foreign() -> Problem {
    Problem::bad_field("/cursor", "must be a cursor that this collection gave out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_belong_to_one_collection_and_its_filters() {
        let here = Scope::new("movie", &[Some("a"), None]);
        for seq in [0, 1, i64::MAX] {
            let cursor = here.encode(&seq);
            assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            assert_eq!(here.decode::<i64>(&cursor).unwrap(), seq);
            for (collection, filters) in [
                ("mov", vec![Some("a"), None]),
                ("movie", vec![None, Some("a")]),
                ("movie", vec![Some("b"), None]),
                ("movie", vec![Some("a"), Some("")]),
                ("movie", vec![Some("a")]),
                ("moviea", vec![None]),
            ] {
                let problem = Scope::new(collection, &filters).decode::<i64>(&cursor).unwrap_err();
                assert_eq!(problem.status(), 400, "{collection} {filters:?}");
            }
        }
    }

    #[test]
    fn the_same_cursor_in_every_version() {
        let cursor = Scope::new("movie", &[None]).encode(&7);
        assert_eq!(cursor, "WyJhY2ViOTU4MjE3ODk4MjcwIiw3XQ");
    }

    #[test]
    fn what_was_not_given_out_is_refused() {
        let here = Scope::new("movie", &[]);
        let forge = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let whole = here.encode(&("lalaland".to_owned(), 7));
        let json = String::from_utf8(URL_SAFE_NO_PAD.decode(&whole).unwrap()).unwrap();
        assert_eq!(here.decode::<(String, i64)>(&whole).unwrap(), ("lalaland".to_owned(), 7));
        for cursor in [
            String::new(),
            "x".into(),
            "%00".into(),
            format!("{whole}="),
            whole[..whole.len() - 1].into(),
            forge(&json.replace(",7", ",+7")),
            forge(&json.replace(",7", ",7.0")),
            forge(&json.replace(",7", ", 7")),
            forge(&json.replace(",7", ",99999999999999999999")),
            forge(&json.replace("lalaland", "\\u0000")),
            forge(&json.replace("\"lalaland\"", "7")),
            "A".repeat(60_000),
        ] {
            let problem = here.decode::<(String, i64)>(&cursor).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.errors()[0].pointer.as_str()), (400, "/cursor"));
        }
    }
}
