//! Numbers that stand for identifiers inside the house, each kind a type of its own.

use super::{Cell, Param};

macro_rules! nids {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name(pub i64);

            impl From<$name> for Cell {
                fn from(nid: $name) -> Self {
                    Self::Int(nid.0)
                }
            }

            impl From<$name> for Param {
                fn from(nid: $name) -> Self {
                    Self::Int(nid.0)
                }
            }
        )*
    };
}

nids! {
    /// A room, from 1.
    RoomNid
    /// An event, from 1, in order of arrival.
    EventNid
    /// A pair of event type and state key, from 2; odd for `m.room.member`.
    StateKeyNid
    /// A snapshot of a room's state, from 1; 0 is the empty state.
    StateNid
}

impl StateNid {
    pub const EMPTY: Self = Self(0);
}

impl StateKeyNid {
    /// Whether the key is a membership, in which case it also stands for the user.
    pub fn is_membership(self) -> bool {
        self.0 & 1 == 1
    }
}

/// A user, by the state key of their membership. A type alias, since it is the same number.
pub type UserNid = StateKeyNid;
