//! Where a sync ended: a position of the stream, and the epoch of what is volatile.

use std::{fmt, str::FromStr};

/// `next_batch` and `since`, as `s<position>_<epoch>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// The stream position that the client has seen.
    pub position: i64,
    /// The epoch of typing and presence that the client has seen.
    pub volatile: u64,
}

/// The text is no token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is not one that this server gave out")]
pub struct UnknownToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s{}_{}", self.position, self.volatile)
    }
}

impl FromStr for SyncToken {
    type Err = UnknownToken;

    fn from_str(text: &str) -> Result<Self, UnknownToken> {
        let digits = text.strip_prefix('s').ok_or(UnknownToken)?;
        let (position, volatile) = digits.split_once('_').unwrap_or((digits, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !is_number(position) || !is_number(volatile) {
            return Err(UnknownToken);
        }
        let position = position.parse().map_err(|_| UnknownToken)?;
        let volatile = volatile.parse().map_err(|_| UnknownToken)?;
        Ok(Self { position, volatile })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip() {
        let token = SyncToken { position: 12, volatile: 7 };
        assert_eq!(token.to_string().parse(), Ok(token));
        for text in ["", "s", "x12_7", "s12_", "s-1_0", "12_7", "s1_2_3"] {
            assert_eq!(text.parse::<SyncToken>(), Err(UnknownToken), "{text}");
        }
    }
}
