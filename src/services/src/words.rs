//! The words of a text, as the searches for messages and for users compare them: small letters, without accents, one by one.
//!
//! No language is assumed: nothing is stemmed and nothing is left out as too common. Scripts that put no spaces between words
//! (Chinese, Japanese, Thai and others) are taken apart into their characters; a search then looks for them in a row.

use tantivy::tokenizer::{AsciiFoldingFilter, TextAnalyzer, Token, TokenStream, Tokenizer};

/// Longest word in characters; of longer ones, only the beginning counts.
const WORD_CHARS_MAX: usize = 64;

/// Characters that stand on letters: accents written apart from them.
const ACCENTS: std::ops::RangeInclusive<char> = '\u{300}'..='\u{36f}';

/// Blocks of scripts without spaces: Thai, Lao, Myanmar, Khmer, kana, Han.
const UNSPACED: [std::ops::RangeInclusive<char>; 8] = [
    '\u{e00}'..='\u{eff}',
    '\u{1000}'..='\u{109f}',
    '\u{1780}'..='\u{17ff}',
    '\u{3040}'..='\u{30ff}',
    '\u{3400}'..='\u{4dbf}',
    '\u{4e00}'..='\u{9fff}',
    '\u{f900}'..='\u{faff}',
    '\u{20000}'..='\u{3ffff}',
];

fn is_unspaced(char: char) -> bool {
    UNSPACED.iter().any(|block| block.contains(&char))
}

fn is_part_of_word(char: char) -> bool {
    char.is_alphanumeric() || ACCENTS.contains(&char)
}

/// Takes texts apart for the index of messages, and for [`words`].
pub(crate) fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(Words::default()).filter(AsciiFoldingFilter).build()
}

/// The words of a text, each with the bytes of the text it stands for.
pub(crate) fn words_with_places(text: &str) -> Vec<(String, std::ops::Range<usize>)> {
    let mut words = Vec::new();
    let mut analyzer = analyzer();
    let mut stream = analyzer.token_stream(text);
    stream.process(&mut |token| words.push((token.text.clone(), token.offset_from..token.offset_to)));
    words
}

/// The words of a text.
pub(crate) fn words(text: &str) -> Vec<String> {
    words_with_places(text).into_iter().map(|(word, _)| word).collect()
}

#[derive(Clone, Default)]
struct Words {
    token: Token,
}

struct WordStream<'a> {
    text: &'a str,
    /// Bytes of the text that have been read.
    read: usize,
    token: &'a mut Token,
}

impl Tokenizer for Words {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        self.token.reset();
        WordStream { text, read: 0, token: &mut self.token }
    }
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        self.token.text.clear();
        self.token.position = self.token.position.wrapping_add(1);
        let mut count = 0;
        let mut chars = self.text.get(self.read..).unwrap_or_default().char_indices();
        let start = self.read;
        for (offset, char) in &mut chars {
            let at = start + offset;
            let end = at + char.len_utf8();
            let begins = count == 0;
            if !is_part_of_word(char) || (!begins && is_unspaced(char)) {
                self.read = at;
                if !begins {
                    return true;
                }
                self.read = end;
                continue;
            }
            if begins {
                self.token.offset_from = at;
            }
            self.token.offset_to = end;
            self.read = end;
            count += 1;
            if count <= WORD_CHARS_MAX && !ACCENTS.contains(&char) {
                self.token.text.extend(char.to_lowercase());
            }
            if is_unspaced(char) {
                return true;
            }
        }
        count > 0
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn french_words_are_found_without_their_accents_and_apart_from_their_articles() {
        assert_eq!(words("L'Été à l'École, Œuvre"), ["l", "ete", "a", "l", "ecole", "oeuvre"]);
        assert_eq!(words("e\u{301}te\u{301}"), ["ete"], "accents written apart count like others");
    }

    #[test]
    fn scripts_without_spaces_are_taken_apart() {
        assert_eq!(words("東京tower"), ["東", "京", "tower"]);
        assert_eq!(words("ab東"), ["ab", "東"]);
    }

    #[test]
    fn words_know_where_they_stand() {
        assert_eq!(words_with_places("à, bé!"), [("a".to_owned(), 0..2), ("be".to_owned(), 4..7)]);
        assert!(words(" .,- ").is_empty());
    }

    #[test]
    fn of_endless_words_only_the_beginning_counts() {
        let long = "x".repeat(1_000);
        assert_eq!(words(&long), ["x".repeat(WORD_CHARS_MAX)]);
    }
}
