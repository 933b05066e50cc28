//! Has a deactivated user leave every room, and reject every invitation (Client-Server API,
//! "Account deactivation").

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::UserId;
use serde_json::Map;

use super::jobs::{Job, JobError};
use crate::{
    accounts::manage::LEAVE_ROOMS_JOB,
    federation::{Federation, HandshakeError},
    protocol::membership::Membership,
    rooms::{AppendError, MemberChange, MembershipError, Room, Rooms},
};

/// The job.
pub struct LeaveRooms {
    pub rooms: Rooms,
    pub federation: Federation,
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
                if !has_left {
                    self.leave(&place.room, &user_id).await?;
                }
            }
            Ok(())
        })
    }
}

impl LeaveRooms {
    async fn leave(&self, room: &Arc<Room>, user: &UserId) -> Result<(), JobError> {
        if self.rooms.is_server_in_room(room, self.rooms.server_name()).await? {
            let change = MemberChange {
                sender: user.to_owned(),
                target: user.to_owned(),
                membership: Membership::Leave,
                content: Map::new(),
                is_guest: false,
            };
            return skip_refused(room, self.rooms.leave(room, change).await);
        }
        // An invitation or a knock, of which the servers in the room have to hear.
        match self.federation.leave_unjoined(room, user, Map::new()).await {
            Err(HandshakeError::Storage(error)) => Err(error.into()),
            Err(error) => {
                tracing::info!(room.id = %room.room_id, %error, "an invitation was not rejected");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
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
