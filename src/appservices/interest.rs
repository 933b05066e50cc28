//! Which services an event concerns (application-service API, "Registration"): those that claim its
//! room, one of the room's aliases, a joined member of this server or the target of the event.
//!
//! What a room means to each service is remembered with the state for which it holds; for the next
//! state only what changed is looked at, so that a message costs no look at a namespace.

use std::sync::Arc;

use quick_cache::sync::Cache;
use ruma::UserId;

use super::registration::Service;
use crate::{
    protocol::membership::Membership,
    rooms::{MEMBER, Room, Rooms, State, StoredEvent},
    storage::{EventNid, RoomNid, StateNid, StorageError, UserNid, aliases, appservices},
};

/// Rooms that are remembered.
const ROOMS_MAX: usize = 10_000;
/// Members whose names are read at once.
const MEMBERS_STEP: usize = 1000;
/// Beyond so many changed memberships, all are looked through instead.
const CHANGES_MAX: usize = 200;

/// Decides for some services. It follows events in the order of the stream.
pub struct Interests {
    rooms: Rooms,
    services: Vec<Arc<Service>>,
    known: Cache<RoomNid, RoomInterest>,
    /// Rises when aliases change anywhere; see [`AliasEpoch`].
    aliases: AliasEpoch,
}

/// Counts changes of aliases, which are no part of the stream. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct AliasEpoch(Arc<std::sync::atomic::AtomicU64>);

/// What a room means to the services, in their order.
#[derive(Clone)]
struct RoomInterest {
    state: StateNid,
    alias_epoch: u64,
    /// Those for the room's ID and aliases, whatever the state.
    by_name: Arc<[Claim]>,
    claims: Arc<[Claim]>,
}

/// Why a room concerns a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    None,
    /// For its ID, for ever.
    Room,
    Alias,
    /// For this joined member, by this event.
    Member(UserNid, EventNid),
}

impl AliasEpoch {
    /// To be called after an alias was made or removed.
    pub fn advance(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
    }

    fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }
}

impl Interests {
    pub fn new(rooms: Rooms, services: Vec<Arc<Service>>, aliases: AliasEpoch) -> Self {
        Self { rooms, services, known: Cache::new(ROOMS_MAX), aliases }
    }

    /// The services, by their place among all, that an event concerns.
    pub async fn of_event(
        &self,
        room: &Room,
        event: &StoredEvent,
    ) -> Result<Vec<usize>, StorageError> {
        let known = self.of_state(room, event.state_nid).await?;
        let target = Some(&event.event).filter(|event| event.kind() == MEMBER);
        let target = target.and_then(|event| <&UserId>::try_from(event.state_key()?).ok());
        let concerns = |number: &usize| {
            known.claims[*number] != Claim::None
                || target.is_some_and(|target| self.services[*number].covers_user(target))
        };
        Ok((0..self.services.len()).filter(concerns).collect())
    }

    /// Whether the room, as it is now, concerns the first service.
    pub async fn is_in(&self, room: &Room) -> Result<bool, StorageError> {
        let known = self.of_state(room, room.head().state.nid()).await?;
        Ok(known.claims.first().is_some_and(|claim| *claim != Claim::None))
    }

    /// Whether a user is one of the first service's, or in a room that concerns it.
    pub async fn concerns_user(&self, user: &UserId) -> Result<bool, StorageError> {
        if self.services.first().is_some_and(|service| service.covers_user(user)) {
            return Ok(true);
        }
        let rooms = self.rooms.rooms_of(user).await?;
        for place in rooms.list_joined() {
            if self.is_in(&place.room).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the room concerned the first service before this event.
    pub async fn was_in(&self, room: &Room, event: &StoredEvent) -> Result<bool, StorageError> {
        let known = self.of_state(room, event.state_nid).await?;
        Ok(known.claims.first().is_some_and(|claim| *claim != Claim::None))
    }

    async fn of_state(&self, room: &Room, state: StateNid) -> Result<RoomInterest, StorageError> {
        let alias_epoch = self.aliases.get();
        let before = self.known.get(&room.nid);
        if let Some(known) = &before
            && known.state == state
            && known.alias_epoch == alias_epoch
        {
            return Ok(known.clone());
        }
        let by_name = match &before {
            Some(before) if before.alias_epoch == alias_epoch => Arc::clone(&before.by_name),
            _ => self.claims_by_name(room).await?.into(),
        };
        let mut claims = by_name.to_vec();
        match before {
            Some(before) => self.keep_members(room, &before, state, &mut claims).await?,
            None => {
                let state = self.rooms.load_state(state).await?;
                self.find_members(room, &state, &mut claims).await?;
            }
        }
        let known = RoomInterest { state, alias_epoch, by_name, claims: claims.into() };
        self.known.insert(room.nid, known.clone());
        Ok(known)
    }

    /// Claims by the room's ID and its aliases.
    async fn claims_by_name(&self, room: &Room) -> Result<Vec<Claim>, StorageError> {
        let by_id = |service: &Arc<Service>| match service
            .namespaces
            .rooms
            .matches(room.room_id.as_str())
        {
            true => Claim::Room,
            false => Claim::None,
        };
        let mut claims: Vec<Claim> = self.services.iter().map(by_id).collect();
        if self.services.iter().all(|service| service.namespaces.aliases.is_empty()) {
            return Ok(claims);
        }
        for row in aliases::list_of_room(self.rooms.database(), room.nid).await? {
            for (claim, service) in claims.iter_mut().zip(&self.services) {
                if *claim == Claim::None && service.namespaces.aliases.matches(&row.alias) {
                    *claim = Claim::Alias;
                }
            }
        }
        Ok(claims)
    }

    /// Goes from the state before to the one after: members who are still there still count, and
    /// of all others only those whose membership changed are looked at.
    async fn keep_members(
        &self,
        room: &Room,
        before: &RoomInterest,
        after: StateNid,
        claims: &mut [Claim],
    ) -> Result<(), StorageError> {
        let member = |claim: &Claim| match claim {
            Claim::Member(user, event) => Some((*user, *event)),
            _ => None,
        };
        let (users, joins): (Vec<_>, Vec<_>) = before.claims.iter().filter_map(member).unzip();
        let mut kept = std::iter::zip(self.rooms.find_holders(after, &users).await?, joins)
            .map(|(now, join)| now == Some(join));
        let mut has_lost = false;
        for (claim, old) in claims.iter_mut().zip(before.claims.iter()) {
            let is_kept = member(old).and_then(|_| kept.next()).unwrap_or(false);
            match old {
                Claim::Member(..) if *claim == Claim::None => {
                    has_lost |= !is_kept;
                    *claim = if is_kept { *old } else { Claim::None };
                }
                // The alias is gone; there may have been members beside it.
                Claim::Alias if *claim == Claim::None => has_lost = true,
                _ => {}
            }
        }
        if !claims.contains(&Claim::None) {
            return Ok(());
        }
        let after = &*self.rooms.load_state(after).await?;
        let state_before = match has_lost {
            false => self.rooms.load_state(before.state).await.ok(),
            true => None,
        };
        let changed = state_before.map(|before| after.changed_since(&before));
        let members = changed.map(|changed| {
            let members = changed.into_iter().filter(|(key, _)| key.is_membership());
            members.collect::<Vec<_>>()
        });
        match members {
            Some(members) if members.len() <= CHANGES_MAX => {
                for (user, event) in members {
                    self.claim_for_member(room, (user, event), claims).await?;
                }
                Ok(())
            }
            _ => self.find_members(room, after, claims).await,
        }
    }

    /// Looks through all members for one of each service that has no other claim.
    async fn find_members(
        &self,
        room: &Room,
        state: &State,
        claims: &mut [Claim],
    ) -> Result<(), StorageError> {
        let members: Vec<(UserNid, EventNid)> = state.members().collect();
        for step in members.chunks(MEMBERS_STEP) {
            if !claims.contains(&Claim::None) {
                return Ok(());
            }
            let events: std::collections::HashMap<_, _> = step.iter().copied().collect();
            let users: Vec<UserNid> = step.iter().map(|(user, _)| *user).collect();
            let named = appservices::list_user_ids(self.rooms.database(), &users).await?;
            for (user, user_id) in named {
                let Ok(user_id) = <&UserId>::try_from(user_id.as_str()) else { continue };
                let wanted = claims
                    .iter()
                    .zip(&self.services)
                    .any(|(claim, service)| *claim == Claim::None && service.covers_user(user_id));
                if let (true, Some(event)) = (wanted, events.get(&user)) {
                    self.claim_for_member(room, (user, *event), claims).await?;
                }
            }
        }
        Ok(())
    }

    async fn claim_for_member(
        &self,
        room: &Room,
        (user, event): (UserNid, EventNid),
        claims: &mut [Claim],
    ) -> Result<(), StorageError> {
        let stored = self.rooms.events().load_one(room.facts(), event).await?;
        if Membership::of_event(&stored.event) != Some(Membership::Join) {
            return Ok(());
        }
        let user_id = stored.event.state_key().and_then(|key| <&UserId>::try_from(key).ok());
        let Some(user_id) = user_id else { return Ok(()) };
        for (claim, service) in claims.iter_mut().zip(&self.services) {
            if *claim == Claim::None && service.covers_user(user_id) {
                *claim = Claim::Member(user, event);
            }
        }
        Ok(())
    }
}
