//! Glob patterns: `*` for any text, `?` for any one character, everything else for itself in either case.
//!
//! Source: appendices, "Glob-style matching"; client-server API, conditions for push rules.

/// The longest pattern that can match, in characters: matching takes time in proportion to it.
const PATTERN_CHARS_MAX: usize = 512;

/// A pattern, in lower case.
#[derive(Debug)]
pub(super) struct Glob {
    tokens: Vec<Token>,
    /// The pattern itself, if it has no wildcards.
    literal: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Character(char),
    AnyCharacter,
    AnyText,
}

impl Glob {
    /// `None` for a pattern that is too long to be matched.
    pub fn parse(pattern: &str) -> Option<Self> {
        let pattern = pattern.to_lowercase();
        let mut tokens = Vec::new();
        for character in pattern.chars() {
            match character {
                // Several in a row mean the same as one.
                '*' if tokens.last() == Some(&Token::AnyText) => {}
                '*' => tokens.push(Token::AnyText),
                '?' => tokens.push(Token::AnyCharacter),
                _ => tokens.push(Token::Character(character)),
            }
        }
        let literal = (!pattern.contains(['*', '?'])).then_some(pattern);
        (tokens.len() <= PATTERN_CHARS_MAX).then_some(Self { tokens, literal })
    }

    /// A pattern without wildcards, whatever characters `text`, which is in lower case, has.
    pub fn literal(text: String) -> Self {
        Self { tokens: text.chars().map(Token::Character).collect(), literal: Some(text) }
    }

    /// Whether the pattern is this text, in lower case and without wildcards.
    pub fn is_literally(&self, text: &str) -> bool {
        self.literal.as_deref() == Some(text)
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether the whole of `value` matches, in any case.
    pub fn matches(&self, value: &str) -> bool {
        match &self.literal {
            Some(literal) if literal.is_ascii() && value.is_ascii() => {
                value.eq_ignore_ascii_case(literal)
            }
            Some(literal) => value.to_lowercase() == *literal,
            None => self.search(&value.to_lowercase(), |at| at == Edge::Outer),
        }
    }

    /// Whether any part of `value`, which is in lower case, matches that begins and ends at the edge of a
    /// word.
    pub fn matches_words(&self, value: &str) -> bool {
        match &self.literal {
            Some(literal) if literal.is_empty() => value.is_empty(),
            Some(literal) => find_word(value, literal),
            None => self.search(value, |at| at != Edge::None),
        }
    }

    /// Runs over `value` once, with all positions in the pattern that are possible at a time. The match
    /// may begin and end where `is_edge` says.
    fn search(&self, value: &str, is_edge: impl Fn(Edge) -> bool) -> bool {
        let end = self.tokens.len();
        let mut active = vec![false; end + 1];
        let mut moved = active.clone();
        let mut before = None;
        let mut rest = value.chars();
        loop {
            let next = rest.next();
            let at_edge = is_edge(Edge::between(before, next));
            // A match of the whole value begins nowhere but in front.
            active[0] |= at_edge;
            for position in 0..end {
                if self.tokens[position] == Token::AnyText {
                    active[position + 1] |= active[position];
                }
            }
            if at_edge && active[end] && (next.is_none() || before.is_some()) {
                return true;
            }
            let Some(character) = next else {
                return false;
            };
            moved.fill(false);
            for (position, token) in self.tokens.iter().enumerate() {
                match token {
                    Token::AnyText => moved[position] |= active[position],
                    Token::AnyCharacter => moved[position + 1] |= active[position],
                    Token::Character(expected) => {
                        moved[position + 1] |= active[position] && *expected == character;
                    }
                }
            }
            std::mem::swap(&mut active, &mut moved);
            before = next;
        }
    }
}

/// What lies between two characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    /// The start or the end of the value.
    Outer,
    /// The start or the end of a word.
    Word,
    None,
}

impl Edge {
    fn between(before: Option<char>, after: Option<char>) -> Self {
        match (before, after) {
            (Some(before), Some(after)) if is_word(before) && is_word(after) => Self::None,
            (Some(_), Some(_)) => Self::Word,
            _ => Self::Outer,
        }
    }
}

/// Whether a character is part of a word (client-server API, conditions for push rules).
pub(super) fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

fn find_word(value: &str, word: &str) -> bool {
    value.match_indices(word).any(|(start, _)| {
        let end = start + word.len();
        let at_edge = |position: usize| {
            let (before, after) = value.split_at(position);
            Edge::between(before.chars().next_back(), after.chars().next()) != Edge::None
        };
        at_edge(start) && at_edge(end)
    })
}

#[cfg(test)]
mod tests {
    use super::Glob;

    #[test]
    fn whole_values_match_as_the_specification_shows() {
        let cases = [
            ("lunc?*", "Lunch plans", true),
            ("lunc?*", "LUNCH", true),
            ("lunc?*", " lunch", false),
            ("lunc?*", "lunc", false),
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("?", "", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("*a", "banana", true),
            ("*ana", "banana", true),
            ("STRASSE", "strasse", true),
            ("größe*", "GRÖSSE", false),
            ("größe*", "GRÖßE", true),
        ];
        for (pattern, value, expected) in cases {
            assert_eq!(Glob::parse(pattern).unwrap().matches(value), expected, "{pattern} {value}");
        }
    }

    #[test]
    fn words_match_as_the_specification_shows() {
        let cases = [
            ("ex*ple", "An example event.", true),
            ("ex*ple", "exple", true),
            ("ex*ple", "An exciting triple-whammy", true),
            ("ex*ple", "an examples", false),
            ("cake", "I like cake!", true),
            ("cake", "pancakes and cake", true),
            ("cake", "pancakes", false),
            ("cake", "cake_shop", false),
            ("ca?e", "a cave.", true),
            ("ca?e", "caves", false),
            ("!", "no!way", true),
            ("*", "anything", true),
            ("", "anything", false),
            ("café", "un café noir", true),
            ("a b", "xa b", false),
        ];
        for (pattern, value, expected) in cases {
            let matches = Glob::parse(pattern).unwrap().matches_words(&value.to_lowercase());
            assert_eq!(matches, expected, "{pattern} {value}");
        }
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let pattern = "*a".repeat(250);
        let value = "a".repeat(249) + &"b".repeat(60_000);
        assert!(!Glob::parse(&pattern).unwrap().matches(&value));
        assert!(Glob::parse(&"x".repeat(5_000)).is_none());
    }
}
