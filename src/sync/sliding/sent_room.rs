//! What a connection was told of one room.

use std::{collections::HashMap, sync::Arc};

use super::required_state::RoomConfig;
use crate::{
    protocol::membership::Membership,
    storage::{EventNid, StateKeyNid, StateNid, StorageError},
};

/// The client has every event from the room's first on.
pub const WHOLE_TIMELINE: u32 = u32::MAX;

/// What the client knows of a room.
#[derive(Clone, Debug)]
pub struct SentRoom {
    /// The stream position up to which it was told.
    pub upto: i64,
    pub membership: Membership,
    /// The state that it was told of; what differs from it is news.
    pub state_nid: StateNid,
    /// What was asked for then.
    pub config: Arc<RoomConfig>,
    /// How many of the latest events it has without a gap, or [`WHOLE_TIMELINE`].
    pub timeline_length: u32,
    pub is_dm: bool,
    /// Notifications and highlights.
    pub counts: (i64, i64),
    /// Stream positions up to which it has receipts and account data; 0 for none.
    pub receipts_upto: i64,
    pub account_data_upto: i64,
    /// The epoch of what it was told of typing. In memory only: nobody types over a restart.
    pub typing: u64,
    /// Members that it was sent because the timeline needed them. In memory only: to be sent one
    /// again does no harm.
    pub members: Arc<HashMap<StateKeyNid, EventNid>>,
}

impl SentRoom {
    /// As a row has it; `config` is the number of its config.
    pub fn to_text(&self, config: i64) -> String {
        let Self { upto, state_nid, timeline_length, counts, .. } = self;
        let membership = number_of(self.membership);
        let (receipts, data) = (self.receipts_upto, self.account_data_upto);
        format!(
            "{upto} {membership} {} {config} {timeline_length} {} {} {} {receipts} {data}",
            state_nid.0,
            u8::from(self.is_dm),
            counts.0,
            counts.1,
        )
    }

    /// Reads a row.
    pub fn from_text(text: &str, configs: &[(i64, Arc<RoomConfig>)]) -> Result<Self, StorageError> {
        let damaged = || StorageError::Damaged(format!("what a connection was told: {text}"));
        let numbers: Result<Vec<i64>, _> = text.split(' ').map(str::parse).collect();
        let numbers: [i64; 10] =
            numbers.map_err(|_| damaged())?.try_into().map_err(|_| damaged())?;
        let [
            upto,
            membership,
            state,
            config,
            length,
            is_dm,
            notifications,
            highlights,
            receipts,
            data,
        ] = numbers;
        let config = configs.iter().find(|(number, _)| *number == config);
        Ok(Self {
            upto,
            membership: membership_of(membership).ok_or_else(damaged)?,
            state_nid: StateNid(state),
            config: Arc::clone(&config.ok_or_else(damaged)?.1),
            timeline_length: u32::try_from(length).map_err(|_| damaged())?,
            is_dm: is_dm != 0,
            counts: (notifications, highlights),
            receipts_upto: receipts,
            account_data_upto: data,
            typing: 0,
            members: Arc::default(),
        })
    }
}

const MEMBERSHIPS: [Membership; 5] =
    [Membership::Join, Membership::Invite, Membership::Knock, Membership::Leave, Membership::Ban];

fn number_of(membership: Membership) -> usize {
    MEMBERSHIPS.iter().position(|one| *one == membership).unwrap_or_default()
}

fn membership_of(number: i64) -> Option<Membership> {
    usize::try_from(number).ok().and_then(|number| MEMBERSHIPS.get(number)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back() {
        let config = Arc::new(RoomConfig::default());
        let sent = SentRoom {
            upto: 12,
            membership: Membership::Leave,
            state_nid: StateNid(3),
            config: Arc::clone(&config),
            timeline_length: WHOLE_TIMELINE,
            is_dm: true,
            counts: (4, 1),
            receipts_upto: 11,
            account_data_upto: 0,
            typing: 9,
            members: Arc::default(),
        };
        let read = SentRoom::from_text(&sent.to_text(7), &[(7, config)]).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", SentRoom { typing: 0, ..sent }));
        assert!(SentRoom::from_text("1 2 3", &[]).is_err());
    }
}
