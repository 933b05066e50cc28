//! What a look at a room has found: a sentence for each difference, and the rows that would mend it.

use crate::storage::WriteTx;

/// Differences that are told of one room. More of them are counted.
const SENTENCES_MAX: usize = 50;

/// Differences and what mends them.
#[derive(Default)]
pub(super) struct Findings {
    sentences: Vec<String>,
    untold: usize,
    /// The rows that mend everything that was found, in one commit.
    pub tx: WriteTx,
    /// Whether everything was looked at: where something is wrong that the rest builds upon, it is not.
    pub is_whole: bool,
}

impl Findings {
    pub fn note(&mut self, sentence: impl Into<String>) {
        match self.sentences.len() < SENTENCES_MAX {
            true => self.sentences.push(sentence.into()),
            false => self.untold += 1,
        }
    }

    /// The sentences, with one more that counts those left out.
    pub fn tell(&mut self) -> Vec<String> {
        let mut sentences = std::mem::take(&mut self.sentences);
        if self.untold > 0 {
            sentences.push(format!("and {} further differences", self.untold));
        }
        sentences
    }
}
