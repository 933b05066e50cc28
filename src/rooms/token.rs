//! Places in a room between two events, as clients carry them: `from`, `to`, `start`, `end`,
//! `prev_batch`. Not for positions in the stream of everything (`sync` has its own tokens).

use std::fmt;

use super::{event_store::StoredEvent, timeline::ordering_of_position};

/// A place between two events of a room: everything up to `ordering` is older, the rest newer.
///
/// Written as `t<ordering>`, and as `t<ordering>_<position>` where it came with an answer that
/// shows the room up to a stream position. A token of `/sync` (`s<position>_…`) is understood too:
/// it is the place after the room's last event that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageToken {
    ordering: i64,
    position: Option<i64>,
}

impl PageToken {
    /// Older than every event.
    pub const START: Self = Self::of_ordering(i64::MIN);
    /// Newer than every event.
    pub const END: Self = Self::of_ordering(i64::MAX - 1);

    /// The place right before an event.
    pub fn before(event: &StoredEvent) -> Self {
        Self::of_ordering(event.ordering() - 1)
    }

    /// The place right after an event.
    pub fn after(event: &StoredEvent) -> Self {
        Self::of_ordering(event.ordering())
    }

    /// The place above which everything is newer.
    pub const fn of_ordering(ordering: i64) -> Self {
        Self { ordering, position: None }
    }

    /// The place right after what has this place in the room.
    pub fn at(ordering: i64) -> Self {
        Self::of_ordering(ordering)
    }

    /// The same place, in an answer that shows the room up to a stream position.
    pub fn seen_at(self, position: i64) -> Self {
        Self { position: Some(position), ..self }
    }

    /// The place where the room stood when the client got the token, if that is known: what a
    /// client means when it asks for the members `at` the `prev_batch` of a sync.
    pub fn moment(self) -> Self {
        self.position.map_or(self, Self::of_position)
    }

    /// The place after everything that a stream position covers.
    pub fn of_position(position: i64) -> Self {
        Self::of_ordering(ordering_of_position(position))
    }

    /// Reads what a client sent; `None` if it is no token of this server.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(ordering) = text.strip_prefix('t') {
            let (ordering, position) = match ordering.split_once('_') {
                Some((ordering, position)) => (ordering, Some(position.parse().ok()?)),
                None => (ordering, None),
            };
            if position.is_some_and(|position: i64| position < 0) {
                return None;
            }
            return ordering.parse().ok().map(|ordering| Self { ordering, position });
        }
        let position = text.strip_prefix('s')?.split('_').next()?;
        position.parse().ok().filter(|position| *position >= 0).map(Self::of_position)
    }

    /// The place in the room up to which events are older, inclusive.
    pub fn ordering(self) -> i64 {
        self.ordering
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "t{}", self.ordering)?;
        self.position.map_or(Ok(()), |position| write!(formatter, "_{position}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::ORDERING_STEP;

    #[test]
    fn tokens_are_read_back() {
        let places = [0, -7, 1 << 40].map(PageToken::of_ordering);
        for token in places.into_iter().chain([PageToken::END, places[1].seen_at(9)]) {
            assert_eq!(PageToken::parse(&token.to_string()), Some(token));
        }
        let place = PageToken::of_ordering(5 * ORDERING_STEP);
        assert_eq!(PageToken::parse("s5_1_2"), Some(place));
        assert_eq!(PageToken::parse("s5"), Some(place));
        assert_eq!(PageToken::parse("t-3_5").map(PageToken::moment), Some(place));
        for text in ["", "t", "s", "x5", "t5x", "s-1", "s_1", "5", "t5_", "t5_-1", "t_5"] {
            assert_eq!(PageToken::parse(text), None, "{text}");
        }
    }
}
