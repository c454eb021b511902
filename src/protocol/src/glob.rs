//! Globs as the specification knows them: `*` for any run of characters, `?` for exactly one.
//!
//! No character classes, no escapes, no path separators. Matching is iterative and never worse than the
//! product of the two lengths, so a hostile pattern costs little.

/// A pattern, prepared once and matched often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    pattern: Vec<char>,
    case_sensitive: bool,
}

impl Glob {
    /// A pattern that tells upper from lower case.
    pub fn new(pattern: &str) -> Self {
        Self { pattern: pattern.chars().collect(), case_sensitive: true }
    }

    /// A pattern that does not.
    pub fn new_ignoring_case(pattern: &str) -> Self {
        Self { pattern: pattern.to_lowercase().chars().collect(), case_sensitive: false }
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> =
            if self.case_sensitive { text.chars().collect() } else { text.to_lowercase().chars().collect() };
        matches(&self.pattern, &text)
    }
}

fn matches(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to resume when a literal fails: after the last star, one character further in the text.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&want) if want == '?' || want == c => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    p = after_star;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_and_question_mark_match_as_specified() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("?", "", false),
            ("?", "é", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("*.example.org", "matrix.example.org", true),
            ("*.example.org", "example.org", false),
            ("a?c", "abc", true),
            ("a?c", "abbc", false),
            ("", "", true),
            ("", "a", false),
            ("**a**", "bab", true),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn case_is_ignored_only_when_asked() {
        assert!(Glob::new_ignoring_case("*.Example.ORG").matches("a.exAMPLE.org"));
        assert!(!Glob::new("*.Example.ORG").matches("a.example.org"));
    }

    #[test]
    fn hostile_pattern_stays_cheap() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!Glob::new(&pattern).matches(&"a".repeat(2_000)));
    }
}
