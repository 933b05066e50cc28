//! Why an event is not allowed.

use ruma::OwnedEventId;

use crate::protocol::power_levels::PowerLevelsError;

/// The authorisation rule that an event breaks. Numbers are those of room version 12.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthRejection {
    // Rule 1: `m.room.create`.
    #[error("the create event has previous events")]
    CreateHasPrevEvents,
    #[error("the room ID and the creator are of different servers")]
    CreateRoomOfAnotherServer,
    #[error("the create event carries a room ID, which this room version forbids")]
    CreateHasRoomId,
    #[error("the create event asks for a room version that is not known")]
    UnknownRoomVersion,
    #[error("the create event does not name its creator")]
    CreatorMissing,
    #[error("`additional_creators` is not a list of user IDs")]
    BadAdditionalCreators,

    // Rules 2 and 3: the create event and `auth_events`.
    #[error("the room's create event is not known")]
    CreateMissing,
    #[error("the room's create event was rejected")]
    CreateRejected,
    #[error("authorisation event {0} is not known")]
    AuthEventUnknown(OwnedEventId),
    #[error("authorisation event {0} is of another room")]
    AuthEventOfAnotherRoom(OwnedEventId),
    #[error("authorisation event {0} is for the same state as another one")]
    DuplicateAuthEvent(OwnedEventId),
    #[error("authorisation event {0} has nothing to say about this event")]
    NeedlessAuthEvent(OwnedEventId),
    #[error("authorisation event {0} was rejected")]
    AuthEventRejected(OwnedEventId),
    #[error("the authorisation events do not include the create event")]
    NoCreateInAuthEvents,

    // Rule 4.
    #[error("the room is open only to users of the server that created it")]
    RoomNotFederated,

    // Versions 1 to 5: `m.room.aliases`.
    #[error("the event needs a state key")]
    StateKeyMissing,
    #[error("a server may only set its own aliases")]
    AliasesOfAnotherServer,

    // Rule 5: `m.room.member`.
    #[error("the member event has no state key")]
    MemberStateKeyMissing,
    #[error("the member event's state key is not a user ID")]
    MemberStateKeyNotUser,
    #[error("the member event has no membership")]
    MembershipMissing,
    #[error("the membership is not one of this room version")]
    UnknownMembership,
    #[error("nobody can join for somebody else")]
    JoinForAnotherUser,
    #[error("the user is banned from the room")]
    UserBanned,
    #[error("the user must be invited to join this room")]
    NotInvited,
    #[error("the join is not vouched for by a member who may invite")]
    JoinNotAuthorised,
    #[error("the third-party invitation is not signed")]
    ThirdPartyUnsigned,
    #[error("the third-party invitation is malformed")]
    ThirdPartyMalformed,
    #[error("the third-party invitation is for another user")]
    ThirdPartyForAnotherUser,
    #[error("the room knows no such third-party invitation")]
    ThirdPartyUnknown,
    #[error("the third-party invitation was made by somebody else")]
    ThirdPartyOfAnotherSender,
    #[error("no signature of the third-party invitation is valid")]
    ThirdPartySignatureInvalid,
    #[error("the sender is not in the room")]
    SenderNotInRoom,
    #[error("the user is already in the room")]
    TargetAlreadyJoined,
    #[error("the sender's power is too low to invite")]
    CannotInvite,
    #[error("the user is neither in the room nor invited")]
    NothingToLeave,
    #[error("the sender's power is too low to unban")]
    CannotUnban,
    #[error("the sender's power is too low to remove this user")]
    CannotKick,
    #[error("the sender's power is too low to ban this user")]
    CannotBan,
    #[error("the room does not take knocks")]
    KnockingNotAllowed,
    #[error("nobody can knock for somebody else")]
    KnockForAnotherUser,
    #[error("the user is in the room or invited and need not knock")]
    NoNeedToKnock,

    // Rules 8 and 9.
    #[error("the sender's power is too low; {required} is needed")]
    PowerTooLow { required: i64 },
    #[error("the state key is another user's ID")]
    StateKeyOfAnotherUser,
    #[error(
        "the state key begins with `@`, but is neither a user ID nor one with `_` and a suffix"
    )]
    StateKeyOfNoUser,

    // Rule 10: `m.room.power_levels`.
    #[error("the power levels are malformed: {0}")]
    BadPowerLevels(#[from] PowerLevelsError),
    #[error("`users` names something that is not a user ID")]
    PowerLevelOfNoUser,
    #[error("the power of a creator cannot be set")]
    PowerLevelOfCreator,
    #[error("`{0}` is or becomes higher than the sender's power")]
    LevelAboveSender(String),
    #[error("the power of {0} is not below the sender's")]
    UserNotBelowSender(String),

    // Versions 1 and 2: `m.room.redaction`.
    #[error("the sender's power is too low to redact this event")]
    CannotRedact,
}
