//! Places in a room between two events, as clients carry them: `from`, `to`, `start`, `end`,
//! `prev_batch`. Not for positions in the stream of everything (`sync` has its own tokens).

use std::fmt;

use super::{event_store::StoredEvent, timeline::ordering_of_position};

/// A place between two events of a room: everything up to `ordering` is older, the rest newer.
///
/// Written as `t<ordering>`. A token of `/sync` (`s<position>_…`) is understood too: it is the
/// place after the room's last event that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageToken(i64);

impl PageToken {
    /// Older than every event.
    pub const START: Self = Self(i64::MIN);
    /// Newer than every event.
    pub const END: Self = Self(i64::MAX - 1);

    /// The place right before an event.
    pub fn before(event: &StoredEvent) -> Self {
        Self(event.ordering() - 1)
    }

    /// The place right after an event.
    pub fn after(event: &StoredEvent) -> Self {
        Self(event.ordering())
    }

    /// The place above which everything is newer.
    pub fn of_ordering(ordering: i64) -> Self {
        Self(ordering)
    }

    /// The place right after what has this place in the room.
    pub fn at(ordering: i64) -> Self {
        Self(ordering)
    }

    /// The place after everything that a stream position covers.
    pub fn of_position(position: i64) -> Self {
        Self(ordering_of_position(position))
    }

    /// Reads what a client sent; `None` if it is no token of this server.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(ordering) = text.strip_prefix('t') {
            return ordering.parse().ok().map(Self);
        }
        let position = text.strip_prefix('s')?.split('_').next()?;
        position.parse().ok().filter(|position| *position >= 0).map(Self::of_position)
    }

    /// The place in the room up to which events are older, inclusive.
    pub fn ordering(self) -> i64 {
        self.0
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "t{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::ORDERING_STEP;

    #[test]
    fn tokens_are_read_back() {
        for token in [PageToken(0), PageToken(-7), PageToken(1 << 40), PageToken::END] {
            assert_eq!(PageToken::parse(&token.to_string()), Some(token));
        }
        assert_eq!(PageToken::parse("s5_1_2"), Some(PageToken(5 * ORDERING_STEP)));
        assert_eq!(PageToken::parse("s5"), Some(PageToken(5 * ORDERING_STEP)));
        for text in ["", "t", "s", "x5", "t5x", "s-1", "s_1", "5"] {
            assert_eq!(PageToken::parse(text), None, "{text}");
        }
    }
}
