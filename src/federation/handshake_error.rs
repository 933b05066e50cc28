//! Why a handshake of a join, leave, knock or invitation fails, on either side.

use ruma::OwnedServerName;

use super::{peers::PeerError, verify::Dropped};
use crate::{
    protocol::{event_format::EventFormatError, room_version::RoomVersion},
    rooms::{AppendError, MembershipError, ReceiveError, StrippedStateError},
    storage::StorageError,
};

/// Each variant has its status and code in the HTTP layer.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    // On the resident's side.
    #[error("this server is not in the room")]
    UnknownRoom,
    #[error("this server does not know all members of the room yet")]
    RoomNotWhole,
    #[error("your server is not allowed to take part in the room")]
    ServerDenied,
    #[error("the user is not one of your server")]
    NotYourUser,
    #[error("your server does not understand the version of the room")]
    IncompatibleVersion(RoomVersion),
    #[error("this server cannot check whether the user may join")]
    CannotCheckJoin,
    #[error("nobody of this server who is in the room can let the user in")]
    NobodyCanVouch,
    #[error("the user is in none of the rooms whose members may join")]
    InNoAllowedRoom,
    #[error("the event is not what it should be: {0}")]
    WrongEvent(String),
    #[error("this server does not know the version of the room")]
    UnknownVersion(String),
    #[error("the user takes no invitations")]
    InviteBlocked,
    #[error("there is no such user here")]
    UnknownUser,
    #[error("the state that came with it is not good: {0}")]
    BadStrippedState(#[from] StrippedStateError),
    // On ours.
    #[error("other servers are not talked with")]
    Disabled,
    #[error("no server is known that is in the room")]
    NoServers,
    #[error("{server} gave an answer that makes no sense: {reason}")]
    BadAnswer { server: OwnedServerName, reason: String },
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the identity server did not say whether its key is valid: {0}")]
    IdentityServer(String),
    // On both.
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<EventFormatError> for HandshakeError {
    fn from(error: EventFormatError) -> Self {
        Self::WrongEvent(error.to_string())
    }
}

impl From<Dropped> for HandshakeError {
    fn from(dropped: Dropped) -> Self {
        Self::WrongEvent(dropped.to_string())
    }
}
