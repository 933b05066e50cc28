//! Which rooms a request is about: its lists, ordered by activity and filtered, with their ranges,
//! and its subscriptions (MSC4186, "Lists and subscriptions").

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Answer, Result, request::Filters, required_state::RoomConfig, room_traits::Departure};
use crate::{
    protocol::{invite_permission::InviteVerdict, membership::Membership},
    rooms::{UserRoom, UserRooms},
    storage::{EventNid, RoomNid},
};

/// The rooms that an answer is about.
pub(super) struct Windows {
    /// The lists' names and how many rooms pass their filters.
    pub counts: Vec<(String, usize)>,
    pub rooms: Vec<RoomInView>,
    /// Rooms that pass the filters of a list, in its range or not, and those that are subscribed to.
    pub wanted: HashSet<RoomNid>,
}

/// A room that is in a list's range or subscribed to.
pub(super) struct RoomInView {
    pub place: UserRoom,
    pub config: Arc<RoomConfig>,
    /// Indexes into [`Windows::counts`].
    pub lists: Vec<usize>,
    pub is_subscribed: bool,
}

/// A room of the user's, as lists see it.
struct Candidate {
    place: UserRoom,
    /// The position of the latest event that the user has access to.
    activity: i64,
}

/// A list's filters, with what they need looked up once.
struct Sieve<'a> {
    filters: &'a Filters,
    /// The children of the spaces it names.
    children: Option<Vec<Arc<HashSet<Box<str>>>>>,
    /// In lower case.
    name_like: Option<String>,
}

impl Windows {
    /// The names of the lists that a room is in.
    pub fn names_of<'a>(&'a self, room: &RoomInView) -> Vec<&'a str> {
        room.lists.iter().map(|index| self.counts[*index].0.as_str()).collect()
    }
}

impl Answer<'_> {
    pub(super) async fn find_windows(&self, rooms: &UserRooms) -> Result<Windows> {
        let body = &self.request.body;
        let mut windows = Windows { counts: Vec::new(), rooms: Vec::new(), wanted: HashSet::new() };
        let notes_wanted = body.extensions.sticky_events.is_some();
        let mut in_view: HashMap<RoomNid, usize> = HashMap::new();
        let candidates = match body.lists.is_empty() {
            true => Vec::new(),
            false => self.list_candidates(rooms).await?,
        };
        for (name, list) in &body.lists {
            let sieve = self.make_sieve(rooms, &list.filters).await?;
            let config = self.make_config(&list.room);
            let (mut count, number) = (0, windows.counts.len());
            for candidate in candidates.iter().filter(|one| self.passes(one, &sieve)) {
                count += 1;
                if notes_wanted {
                    windows.wanted.insert(candidate.place.room.nid);
                }
                if !list.covers(count - 1) {
                    continue;
                }
                let room = windows.enter(&mut in_view, &candidate.place, &config, self);
                room.lists.push(number);
            }
            windows.counts.push((name.clone(), count));
        }
        for (room_id, wish) in &body.room_subscriptions {
            let Ok(room_id) = ruma::RoomId::parse(room_id) else { continue };
            let Some(room) = self.inner.rooms.find(&room_id).await? else { continue };
            // Who never had anything to do with the room learns nothing of it.
            let Some(place) = rooms.find(room.nid).filter(|place| !place.forgotten) else {
                continue;
            };
            if self.is_seen(&place).await? {
                let config = self.make_config(wish);
                windows.enter(&mut in_view, &place, &config, self).is_subscribed = true;
                windows.wanted.insert(place.room.nid);
            }
        }
        Ok(windows)
    }

    fn make_config(&self, wish: &super::request::RoomRequest) -> Arc<RoomConfig> {
        let limit = usize::try_from(wish.timeline_limit).unwrap_or(usize::MAX);
        let limit = limit.min(self.inner.settings.timeline_limit_max);
        let user = &self.request.user_id;
        self.connection.intern(RoomConfig::new(limit, &wish.required_state, user))
    }

    /// The user's rooms, the latest active first.
    async fn list_candidates(&self, rooms: &UserRooms) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        let mut left = Vec::new();
        rooms.for_each(|place| match place.membership {
            _ if place.forgotten => {}
            Membership::Join => candidates.push(Candidate {
                activity: place.room.head().latest_position,
                place: place.clone(),
            }),
            Membership::Invite | Membership::Knock => {
                candidates.push(Candidate { activity: place.position, place: place.clone() });
            }
            Membership::Leave | Membership::Ban => left.push(place.clone()),
        });
        if !self.ignored_users.is_empty() || !self.invite_permission.takes_all() {
            let mut kept = Vec::with_capacity(candidates.len());
            for candidate in candidates {
                if self.is_seen(&candidate.place).await? {
                    kept.push(candidate);
                }
            }
            candidates = kept;
        }
        let leaves: Vec<EventNid> = left.iter().map(|place| place.event).collect();
        let departures = self.inner.traits.departures(&self.inner.rooms, &leaves).await?;
        for (place, departure) in left.into_iter().zip(departures) {
            if self.shows_left(&place, departure) {
                candidates.push(Candidate { activity: place.position, place });
            }
        }
        candidates
            .sort_unstable_by_key(|one| (std::cmp::Reverse(one.activity), one.place.room.nid));
        Ok(candidates)
    }

    /// Rooms that the user was removed from are shown; others that they left until the client knows.
    fn shows_left(&self, place: &UserRoom, departure: Departure) -> bool {
        if departure.was_removed && departure.was_joined {
            return true;
        }
        self.resumed.rooms.get(&place.room.nid).is_some_and(|sent| {
            !matches!(sent.membership, Membership::Leave | Membership::Ban)
                || sent.upto < place.position
        })
    }

    /// Invitations from ignored users are not shown, nor those that the user does not take
    /// (client-server API, "Ignoring Users", "Invite permission").
    async fn is_seen(&self, place: &UserRoom) -> Result<bool> {
        let takes_all = self.ignored_users.is_empty() && self.invite_permission.takes_all();
        if place.membership != Membership::Invite || takes_all {
            return Ok(true);
        }
        let (events, room) = (self.inner.rooms.events(), &place.room);
        let invite = events.load_one(room.facts(), place.event).await?;
        let sender = invite.event.sender();
        let is_taken = self.invite_permission.judge(sender) == InviteVerdict::Take;
        Ok(is_taken && !self.ignored_users.contains(sender))
    }

    async fn make_sieve<'f>(&self, rooms: &UserRooms, filters: &'f Filters) -> Result<Sieve<'f>> {
        let mut children = None;
        for space_id in filters.spaces.iter().flatten() {
            let children = children.get_or_insert_with(Vec::new);
            let Some(space) = self.inner.rooms.find(space_id).await? else { continue };
            if rooms.find(space.nid).is_some_and(|place| place.is_joined()) {
                children.push(self.inner.traits.children(&self.inner.rooms, &space).await?);
            }
        }
        // Without any space nothing is in one.
        let children = children.or_else(|| filters.spaces.is_some().then(Vec::new));
        let name_like = filters.room_name_like.as_ref().map(|text| text.to_lowercase());
        Ok(Sieve { filters, children, name_like })
    }

    fn passes(&self, candidate: &Candidate, sieve: &Sieve<'_>) -> bool {
        let filters = sieve.filters;
        if *filters == Filters::default() {
            return true;
        }
        let (place, room_id) = (&candidate.place, candidate.place.room.room_id.as_str());
        let is = |wanted: Option<bool>, found: bool| wanted.is_none_or(|wanted| wanted == found);
        let is_child = |children: &Vec<Arc<HashSet<Box<str>>>>| {
            children.iter().any(|children| children.contains(room_id))
        };
        is(filters.is_invite, place.membership == Membership::Invite)
            && is(filters.is_dm, self.data.is_direct(room_id))
            && sieve.children.as_ref().is_none_or(is_child)
            && self.passes_tags(room_id, filters)
            && self.passes_traits(place, sieve)
    }

    fn passes_tags(&self, room_id: &str, filters: &Filters) -> bool {
        if filters.tags.is_none() && filters.not_tags.is_none() {
            return true;
        }
        let tags = self.data.tags(room_id);
        let has_one = |wanted: &Vec<String>| wanted.iter().any(|tag| tags.contains(tag));
        filters.tags.as_ref().is_none_or(has_one) && !filters.not_tags.as_ref().is_some_and(has_one)
    }

    fn passes_traits(&self, place: &UserRoom, sieve: &Sieve<'_>) -> bool {
        let filters = sieve.filters;
        if filters.is_encrypted.is_none()
            && filters.room_types.is_none()
            && filters.not_room_types.is_none()
            && sieve.name_like.is_none()
        {
            return true;
        }
        let traits = self.inner.traits.of(&place.room, &place.room.head());
        let holds = |types: &Vec<Option<String>>| types.contains(&traits.room_type);
        let name = || traits.name.as_deref().unwrap_or_default().to_lowercase();
        filters.is_encrypted.is_none_or(|wanted| wanted == traits.is_encrypted)
            && filters.room_types.as_ref().is_none_or(holds)
            && !filters.not_room_types.as_ref().is_some_and(holds)
            && sieve.name_like.as_ref().is_none_or(|like| name().contains(like))
    }
}

impl Windows {
    /// The room with what is wanted of it, once.
    fn enter(
        &mut self,
        in_view: &mut HashMap<RoomNid, usize>,
        place: &UserRoom,
        config: &Arc<RoomConfig>,
        answer: &Answer<'_>,
    ) -> &mut RoomInView {
        let index = *in_view.entry(place.room.nid).or_insert_with(|| {
            self.rooms.push(RoomInView {
                place: place.clone(),
                config: Arc::clone(config),
                lists: Vec::new(),
                is_subscribed: false,
            });
            self.rooms.len() - 1
        });
        let room = &mut self.rooms[index];
        if !Arc::ptr_eq(&room.config, config) {
            room.config = answer.connection.intern(room.config.join(config));
        }
        room
    }
}
