//! Cursors: the sort key of a page's last row, as text that is valid only for the same collection, filters and order.
//! Cursors are opaque, not secret: a forged one only starts the page elsewhere.

use std::hash::Hasher as _;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fnv::FnvHasher;
use serde::{Serialize, de::DeserializeOwned};

use crate::http::problem::Problem;

/// The hash of a collection, its filters and its order. A cursor is valid only in its own scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope(u64);

impl Scope {
    /// `filters` are the values of all parameters that select or sort the rows, in a fixed order.
    pub(super) fn new(collection: &str, filters: &[Option<&str>]) -> Self {
        // FNV-1a is the same in every replica and version. 0xff ends a part: it never occurs in UTF-8.
        let mut hasher = FnvHasher::default();
        for part in [Some(collection)].iter().chain(filters) {
            hasher.write(&[u8::from(part.is_some())]);
            hasher.write(part.unwrap_or_default().as_bytes());
            hasher.write(&[0xff]);
        }
        Self(hasher.finish())
    }

    /// Encodes a sort key as URL-safe text.
    pub(super) fn encode<K: Serialize>(self, sort_key: &K) -> String {
        let json =
            serde_json::to_string(&(format!("{:016x}", self.0), sort_key)).expect("a sort key is plain data");
        URL_SAFE_NO_PAD.encode(json)
    }

    /// # Errors
    ///
    /// 400 for a text that [`Scope::encode`] didn't return.
    pub(super) fn decode<K: Serialize + DeserializeOwned>(self, cursor: &str) -> Result<K, Problem> {
        let decode = || {
            let json = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
            let (_, sort_key): (String, K) = serde_json::from_str(&json).ok()?;
            // Each sort key has one text per scope. None contains NUL, which PostgreSQL doesn't store.
            (self.encode(&sort_key) == cursor && !json.contains("\\u0000")).then_some(sort_key)
        };
        decode().ok_or_else(invalid_cursor)
    }
}

/// The problem for a cursor that this collection didn't return.
#[must_use]
pub fn invalid_cursor() -> Problem {
    Problem::bad_field("/cursor", "must be a cursor that this collection gave out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_valid_for_one_collection_and_its_filters() {
        let scope = Scope::new("movie", &[Some("a"), None]);
        for seq in [0, 1, i64::MAX] {
            let cursor = scope.encode(&seq);
            assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            assert_eq!(scope.decode::<i64>(&cursor).unwrap(), seq);
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
    fn cursors_are_the_same_in_every_version() {
        let cursor = Scope::new("movie", &[None]).encode(&7);
        assert_eq!(cursor, "WyJhY2ViOTU4MjE3ODk4MjcwIiw3XQ");
    }

    #[test]
    fn forged_cursors_are_rejected() {
        let scope = Scope::new("movie", &[]);
        let forge = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let cursor = scope.encode(&("lalaland".to_owned(), 7));
        let json = String::from_utf8(URL_SAFE_NO_PAD.decode(&cursor).unwrap()).unwrap();
        assert_eq!(scope.decode::<(String, i64)>(&cursor).unwrap(), ("lalaland".to_owned(), 7));
        for forged in [
            String::new(),
            "x".into(),
            "%00".into(),
            format!("{cursor}="),
            cursor[..cursor.len() - 1].into(),
            forge(&json.replace(",7", ",+7")),
            forge(&json.replace(",7", ",7.0")),
            forge(&json.replace(",7", ", 7")),
            forge(&json.replace(",7", ",99999999999999999999")),
            forge(&json.replace("lalaland", "\\u0000")),
            forge(&json.replace("\"lalaland\"", "7")),
            "A".repeat(60_000),
        ] {
            let problem = scope.decode::<(String, i64)>(&forged).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.errors()[0].pointer.as_str()), (400, "/cursor"));
        }
    }
}
