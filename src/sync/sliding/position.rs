//! `pos`: where a connection stands.

use std::{fmt, str::FromStr};

/// `pos`, as `s<position>_<volatile>_<connection>_<generation>`. `/messages` and `/relations` take
/// it as they take the tokens of `/sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The stream position up to which the client was told what it asked for.
    pub position: i64,
    /// The epoch of typing that the client has seen.
    pub volatile: u64,
    /// The connection that it belongs to.
    pub connection: i64,
    /// How many answers of this connection had told something by then.
    pub generation: i64,
}

/// The text is no position of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the position is not one that this server gave out")]
pub struct MalformedPosition;

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, volatile, connection, generation } = self;
        write!(formatter, "s{position}_{volatile}_{connection}_{generation}")
    }
}

impl FromStr for Position {
    type Err = MalformedPosition;

    fn from_str(text: &str) -> Result<Self, MalformedPosition> {
        let digits = text.strip_prefix('s').ok_or(MalformedPosition)?;
        let parts: Vec<&str> = digits.split('_').collect();
        let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let [position, volatile, connection, generation] = parts.as_slice() else {
            return Err(MalformedPosition);
        };
        if !parts.iter().all(is_number) {
            return Err(MalformedPosition);
        }
        Ok(Self {
            position: position.parse().map_err(|_| MalformedPosition)?,
            volatile: volatile.parse().map_err(|_| MalformedPosition)?,
            connection: connection.parse().map_err(|_| MalformedPosition)?,
            generation: generation.parse().map_err(|_| MalformedPosition)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_the_round_trip() {
        let position = Position { position: 12, volatile: 7, connection: 3, generation: 1 };
        assert_eq!(position.to_string().parse(), Ok(position));
        for text in ["", "s", "s1_2", "s1_2_3", "s1_2_3_-4", "t1_2_3_4", "s1_2_3_4_5", "s1__3_4"] {
            assert_eq!(text.parse::<Position>(), Err(MalformedPosition), "{text}");
        }
    }
}
