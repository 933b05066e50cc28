//! The answers to what goes wrong in rooms, for the handlers that meet them.

use axum::http::StatusCode;

use crate::{
    http::error::MatrixError,
    protocol::{authorisation::AuthRejection, event_builder::SealError},
    rooms::{
        AliasError, AppendError, ContentError, CreateRoomError, MembershipError, PolicyRefusal,
    },
};

/// How long a client waits whose events a policy server finds too many.
const POLICY_PAUSE_MS: u64 = 5_000;

impl From<AppendError> for MatrixError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Rejected(rejection) => rejection.into(),
            AppendError::Unsealable(error) => error.into(),
            AppendError::RedactionTargetUnknown => Self::not_found(sentence(&error)),
            AppendError::RedactionForbidden => Self::forbidden(sentence(&error)),
            AppendError::NotRecommended(refusal) => refusal.into(),
            AppendError::Contended | AppendError::Repeated | AppendError::Overtaken => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", sentence(&error))
            }
            AppendError::Storage(error) => error.into(),
        }
    }
}

/// "If the Policy Server returned an error, that error SHOULD be provided to the client verbatim."
impl From<PolicyRefusal> for MatrixError {
    fn from(refusal: PolicyRefusal) -> Self {
        match refusal {
            PolicyRefusal::Refused { errcode, message } => match errcode.as_str() {
                "M_LIMIT_EXCEEDED" => Self::limit_exceeded(POLICY_PAUSE_MS),
                "M_BAD_JSON" => Self::bad_json(message),
                _ => Self::forbidden(message),
            },
            PolicyRefusal::NoAnswer(_) => Self::forbidden(sentence(&refusal)),
        }
    }
}

impl From<AuthRejection> for MatrixError {
    fn from(rejection: AuthRejection) -> Self {
        let message = sentence(&rejection);
        match rejection {
            AuthRejection::MemberStateKeyMissing
            | AuthRejection::MemberStateKeyNotUser
            | AuthRejection::MembershipMissing
            | AuthRejection::UnknownMembership
            | AuthRejection::BadPowerLevels(_)
            | AuthRejection::StateKeyOfNoUser
            | AuthRejection::CreateHasPrevEvents
            | AuthRejection::CreateHasRoomId
            | AuthRejection::PowerLevelOfCreator
            | AuthRejection::PowerLevelOfNoUser => Self::bad_json(message),
            _ => Self::forbidden(message),
        }
    }
}

impl From<SealError> for MatrixError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::TooLarge | SealError::FieldTooLong(_) => Self::too_large(sentence(&error)),
            SealError::ContentNotAnObject | SealError::ContentNotCanonical(_) => {
                Self::bad_json(sentence(&error))
            }
            error => {
                tracing::error!(%error, "an event could not be built");
                Self::internal("The server could not build the event.")
            }
        }
    }
}

impl From<ContentError> for MatrixError {
    fn from(error: ContentError) -> Self {
        let message = sentence(&error);
        match error {
            ContentError::RedactsMissing => Self::bad_json(message),
            ContentError::BadThreadRoot => Self::bad_request(message),
            ContentError::DuplicateAnnotation => {
                Self::new(StatusCode::BAD_REQUEST, "M_DUPLICATE_ANNOTATION", message)
            }
            ContentError::InvalidAlias(_) => Self::invalid_param(message),
            ContentError::BadAlias(_) => Self::new(StatusCode::BAD_REQUEST, "M_BAD_ALIAS", message),
            ContentError::EncryptionDowngrade => Self::forbidden(message),
            ContentError::TooMuchState => {
                Self::new(StatusCode::FORBIDDEN, "M_RESOURCE_LIMIT_EXCEEDED", message)
            }
            ContentError::Storage(error) => error.into(),
        }
    }
}

impl From<MembershipError> for MatrixError {
    fn from(error: MembershipError) -> Self {
        let message = sentence(&error);
        match error {
            MembershipError::Append(error) => error.into(),
            MembershipError::Storage(error) => error.into(),
            MembershipError::GuestsForbidden => Self::guest_access_forbidden(message),
            MembershipError::NotBanned => Self::new(StatusCode::FORBIDDEN, "M_BAD_STATE", message),
            MembershipError::NobodyCanVouch => {
                Self::new(StatusCode::FORBIDDEN, "M_UNABLE_TO_GRANT_JOIN", message)
            }
            MembershipError::RemoteUnreachable => {
                Self::new(StatusCode::BAD_GATEWAY, "M_UNREACHABLE", message)
            }
            MembershipError::InNoAllowedRoom
            | MembershipError::NotInRoom
            | MembershipError::Banned
            | MembershipError::UnknownThirdPartyInvite => Self::forbidden(message),
        }
    }
}

impl From<CreateRoomError> for MatrixError {
    fn from(error: CreateRoomError) -> Self {
        let message = sentence(&error);
        match error {
            CreateRoomError::InvalidState(_) => {
                Self::new(StatusCode::BAD_REQUEST, "M_INVALID_ROOM_STATE", message)
            }
            CreateRoomError::Unsealable(error) => error.into(),
            CreateRoomError::Append(error) => error.into(),
            CreateRoomError::Storage(error) => error.into(),
        }
    }
}

impl From<AliasError> for MatrixError {
    fn from(error: AliasError) -> Self {
        let message = sentence(&error);
        match error {
            AliasError::NotOurs | AliasError::Invalid => Self::invalid_param(message),
            AliasError::InUse(_) => Self::new(StatusCode::CONFLICT, "M_UNKNOWN", message),
            AliasError::TooMany => {
                Self::new(StatusCode::FORBIDDEN, "M_RESOURCE_LIMIT_EXCEEDED", message)
            }
            AliasError::Unknown(_) => Self::not_found(message),
            AliasError::Forbidden => Self::forbidden(message),
            AliasError::Storage(error) => error.into(),
        }
    }
}

/// An error as a sentence for people.
pub fn sentence(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), letters.as_str()),
        None => text,
    }
}
