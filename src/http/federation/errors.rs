//! The answers to what goes wrong between servers: to other servers, and to clients whose requests
//! went on to another server.

use axum::http::StatusCode;

use crate::{
    federation::{FetchMediaError, HandshakeError, PeerError},
    http::error::MatrixError,
    media::upload::UploadError,
    rooms::ReceiveError,
};

impl From<HandshakeError> for MatrixError {
    fn from(error: HandshakeError) -> Self {
        let message = format!("{error}.");
        let bad_request = |errcode, message| Self::new(StatusCode::BAD_REQUEST, errcode, message);
        match error {
            // A code of its own for rooms that are not whole is only proposed (MSC3895).
            HandshakeError::UnknownRoom | HandshakeError::RoomNotWhole => Self::not_found(message),
            HandshakeError::UnknownUser => Self::not_found(message),
            HandshakeError::ServerDenied
            | HandshakeError::NotYourUser
            | HandshakeError::InNoAllowedRoom
            | HandshakeError::Disabled => Self::forbidden(message),
            HandshakeError::IncompatibleVersion(version) => {
                bad_request("M_INCOMPATIBLE_ROOM_VERSION", message)
                    .with_field("room_version", version.as_str())
            }
            HandshakeError::UnknownVersion(version) => {
                bad_request("M_INCOMPATIBLE_ROOM_VERSION", message)
                    .with_field("room_version", version)
            }
            HandshakeError::CannotCheckJoin => bad_request("M_UNABLE_TO_AUTHORISE_JOIN", message),
            HandshakeError::NobodyCanVouch => bad_request("M_UNABLE_TO_GRANT_JOIN", message),
            HandshakeError::WrongEvent(_) | HandshakeError::BadStrippedState(_) => {
                Self::invalid_param(message)
            }
            HandshakeError::InviteBlocked => {
                Self::new(StatusCode::FORBIDDEN, "M_INVITE_BLOCKED", message)
            }
            HandshakeError::NoServers => Self::not_found(message),
            HandshakeError::BadAnswer { .. } | HandshakeError::IdentityServer(_) => {
                Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
            }
            HandshakeError::Peer(error) => error.into(),
            HandshakeError::Append(error) => error.into(),
            HandshakeError::Membership(error) => error.into(),
            HandshakeError::Receive(error) => error.into(),
            HandshakeError::Storage(error) => error.into(),
        }
    }
}

impl From<ReceiveError> for MatrixError {
    fn from(error: ReceiveError) -> Self {
        let message = format!("{error}.");
        match error {
            ReceiveError::OtherRoom => Self::invalid_param(message),
            ReceiveError::NotInRoom => Self::not_found(message),
            ReceiveError::Contended => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", message)
            }
            ReceiveError::Forbidden(rejection) => rejection.into(),
            ReceiveError::NotTaken(_) | ReceiveError::Withheld => Self::forbidden(message),
            ReceiveError::NotRecommended(refusal) => refusal.into(),
            ReceiveError::BadState(_) => Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message),
            ReceiveError::Storage(error) => error.into(),
        }
    }
}

impl From<FetchMediaError> for MatrixError {
    fn from(error: FetchMediaError) -> Self {
        let failed = |errcode, message| Self::new(StatusCode::BAD_GATEWAY, errcode, message);
        match error {
            FetchMediaError::Peer(error @ (PeerError::Disabled | PeerError::Ourselves)) => {
                Self::not_found(format!("{error}."))
            }
            FetchMediaError::Peer(error) => error.into(),
            FetchMediaError::Keep(UploadError::TooLarge) => {
                failed("M_TOO_LARGE", "The content is larger than this server keeps.".to_owned())
            }
            FetchMediaError::Keep(UploadError::Interrupted) => {
                failed("M_UNKNOWN", "The content broke off.".to_owned())
            }
            FetchMediaError::Keep(error) => error.into(),
            FetchMediaError::Outbound(_) => failed("M_UNREACHABLE", format!("{error}.")),
            FetchMediaError::Malformed(_) => failed("M_UNKNOWN", format!("{error}.")),
        }
    }
}

/// What another server refused is told to the client as it stands, except that it is not the
/// client's fault when our request was malformed ("SHOULD fail with a 5xx error").
impl From<PeerError> for MatrixError {
    fn from(error: PeerError) -> Self {
        let unreachable = |message| Self::new(StatusCode::BAD_GATEWAY, "M_UNREACHABLE", message);
        match &error {
            PeerError::Disabled | PeerError::Ourselves => Self::forbidden(format!("{error}.")),
            PeerError::Unreachable { .. } | PeerError::BackingOff { .. } => {
                unreachable(format!("{error}."))
            }
            PeerError::BadAnswer { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", format!("{error}."))
            }
            PeerError::Refused { server, status, errcode, message, body } => {
                let Some(known) = find_errcode(errcode).filter(|_| status.is_client_error()) else {
                    return Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", format!("{error}."));
                };
                let message = format!("{server}: {message}");
                let mut answer = Self::new(*status, known, message);
                if let Some(version) = body.get("room_version") {
                    answer = answer.with_field("room_version", version.clone());
                }
                answer
            }
        }
    }
}

/// Codes of other servers that mean something to our clients.
fn find_errcode(errcode: &str) -> Option<&'static str> {
    const KNOWN: [&str; 9] = [
        "M_FORBIDDEN",
        "M_NOT_FOUND",
        "M_INCOMPATIBLE_ROOM_VERSION",
        "M_UNSUPPORTED_ROOM_VERSION",
        "M_UNABLE_TO_AUTHORISE_JOIN",
        "M_UNABLE_TO_GRANT_JOIN",
        "M_INVITE_BLOCKED",
        "M_LIMIT_EXCEEDED",
        "M_RESOURCE_LIMIT_EXCEEDED",
    ];
    KNOWN.into_iter().find(|known| *known == errcode)
}
