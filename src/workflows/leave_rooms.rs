//! Has a deactivated user leave every room, and reject every invitation (Client-Server API,
//! "Account deactivation").

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::UserId;
use serde_json::Map;

use super::jobs::{Job, JobError};
use crate::{
    accounts::manage::LEAVE_ROOMS_JOB,
    protocol::membership::Membership,
    rooms::{AppendError, MemberChange, MembershipError, Room, Rooms},
};

/// The job.
pub struct LeaveRooms {
    pub rooms: Rooms,
}

impl Job for LeaveRooms {
    fn kind(&self) -> &'static str {
        LEAVE_ROOMS_JOB
    }

    fn run<'a>(&'a self, subject: &'a str) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            let Ok(user_id) = UserId::parse(subject) else { return Ok(()) };
            // Before anybody sees them leave.
            self.rooms.note_erasure(&user_id).await?;
            for place in self.rooms.rooms_of(&user_id).await?.list() {
                let has_left = matches!(place.membership, Membership::Leave | Membership::Ban);
                if has_left {
                    continue;
                }
                let change = MemberChange {
                    sender: user_id.clone(),
                    target: user_id.clone(),
                    membership: Membership::Leave,
                    content: Map::new(),
                    is_guest: false,
                };
                skip_refused(&place.room, self.rooms.leave(&place.room, change).await)?;
            }
            Ok(())
        })
    }
}

/// A room that refuses a change by its rules will refuse it the next time as well, so it must not
/// hold up the other rooms.
pub(super) fn skip_refused<T>(
    room: &Arc<Room>,
    result: Result<T, MembershipError>,
) -> Result<(), JobError> {
    match result {
        Ok(_) => Ok(()),
        Err(
            error @ (MembershipError::Storage(_)
            | MembershipError::Append(AppendError::Storage(_) | AppendError::Contended)),
        ) => Err(error.into()),
        Err(error) => {
            tracing::info!(room.id = %room.room_id, %error, "a room refused a change of membership");
            Ok(())
        }
    }
}
