//! Where a sync ended: a position of the stream, the epoch of what is volatile, and how far messages
//! to the device and sticky events went where there were too many for one answer.

use std::{fmt, str::FromStr};

/// `next_batch` and `since`, as `s<position>_<epoch>`, or `s<position>_<epoch>_<to_device>` when
/// messages to the device lag behind; either with `.<sticky>` behind it when sticky events do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// The stream position that the client has seen.
    pub position: i64,
    /// The epoch of typing and presence that the client has seen.
    pub volatile: u64,
    /// The position up to which the device has its messages; at most `position`.
    pub to_device: i64,
    /// The position up to which the client has sticky events (MSC4354); at most `position`.
    pub sticky: i64,
}

/// The text is no token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is not one that this server gave out")]
pub struct UnknownToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s{}_{}", self.position, self.volatile)?;
        if self.to_device != self.position {
            write!(formatter, "_{}", self.to_device)?;
        }
        match self.sticky == self.position {
            true => Ok(()),
            false => write!(formatter, ".{}", self.sticky),
        }
    }
}

impl FromStr for SyncToken {
    type Err = UnknownToken;

    fn from_str(text: &str) -> Result<Self, UnknownToken> {
        let digits = text.strip_prefix('s').ok_or(UnknownToken)?;
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let (digits, sticky) = match digits.split_once('.') {
            Some((digits, sticky)) if is_number(sticky) => (digits, Some(sticky)),
            Some(_) => return Err(UnknownToken),
            None => (digits, None),
        };
        let parts: Vec<&str> = digits.split('_').collect();
        if parts.len() > 3 || !parts.iter().all(|part| is_number(part)) {
            return Err(UnknownToken);
        }
        let number = |at: usize| parts.get(at).map(|part| part.parse::<i64>()).transpose();
        let number = |at: usize| number(at).map_err(|_| UnknownToken);
        let position = number(0)?.ok_or(UnknownToken)?;
        let volatile = number(1)?.unwrap_or(0).cast_unsigned();
        let to_device = number(2)?.unwrap_or(position).min(position);
        let sticky = sticky.map(str::parse).transpose().map_err(|_| UnknownToken)?;
        let sticky = sticky.unwrap_or(position).min(position);
        Ok(Self { position, volatile, to_device, sticky })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip() {
        let token = SyncToken { position: 12, volatile: 7, to_device: 12, sticky: 12 };
        assert_eq!(token.to_string(), "s12_7");
        assert_eq!(token.to_string().parse(), Ok(token));
        let token = SyncToken { to_device: 9, ..token };
        assert_eq!(token.to_string().parse(), Ok(token));
        for token in
            [SyncToken { sticky: 5, ..token }, SyncToken { sticky: 0, to_device: 12, ..token }]
        {
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        for text in
            ["", "s", "x12_7", "s12_", "s-1_0", "12_7", "s1_2_", "s1_2_3_4", "s1_2.", "s1_2.3.4"]
        {
            assert_eq!(text.parse::<SyncToken>(), Err(UnknownToken), "{text}");
        }
    }
}
