//! The state of a room in view: what of it the client wants and does not have (MSC4186, "Changes
//! to `required_state`", "Lazy loaded memberships").

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Answer, Result, required_state::RoomConfig, sent_room::SentRoom, timeline::Timeline};
use crate::{
    rooms::{MEMBER, Room, State, StoredEvent, Viewer},
    storage::{EventNid, StateKeyNid},
};

/// Memberships remembered as sent per room; past that it begins anew.
const MEMBERS_MAX: usize = 4096;

type SentMembers = Arc<HashMap<StateKeyNid, EventNid>>;

/// What of a state is news to a client.
pub(super) struct StateNews {
    /// In the order of the room.
    pub required: Vec<Arc<StoredEvent>>,
    /// Whether these may differ from what the client knows.
    pub members: bool,
    pub name: bool,
    pub avatar: bool,
    /// The members that the client has been sent, then.
    pub sent_members: SentMembers,
}

/// The events that were found, by number, so that none is there twice.
type Found = BTreeMap<EventNid, Arc<StoredEvent>>;

impl Answer<'_> {
    /// Compares a state with what the client was told.
    pub(super) async fn find_state_news(
        &self,
        viewer: &Viewer,
        state: &State,
        sent: Option<&SentRoom>,
        config: &Arc<RoomConfig>,
        timeline: &Timeline,
    ) -> Result<StateNews> {
        let room = viewer.room();
        let mut found = Found::new();
        let mut news = StateNews {
            required: Vec::new(),
            members: sent.is_none(),
            name: sent.is_none(),
            avatar: sent.is_none(),
            sent_members: sent.map(|sent| Arc::clone(&sent.members)).unwrap_or_default(),
        };
        match sent {
            None => self.select_state(room, state, config, None, &mut found).await?,
            Some(sent) => {
                if sent.state_nid != state.nid() {
                    match self.inner.rooms.find_state(sent.state_nid).await? {
                        Some(told) => {
                            let changes = state.changed_since(&told);
                            let lazy = config.lazy_members() && !timeline.limited;
                            let config = (&**config, lazy);
                            self.select_changes(room, changes, config, &mut found, &mut news)
                                .await?;
                            // A change that is no addition is a removal.
                            news.members |= state.len() != told.len();
                        }
                        // Nothing names the state any more: all of the present one is news.
                        None => {
                            self.select_state(room, state, config, None, &mut found).await?;
                            news.members = true;
                        }
                    }
                }
                if sent.config != *config {
                    let told = Some(&*sent.config);
                    self.select_state(room, state, config, told, &mut found).await?;
                }
            }
        }
        if config.lazy_members() {
            self.add_members(room, state, timeline, &mut found, &mut news).await?;
        }
        news.required = found.into_values().collect();
        news.required.sort_by_key(|event| event.ordering());
        Ok(news)
    }

    /// Adds what is wanted of the changes.
    async fn select_changes(
        &self,
        room: &Room,
        changes: Vec<(StateKeyNid, EventNid)>,
        (config, with_members): (&RoomConfig, bool),
        found: &mut Found,
        news: &mut StateNews,
    ) -> Result<()> {
        let (members, others): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|(key, _)| key.is_membership());
        let others: Vec<EventNid> = others.into_iter().map(|(_, event)| event).collect();
        for event in self.inner.rooms.events().load(room.facts(), &others).await? {
            let key = event.event.state_key().unwrap_or_default();
            news.name |= event.event.is_state_of("m.room.name", "");
            news.avatar |= event.event.is_state_of("m.room.avatar", "");
            if config.wants(event.event.kind(), key) {
                found.insert(event.nid, event);
            }
        }
        news.members |= !members.is_empty();
        let mut wanted = Vec::new();
        if with_members || config.wants_all_members() {
            wanted = members.into_iter().map(|(_, event)| event).collect();
        } else if !members.is_empty() {
            for user in config.named_members() {
                let key = self.inner.rooms.keys().find_user(user).await?;
                let member = members.iter().find(|(changed, _)| Some(*changed) == key);
                wanted.extend(member.map(|(_, event)| *event));
            }
        }
        let members = self.inner.rooms.events().load(room.facts(), &wanted).await?;
        found.extend(members.into_iter().map(|event| (event.nid, event)));
        Ok(())
    }

    /// Adds what is wanted of a state, less what was wanted already.
    pub(super) async fn select_state(
        &self,
        room: &Room,
        state: &State,
        config: &RoomConfig,
        told: Option<&RoomConfig>,
        found: &mut Found,
    ) -> Result<()> {
        let rooms = &self.inner.rooms;
        let mut nids: Vec<EventNid> = Vec::new();
        match config.named_state() {
            Some(named) => {
                for (kind, state_key) in named {
                    let key = self.find_key(kind, state_key).await?;
                    nids.extend(key.and_then(|key| state.get(key)));
                }
            }
            None => {
                let others = state.iter().filter(|(key, _)| !key.is_membership());
                nids.extend(others.map(|(_, event)| event));
            }
        }
        if config.wants_all_members() {
            nids.extend(state.members().map(|(_, event)| event));
        } else {
            for user in config.named_members() {
                let key = self.find_key(MEMBER, user).await?;
                nids.extend(key.and_then(|key| state.get(key)));
            }
        }
        for event in rooms.events().load(room.facts(), &nids).await? {
            let (kind, key) = (event.event.kind(), event.event.state_key().unwrap_or_default());
            if config.wants(kind, key) && !told.is_some_and(|told| told.wants(kind, key)) {
                found.insert(event.nid, event);
            }
        }
        Ok(())
    }

    /// Adds the members that the timeline speaks of and the client was not sent.
    async fn add_members(
        &self,
        room: &Room,
        state: &State,
        timeline: &Timeline,
        found: &mut Found,
        news: &mut StateNews,
    ) -> Result<()> {
        let mut needed: BTreeMap<StateKeyNid, EventNid> = BTreeMap::new();
        for event in &timeline.events {
            let sender = self.inner.rooms.keys().find_user(event.event.sender().as_str()).await?;
            let target = event.state_key_nid.filter(|key| key.is_membership());
            for key in sender.into_iter().chain(target) {
                needed.extend(state.get(key).map(|member| (key, member)));
            }
        }
        needed.retain(|key, member| news.sent_members.get(key) != Some(member));
        let unsent: Vec<EventNid> =
            needed.values().copied().filter(|nid| !found.contains_key(nid)).collect();
        let members = self.inner.rooms.events().load(room.facts(), &unsent).await?;
        found.extend(members.into_iter().map(|event| (event.nid, event)));
        let told = found.values().filter_map(|event| Some((event.state_key_nid?, event.nid)));
        let told: Vec<_> = told.filter(|(key, _)| key.is_membership()).collect();
        if !told.is_empty() {
            let sent = Arc::make_mut(&mut news.sent_members);
            if sent.len() > MEMBERS_MAX {
                sent.clear();
            }
            sent.extend(told);
        }
        Ok(())
    }

    /// The number of a pair of type and state key.
    async fn find_key(&self, kind: &str, state_key: &str) -> Result<Option<StateKeyNid>> {
        let keys = self.inner.rooms.keys();
        if let Some(known) = keys.find_cached(kind, state_key) {
            return Ok(Some(known.nid));
        }
        let pair = (kind.to_owned(), state_key.to_owned());
        if self.absent_keys.lock().contains(&pair) {
            return Ok(None);
        }
        let found = keys.find(kind, state_key).await?;
        if found.is_none() {
            self.absent_keys.lock().insert(pair);
        }
        Ok(found.map(|key| key.nid))
    }
}
