//! Changes inputs a little at a time: bytes, numbers, words of the protocol, pieces of other inputs.

/// What the code under test looks at.
const WORDS: &[&str] = &[
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "{\"",
    "\":",
    "\\u0000",
    "\\ud800",
    "\\u",
    "\u{0}",
    "\u{fffd}",
    "\u{202e}",
    "-1",
    "1e400",
    "0.1",
    "-0",
    "1E2",
    "9007199254740991",
    "9007199254740992",
    "-9007199254740992",
    "18446744073709551616",
    "m.room.member",
    "m.room.create",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.third_party_invite",
    "m.room.redaction",
    "m.room.aliases",
    "\"join\"",
    "\"invite\"",
    "\"leave\"",
    "\"ban\"",
    "\"knock\"",
    "\"restricted\"",
    "\"membership\"",
    "\"type\"",
    "\"content\"",
    "\"state_key\"",
    "\"sender\"",
    "\"room_id\"",
    "\"prev_events\"",
    "\"auth_events\"",
    "\"depth\"",
    "\"hashes\"",
    "\"signatures\"",
    "\"users\"",
    "\"events\"",
    "\"redacts\"",
    "\"creator\"",
    "\"additional_creators\"",
    "\"m.federate\"",
    "\"join_authorised_via_users_server\"",
    "@alice:a.example",
    "@bob:b.example",
    "!room:a.example",
    "$event:a.example",
    "#alias:a.example",
    "a.example:8448",
    "[::1]:1",
    "mxc://",
    "ed25519:a",
    "*",
    "?",
    "\\.",
    "s1_2",
    "t-5",
];

/// The longest input; events may be 65,536 bytes, and what is longer fails for its length only.
const INPUT_BYTES_MAX: usize = 70_000;
/// Changes to one input.
const CHANGES_MAX: u64 = 6;

/// Repeats itself for the same seed and corpus.
pub struct Mutator(u64);

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A changed copy of one of the inputs.
    pub fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.choose(corpus).clone();
        for _ in 0..=self.roll(CHANGES_MAX) {
            self.change(&mut input, corpus);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.place(input.len() + 1);
        let end = at + self.place((input.len() - at).min(64) + 1);
        match self.roll(8) {
            0 if at < input.len() => input[at] ^= 1 << self.roll(8),
            1 if at < input.len() => input[at] = self.roll(256) as u8,
            2 => input.insert(at, self.roll(256) as u8),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                for _ in 0..=self.roll(4) {
                    input.splice(at..at, piece.iter().copied());
                }
            }
            5 => {
                let word = self.choose(WORDS);
                input.splice(at..at, word.bytes());
            }
            6 => {
                let word = self.choose(WORDS);
                input.splice(at..end, word.bytes());
            }
            _ => {
                let other = self.choose(corpus);
                let from = self.place(other.len() + 1);
                let to = from + self.place(other.len() - from + 1);
                input.splice(at..end, other[from..to].iter().copied());
            }
        }
    }

    fn choose<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.place(choices.len())]
    }

    fn place(&mut self, below: usize) -> usize {
        self.roll(below as u64) as usize
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}
