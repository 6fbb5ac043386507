//! The words by which a movie is found, queries for them, and the orders in which movies are listed.
//!
//! The service decides what a word is, not the database, so the result doesn't depend on the server's version and locale. A
//! word consists of letters and digits, transliterated to ASCII and in lower case. `Amélie`, `AMELIE` and
//! `Ame\u{301}lie` are one word; `Straße` is `strasse`, `Сталкер` is `stalker`.

use deunicode::deunicode_char;
use serde::{Deserialize, Serialize};

/// The session setting that says how similar a word and a part of a name must be to count as a match in spite of a typing
/// error: the trigrams that both have, as a share of those that either has.
pub const SIMILARITY_THRESHOLD: (&str, &str) = ("pg_trgm.strict_word_similarity_threshold", "0.4");

/// Only words of this length or longer may have typing errors. Shorter ones are too similar anyway. Numbers may not have
/// any: they are similar too, and the next number is not a typing error.
const SIMILAR_CHARS_MIN: usize = 4;

/// The most words of a query that may have typing errors: each costs a lookup in a second index.
const SIMILAR_WORDS_MAX: usize = 8;

/// Longer words are truncated, in texts and queries alike, so that a query finds them. PostgreSQL accepts 2046 bytes.
const WORD_MAX: usize = 64;

/// Longer names are truncated, so that they fit an index entry. 200 letters of most scripts are shorter.
const NAME_MAX: usize = 1_000;

/// Splits a text into its words, in their order.
pub fn words(text: &str) -> Vec<String> {
    let mut transliterated = String::with_capacity(text.len());
    for c in text.chars() {
        let ascii = deunicode_char(c).unwrap_or(" ");
        if ascii.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
            // A character that is a word of its own, as in Chinese, is transliterated with a space at its end.
            let is_word = ascii.ends_with(' ') && !c.is_ascii();
            transliterated.extend(is_word.then_some(' '));
            transliterated.push_str(ascii);
        } else if c.is_ascii() || !(ascii.is_empty() || c.is_alphabetic()) {
            transliterated.push(' ');
        }
        // Other characters belong to the letter before them: a combining accent, a soft sign.
    }
    let words = transliterated.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word[..word.len().min(WORD_MAX)].to_ascii_lowercase()).collect()
}

/// The text by which a movie is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchText {
    /// The words of the name, in their order.
    pub name: String,
    /// The words of name and description, sorted and without duplicates.
    pub words: Vec<String>,
}

impl SearchText {
    pub fn new(name: &str, description: &str) -> Self {
        let mut words = words(name);
        let mut name = words.join(" ");
        name.truncate(NAME_MAX);
        words.extend(self::words(description));
        words.sort_unstable();
        words.dedup();
        Self { name, words }
    }
}

/// A search for movies that match every one of these words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextQuery {
    words: Vec<String>,
}

/// A condition on the search text of one movie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The text has words with these prefixes (a `tsquery`).
    Prefixes(String),
    /// The text has a word with this prefix (a `tsquery`), or a part of the name is similar to this word.
    PrefixOrSimilar(String, String),
}

impl TextQuery {
    pub fn new(text: &str) -> Self {
        let mut words = words(text);
        let mut seen = std::collections::HashSet::new();
        words.retain(|word| seen.insert(word.clone()));
        Self { words }
    }

    /// The conditions, all of which must hold. A query without a word has none, and finds nothing.
    pub fn conditions(&self) -> Vec<Condition> {
        let may_have_errors = |word: &&String| {
            word.len() >= SIMILAR_CHARS_MIN && !word.bytes().all(|byte| byte.is_ascii_digit())
        };
        let similar: Vec<_> = self.words.iter().filter(may_have_errors).take(SIMILAR_WORDS_MAX).collect();
        let exact: Vec<_> =
            self.words.iter().filter(|word| !similar.contains(word)).map(|word| prefix(word)).collect();
        let exact = (!exact.is_empty()).then(|| Condition::Prefixes(exact.join(" & ")));
        let similar = similar.into_iter().map(|word| Condition::PrefixOrSimilar(prefix(word), word.clone()));
        exact.into_iter().chain(similar).collect()
    }

    /// The words, separated by spaces.
    pub fn text(&self) -> String {
        self.words.join(" ")
    }
}

/// A `tsquery` for words with this prefix. A word contains nothing that could be an operator or a quote.
fn prefix(word: &str) -> String {
    format!("'{word}':*")
}

/// How movies are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Newest,
    /// By the name's words; of two movies with the same name the older first.
    Name,
    /// The most tickets left first.
    Qty,
    /// The name that is most similar to the query first.
    Relevance,
}

impl Sort {
    pub const ALL: [Self; 4] = [Self::Newest, Self::Name, Self::Qty, Self::Relevance];

    /// The value of the query parameter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Name => "name",
            Self::Qty => "qty",
            Self::Relevance => "relevance",
        }
    }
}

/// A movie's position in a sorted list, as stored in a cursor. It ends with the movie's `seq`, so it is unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CursorPosition {
    Newest(i64),
    Name(String, i64),
    Qty(i64, i64),
    Relevance(i64, i64),
}

impl CursorPosition {
    pub const fn sort(&self) -> Sort {
        match self {
            Self::Newest(..) => Sort::Newest,
            Self::Name(..) => Sort::Name,
            Self::Qty(..) => Sort::Qty,
            Self::Relevance(..) => Sort::Relevance,
        }
    }
}

/// Which movies are listed, and in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    pub text: Option<TextQuery>,
    /// The fewest tickets that are left.
    pub min_qty: i64,
    pub sort: Sort,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(text: &str) -> String {
        words(text).join(" ")
    }

    #[test]
    fn words_are_without_case_and_accents() {
        for (text, expected) in [
            ("LALALand", "lalaland"),
            ("Amélie", "amelie"),
            ("Ame\u{301}lie", "amelie"),
            ("AME\u{301}LIE", "amelie"),
            ("Die Straße, DIE STRASSE", "die strasse die strasse"),
            ("Müller Ärger Über", "muller arger uber"),
            ("Ænima Œuvre Ødegård Łódź", "aenima oeuvre odegard lodz"),
            ("İstanbul ISTANBUL ıstanbul", "istanbul istanbul istanbul"),
            ("2001: A Space Odyssey", "2001 a space odyssey"),
            ("Spider-Man/Hulk", "spider man hulk"),
            ("l’amour l'amour", "l amour l amour"),
            ("Сталкер", "stalker"),
            ("Фильм", "film"),
            ("北京", "bei jing"),
            ("LA北京", "la bei jing"),
            ("① ½ Ⅳ ﬁlm", "1 1 2 iv film"),
            ("a\u{200d}b\u{ad}c", "abc"),
            ("nbsp\u{a0}here\u{3000}there", "nbsp here there"),
            (" \t\r\n!?…«»“”—·", ""),
            ("\u{10ffff}\u{e000}", ""),
            ("", ""),
        ] {
            assert_eq!(normalized(text), expected, "{text:?}");
        }
    }

    #[test]
    fn long_words_are_truncated_in_texts_and_queries() {
        let long = "x".repeat(4_000);
        assert_eq!(words(&long), ["x".repeat(64)]);
        assert_eq!(TextQuery::new(&long[..200]).words, SearchText::new("", &long).words);
    }

    #[test]
    fn names_fit_an_index_entry() {
        // The character with the longest transliteration, as many times as a name may have characters.
        let longest = ('\0'..=char::MAX).max_by_key(|c| deunicode_char(*c).map_or(0, str::len));
        let name = longest.unwrap().to_string().repeat(200);
        assert!(SearchText::new(&name, "").name.len() <= NAME_MAX);
    }

    /// Any text becomes words of letters and digits only, so every query is well-formed.
    #[test]
    fn every_character_is_accepted() {
        for c in '\0'..=char::MAX {
            for word in words(&format!("a{c}b")) {
                let plain = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
                assert!(plain && (1..=WORD_MAX).contains(&word.len()), "{c:?}: {word:?}");
            }
        }
    }

    #[test]
    fn queries_ask_for_every_word() {
        let conditions = |text| TextQuery::new(text).conditions();
        assert_eq!(conditions("?!"), []);
        assert_eq!(conditions("2001"), [Condition::Prefixes("'2001':*".into())]);
        assert_eq!(conditions("la la of"), [Condition::Prefixes("'la':* & 'of':*".into())]);
        assert_eq!(
            conditions("the Musical"),
            [
                Condition::Prefixes("'the':*".into()),
                Condition::PrefixOrSimilar("'musical':*".into(), "musical".into()),
            ]
        );
        let many: Vec<_> = (1000..1100).map(|n| format!("n{n}")).collect();
        assert_eq!(conditions(&many.join(" ")).len(), 1 + SIMILAR_WORDS_MAX);
    }
}
