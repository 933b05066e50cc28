//! Has guests leave a room that takes guests no more (client-server API, "Guest Access", "Server
//! behaviour").

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::{RoomId, UserId};
use serde_json::Map;

use super::{
    jobs::{Job, JobError},
    leave_rooms::skip_refused,
};
use crate::{
    accounts::Accounts,
    protocol::{membership::Membership, room_content::GuestAccess},
    rooms::{AppendError, EventRequest, MemberChange, Room, Rooms, StoredEvent},
    storage::{WriteTx, jobs},
};

/// The kind of the job; its subject is the room's ID.
const REMOVE_GUESTS_JOB: &str = "remove_guests";
/// Members read at once.
const MEMBERS_STEP: usize = 500;

/// The job.
pub struct RemoveGuests {
    pub accounts: Arc<Accounts>,
    pub rooms: Rooms,
}

/// Changes whether guests may join, and requests that those who are there leave.
pub async fn change_guest_access(
    accounts: &Accounts,
    rooms: &Rooms,
    room: &Arc<Room>,
    request: EventRequest,
) -> Result<Option<Arc<StoredEvent>>, AppendError> {
    let room_id = room.room_id.to_string();
    let request_job = |tx: &mut WriteTx, _| jobs::push_job(tx, REMOVE_GUESTS_JOB, &room_id, "{}");
    let mut events = rooms.append(room, &[request], Some(&request_job)).await?;
    accounts.announce_job();
    Ok(events.pop())
}

impl Job for RemoveGuests {
    fn kind(&self) -> &'static str {
        REMOVE_GUESTS_JOB
    }

    fn run<'a>(&'a self, subject: &'a str) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            let Ok(room_id) = RoomId::parse(subject) else { return Ok(()) };
            let Some(room) = self.rooms.find(&room_id).await? else { return Ok(()) };
            let head = room.head();
            let access = head.find_pinned("m.room.guest_access").map(|event| &*event.event);
            if GuestAccess::of_state(access) == GuestAccess::CanJoin {
                return Ok(());
            }
            let nids: Vec<_> = head.state.members().map(|(_, nid)| nid).collect();
            for step in nids.chunks(MEMBERS_STEP) {
                for member in self.rooms.events().load(room.facts(), step).await? {
                    self.remove_guest(&room, &member).await?;
                }
            }
            Ok(())
        })
    }
}

impl RemoveGuests {
    async fn remove_guest(&self, room: &Arc<Room>, member: &StoredEvent) -> Result<(), JobError> {
        let user_id = member.event.state_key().and_then(|key| UserId::parse(key).ok());
        let is_joined = Membership::of_event(&member.event) == Some(Membership::Join);
        let Some(user_id) = user_id.filter(|_| is_joined) else { return Ok(()) };
        if user_id.server_name() != self.rooms.server_name() {
            return Ok(());
        }
        let account = self.accounts.find_account(&user_id).await?;
        if !account.is_some_and(|account| account.flags.is_guest()) {
            return Ok(());
        }
        let change = MemberChange {
            sender: user_id.clone(),
            target: user_id,
            membership: Membership::Leave,
            content: Map::new(),
            is_guest: true,
        };
        skip_refused(room, self.rooms.leave(room, change).await)
    }
}
