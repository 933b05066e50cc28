//! Words of texts, for the search: how a text falls into terms, and whether a text has what somebody
//! looks for. Pure. Not for who may see what, nor for keeping terms.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

/// Terms of one event; what comes after them is not found.
const TERMS_MAX: usize = 2_000;
/// Terms that one search looks for.
const QUERY_TERMS_MAX: usize = 64;

/// A part of a text: a word, or a run of letters of a script that does not part its words
/// (Chinese, Japanese, Thai …) or glues particles to them (Korean).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Word(String),
    Run(String),
}

/// What somebody looks for.
#[derive(Clone, Debug)]
pub struct SearchQuery {
    parts: Vec<Part>,
}

/// The hashes of all terms of a text.
pub fn hash_terms(text: &str) -> BTreeSet<i64> {
    let mut terms = BTreeSet::new();
    for part in split(text) {
        if terms.len() >= TERMS_MAX {
            break;
        }
        match part {
            Part::Word(word) => {
                terms.insert(hash(&word));
            }
            Part::Run(run) => {
                terms.extend(grams(&run, 1).map(hash));
                terms.extend(grams(&run, 2).map(hash));
            }
        }
    }
    terms
}

impl SearchQuery {
    pub fn parse(text: &str) -> Self {
        let mut parts = split(text);
        parts.sort();
        parts.dedup();
        Self { parts }
    }

    /// The hashes of terms that a text must have; none when nothing can be looked for.
    pub fn terms(&self) -> Vec<i64> {
        let mut terms = BTreeSet::new();
        for part in &self.parts {
            match part {
                Part::Word(word) => {
                    terms.insert(hash(word));
                }
                Part::Run(run) if run.chars().nth(1).is_none() => {
                    terms.insert(hash(run));
                }
                Part::Run(run) => terms.extend(grams(run, 2).map(hash)),
            }
        }
        terms.into_iter().take(QUERY_TERMS_MAX).collect()
    }

    /// How well a text fits: 0 when it does not have all that is looked for, and more the more
    /// often and the closer together it has it.
    pub fn rank(&self, text: &str) -> f64 {
        let found = split(text);
        let mut hits = 0;
        for part in &self.parts {
            let count = match part {
                Part::Word(_) => found.iter().filter(|other| *other == part).count(),
                Part::Run(run) => found.iter().filter(|other| other.contains_run(run)).count(),
            };
            if count == 0 {
                return 0.0;
            }
            hits += count;
        }
        hits as f64 / (found.len() as f64).sqrt()
    }

    /// The words as clients highlight them.
    pub fn highlights(&self) -> Vec<String> {
        let text = |part: &Part| match part {
            Part::Word(text) | Part::Run(text) => text.clone(),
        };
        self.parts.iter().map(text).collect()
    }
}

impl Part {
    fn contains_run(&self, run: &str) -> bool {
        matches!(self, Self::Run(text) if text.contains(run))
    }
}

/// The words and runs of a text, in lower case, in order.
fn split(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut current = String::new();
    let mut in_run = false;
    let mut finish = |current: &mut String, in_run: bool| {
        if !current.is_empty() {
            let text = std::mem::take(current);
            parts.push(if in_run { Part::Run(text) } else { Part::Word(text) });
        }
    };
    for letter in text.chars().map(narrow).flat_map(char::to_lowercase) {
        let unspaced = is_unspaced(letter);
        if !unspaced && !letter.is_alphanumeric() {
            finish(&mut current, in_run);
            continue;
        }
        if unspaced != in_run {
            finish(&mut current, in_run);
            in_run = unspaced;
        }
        current.push(letter);
    }
    finish(&mut current, in_run);
    parts
}

/// Full-width Latin letters, digits and signs as their usual forms.
fn narrow(letter: char) -> char {
    match letter {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(letter as u32 - 0xfee0).unwrap_or(letter),
        _ => letter,
    }
}

/// Whether the letter's script does not part words by spaces, or not only.
fn is_unspaced(letter: char) -> bool {
    matches!(letter,
        // Han, with its iteration marks.
        '\u{3005}'..='\u{3007}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}'
        // Hiragana and Katakana, with the mark of long vowels.
        | '\u{3041}'..='\u{3096}' | '\u{309d}'..='\u{309f}' | '\u{30a1}'..='\u{30fa}'
        | '\u{30fc}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{ff66}'..='\u{ff9f}'
        // Hangul.
        | '\u{1100}'..='\u{11ff}' | '\u{3130}'..='\u{318f}' | '\u{ac00}'..='\u{d7ff}'
        // Thai, Lao, Burmese, Khmer.
        | '\u{0e01}'..='\u{0e4e}' | '\u{0e81}'..='\u{0ecd}' | '\u{1000}'..='\u{103f}'
        | '\u{1780}'..='\u{17d3}')
}

/// All pieces of `length` letters.
fn grams(run: &str, length: usize) -> impl Iterator<Item = &str> {
    let starts = run.char_indices().map(|(at, _)| at);
    let ends = run.char_indices().map(|(at, letter)| at + letter.len_utf8()).skip(length - 1);
    starts.zip(ends).map(|(start, end)| &run[start..end])
}

fn hash(term: &str) -> i64 {
    let digest = Sha256::digest(term.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, query: &str, expect: bool) {
        let query = SearchQuery::parse(query);
        let terms = hash_terms(text);
        let has_terms = query.terms().iter().all(|term| terms.contains(term));
        assert_eq!(has_terms && query.rank(text) > 0.0, expect, "{query:?} in {text}");
    }

    #[test]
    fn words_are_found_whole_in_any_case() {
        check("Martians and men", "martians MEN", true);
        check("Martians and men", "martian", false);
        check("Ünder „Größe\"", "grösse", false);
        check("Ünder „Größe\"", "größe ÜNDER", true);
        check("don't", "don't", true);
        check("ＡＢＣ１", "abc1", true);
    }

    #[test]
    fn scripts_without_spaces_are_found_by_any_part() {
        check("今天天气很好", "天气", true);
        check("今天天气很好", "好", true);
        check("今天天气很好", "天好", false);
        check("東京タワーへ行きました", "タワー", true);
        check("東京タワーへ行きました", "京タ", true);
        check("회의는 내일입니다", "내일", true);
        check("회의는 내일입니다", "회의 내일", true);
        check("ไปกินข้าวกัน", "ข้าว", true);
        check("Matrix测试room", "测试 room", true);
    }

    #[test]
    fn whoever_says_it_more_often_ranks_higher() {
        let query = SearchQuery::parse("tea");
        assert!(query.rank("tea tea") > query.rank("tea with milk"));
        assert!(query.rank("tea") > query.rank("some long text about tea and nothing else"));
        assert!(SearchQuery::parse("?! …").terms().is_empty());
    }
}
