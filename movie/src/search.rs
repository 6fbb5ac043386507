//! What a movie is found by, and in which order movies are shown.
//!
//! The service decides what a word is, not the database, so that it is the same on every server, whatever its
//! version and locale: letters and digits, transliterated to ASCII and in lower case. `Amélie`, `AMELIE` and
//! `Ame\u{301}lie` are one word; `Straße` is `strasse`, `Сталкер` is `stalker`.

use deunicode::deunicode_char;
use serde::{Deserialize, Serialize};

/// How alike the letters of a word and of a part of a name must be, so that one may be the other with a typing
/// error: trigrams that both have, of all that either has.
pub const SIMILAR: (&str, &str) = ("pg_trgm.strict_word_similarity_threshold", "0.4");

/// Shorter words are too alike anyway. So are numbers, and the next one is no typing error.
const SIMILAR_LETTERS_MIN: usize = 4;

/// Only so many words of a query may have typing errors: each costs a look into a second index.
const SIMILAR_WORDS_MAX: usize = 8;

/// A longer word is cut, in texts and queries alike, so that one finds the other. PostgreSQL takes 2046 bytes.
const WORD_MAX: usize = 64;

/// A longer name is cut, so that it fits an index entry. 200 letters of most scripts are shorter.
const NAME_MAX: usize = 1_000;

/// The words of a text, in their order.
pub fn words(text: &str) -> Vec<String> {
    let mut spelled = String::with_capacity(text.len());
    for c in text.chars() {
        let ascii = deunicode_char(c).unwrap_or(" ");
        if ascii.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
            // A sign that is a word of its own, as Chinese has them, ends in a space.
            let begins = ascii.ends_with(' ') && !c.is_ascii();
            spelled.extend(begins.then_some(' '));
            spelled.push_str(ascii);
        } else if c.is_ascii() || !(ascii.is_empty() || c.is_alphabetic()) {
            spelled.push(' ');
        }
        // What is left belongs to the letter before: an accent that stands alone, a soft sign.
    }
    let words = spelled.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word[..word.len().min(WORD_MAX)].to_ascii_lowercase()).collect()
}

/// What a movie is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub name: String,
    pub words: Vec<String>,
}

impl Text {
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

/// What is asked for: every one of these words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    words: Vec<String>,
}

/// How one movie's text must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Words that begin so: PostgreSQL's text search.
    Words(String),
    /// The same of one word, or a part of the name is like it.
    WordOrSimilar(String, String),
}

impl Query {
    pub fn new(text: &str) -> Self {
        let mut words = words(text);
        let mut seen = std::collections::HashSet::new();
        words.retain(|word| seen.insert(word.clone()));
        Self { words }
    }

    /// All of them must hold; text without any word finds nothing, and has none.
    pub fn conditions(&self) -> Vec<Condition> {
        let long = |word: &&String| {
            word.len() >= SIMILAR_LETTERS_MIN && !word.bytes().all(|byte| byte.is_ascii_digit())
        };
        let similar: Vec<_> = self.words.iter().filter(long).take(SIMILAR_WORDS_MAX).collect();
        let exact: Vec<_> =
            self.words.iter().filter(|word| !similar.contains(word)).map(|word| begins(word)).collect();
        let exact = (!exact.is_empty()).then(|| Condition::Words(exact.join(" & ")));
        let similar = similar.into_iter().map(|word| Condition::WordOrSimilar(begins(word), word.clone()));
        exact.into_iter().chain(similar).collect()
    }

    /// The words again.
    pub fn text(&self) -> String {
        self.words.join(" ")
    }
}

/// As PostgreSQL's type `tsquery` is written. A word has nothing that could be an operator or a quote.
fn begins(word: &str) -> String {
    format!("'{word}':*")
}

/// How movies are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Newest,
    /// By the name's words, and of two the same the older first.
    Name,
    /// The most tickets left first.
    Qty,
    /// The name that is most like the query first.
    Relevance,
}

impl Sort {
    pub const ALL: [Self; 4] = [Self::Newest, Self::Name, Self::Qty, Self::Relevance];

    /// As the query says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Name => "name",
            Self::Qty => "qty",
            Self::Relevance => "relevance",
        }
    }
}

/// Where a movie stands in its sort, down to its `seq`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    Newest(i64),
    Name(String, i64),
    Qty(i64, i64),
    Relevance(i64, i64),
}

impl Place {
    pub const fn sort(&self) -> Sort {
        match self {
            Self::Newest(..) => Sort::Newest,
            Self::Name(..) => Sort::Name,
            Self::Qty(..) => Sort::Qty,
            Self::Relevance(..) => Sort::Relevance,
        }
    }
}

/// Which movies are to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub query: Option<Query>,
    /// So many tickets left, at least.
    pub min_qty: i64,
    pub sort: Sort,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(text: &str) -> String {
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
            assert_eq!(spelled(text), expected, "{text:?}");
        }
    }

    #[test]
    fn long_words_are_cut_alike() {
        let long = "x".repeat(4_000);
        assert_eq!(words(&long), ["x".repeat(64)]);
        assert_eq!(Query::new(&long[..200]).words, Text::new("", &long).words);
    }

    #[test]
    fn names_fit_an_index_entry() {
        // The longest that a sign becomes, and as many as a name may have.
        let longest = ('\0'..=char::MAX).max_by_key(|c| deunicode_char(*c).map_or(0, str::len));
        let name = longest.unwrap().to_string().repeat(200);
        assert!(Text::new(&name, "").name.len() <= NAME_MAX);
    }

    /// Whatever text there is: nothing but words of letters and digits, so nothing but queries that are well-formed.
    #[test]
    fn every_sign_is_taken() {
        for c in '\0'..=char::MAX {
            for word in words(&format!("a{c}b")) {
                let plain = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
                assert!(plain && (1..=WORD_MAX).contains(&word.len()), "{c:?}: {word:?}");
            }
        }
    }

    #[test]
    fn queries_ask_for_every_word() {
        let conditions = |text| Query::new(text).conditions();
        assert_eq!(conditions("?!"), []);
        assert_eq!(conditions("2001"), [Condition::Words("'2001':*".into())]);
        assert_eq!(conditions("la la of"), [Condition::Words("'la':* & 'of':*".into())]);
        assert_eq!(
            conditions("the Musical"),
            [
                Condition::Words("'the':*".into()),
                Condition::WordOrSimilar("'musical':*".into(), "musical".into()),
            ]
        );
        let many: Vec<_> = (1000..1100).map(|n| format!("n{n}")).collect();
        assert_eq!(conditions(&many.join(" ")).len(), 1 + SIMILAR_WORDS_MAX);
    }
}
