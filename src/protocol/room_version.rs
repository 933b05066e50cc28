//! The room versions 1 to 12, two unstable ones and one table of everything in which they differ.
//!
//! Not for the rules themselves: authorisation, redaction and resolution each read their switches from
//! [`RoomRules`] and know no version numbers.
//!
//! Source: specification, "Room versions" (content/rooms/).

use std::fmt;

/// A room version that this server can take part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoomVersion {
    V1,
    V2,
    V3,
    V4,
    V5,
    V6,
    V7,
    V8,
    V9,
    V10,
    /// Version 10 with owned state (MSC3757).
    V10Owned,
    V11,
    /// Version 11 with owned state (MSC3757).
    V11Owned,
    V12,
}

/// What a room of one version does differently from a room of another.
#[derive(Debug)]
pub struct RoomRules {
    pub version: RoomVersion,
    pub event_id_format: EventIdFormat,
    pub state_resolution: StateResolutionVersion,
    /// Which keys survive a redaction.
    pub redaction: RedactionRules,
    /// `type` and `state_key` have so many bytes at most (version 11); before, other servers took as many
    /// characters.
    pub strict_field_lengths: bool,
    /// Events must be canonical JSON: integers only, within ±(2^53 - 1) (version 6).
    pub canonical_json_strict: bool,
    /// A key signs only events up to its `valid_until_ts` (version 5).
    pub signing_key_validity: bool,
    /// The authorisation rules judge `m.room.redaction` themselves (versions 1 and 2).
    pub redactions_authorised: bool,
    /// `m.room.aliases` has an authorisation rule of its own (versions 1 to 5).
    pub aliases_authorised: bool,
    /// Changes of `notifications` in the power levels are judged (version 6).
    pub notifications_authorised: bool,
    /// Membership and join rule `knock` exist (version 7).
    pub knock: bool,
    /// Join rule `restricted` exists (version 8).
    pub restricted: bool,
    /// Join rule `knock_restricted` exists (version 10).
    pub knock_restricted: bool,
    /// A state key may be a user ID with `_` and a suffix, and who has more power than that user may
    /// set it as well (MSC3757).
    pub owned_state: bool,
    /// Power levels must be JSON integers (version 10); before, strings were allowed too.
    pub integer_power_levels: bool,
    /// The creator is named by `content.creator` of the create event (up to version 10), not by its sender.
    pub creator_in_content: bool,
    /// `redacts` lies in the content of `m.room.redaction` (version 11), not at its top level.
    pub redacts_in_content: bool,
    /// Creators, including `additional_creators`, have infinite power (version 12).
    pub creators_privileged: bool,
    /// The room ID is the hash of the create event, which carries no `room_id` (version 12) and which
    /// is not named in `auth_events` any more.
    pub room_id_is_create_hash: bool,
}

/// How an event gets its ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIdFormat {
    /// `$opaque:server`, a field of the event; links to other events are pairs of ID and hash.
    Opaque,
    /// `$` and the reference hash in unpadded Base64.
    Base64,
    /// `$` and the reference hash in URL-safe unpadded Base64.
    UrlSafeBase64,
}

/// Which algorithm resolves conflicts of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateResolutionVersion {
    V1,
    V2,
    /// Version 2 with the changes of MSC4297.
    V2_1,
}

/// What a redaction keeps, beyond what every version keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedactionRules {
    /// Top-level `origin`, `membership` and `prev_state` (up to version 10).
    pub keep_legacy_fields: bool,
    /// `aliases` of `m.room.aliases` (up to version 5).
    pub keep_aliases: bool,
    /// `allow` of `m.room.join_rules` (version 8).
    pub keep_allow: bool,
    /// `join_authorised_via_users_server` of `m.room.member` (version 9).
    pub keep_join_authorised: bool,
    /// All of `m.room.create` (version 11); before, only `creator`.
    pub keep_create_content: bool,
    /// `redacts` of `m.room.redaction` (version 11).
    pub keep_redacts: bool,
    /// `invite` of `m.room.power_levels` (version 11).
    pub keep_invite_level: bool,
    /// `third_party_invite.signed` of `m.room.member` (version 11).
    pub keep_third_party_signed: bool,
}

impl RoomVersion {
    /// Every version of the specification, oldest first.
    pub const ALL: [Self; 12] = [
        Self::V1,
        Self::V2,
        Self::V3,
        Self::V4,
        Self::V5,
        Self::V6,
        Self::V7,
        Self::V8,
        Self::V9,
        Self::V10,
        Self::V11,
        Self::V12,
    ];

    /// Versions of proposals.
    pub const UNSTABLE: [Self; 2] = [Self::V10Owned, Self::V11Owned];

    /// The version of new rooms when nobody asks for another.
    pub const DEFAULT: Self = Self::V12;

    /// The version that `identifier` names, or `None` if it is not one of ours.
    pub fn parse(identifier: &str) -> Option<Self> {
        Self::ALL.into_iter().chain(Self::UNSTABLE).find(|version| version.as_str() == identifier)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
            Self::V3 => "3",
            Self::V4 => "4",
            Self::V5 => "5",
            Self::V6 => "6",
            Self::V7 => "7",
            Self::V8 => "8",
            Self::V9 => "9",
            Self::V10 => "10",
            Self::V10Owned => "org.matrix.msc3757.10",
            Self::V11 => "11",
            Self::V11Owned => "org.matrix.msc3757.11",
            Self::V12 => "12",
        }
    }

    pub fn rules(self) -> &'static RoomRules {
        match self {
            Self::V1 => &V1,
            Self::V2 => &V2,
            Self::V3 => &V3,
            Self::V4 => &V4,
            Self::V5 => &V5,
            Self::V6 => &V6,
            Self::V7 => &V7,
            Self::V8 => &V8,
            Self::V9 => &V9,
            Self::V10 => &V10,
            Self::V10Owned => &V10_OWNED,
            Self::V11 => &V11,
            Self::V11Owned => &V11_OWNED,
            Self::V12 => &V12,
        }
    }
}

impl fmt::Display for RoomVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl RoomRules {
    /// Whether events carry their ID and name others as pairs of ID and hash (versions 1 and 2).
    pub fn has_event_id_field(&self) -> bool {
        self.event_id_format == EventIdFormat::Opaque
    }
}

const V1: RoomRules = RoomRules {
    version: RoomVersion::V1,
    event_id_format: EventIdFormat::Opaque,
    state_resolution: StateResolutionVersion::V1,
    redaction: RedactionRules {
        keep_legacy_fields: true,
        keep_aliases: true,
        keep_allow: false,
        keep_join_authorised: false,
        keep_create_content: false,
        keep_redacts: false,
        keep_invite_level: false,
        keep_third_party_signed: false,
    },
    strict_field_lengths: false,
    canonical_json_strict: false,
    signing_key_validity: false,
    redactions_authorised: true,
    aliases_authorised: true,
    notifications_authorised: false,
    knock: false,
    restricted: false,
    knock_restricted: false,
    owned_state: false,
    integer_power_levels: false,
    creator_in_content: true,
    redacts_in_content: false,
    creators_privileged: false,
    room_id_is_create_hash: false,
};

const V2: RoomRules =
    RoomRules { version: RoomVersion::V2, state_resolution: StateResolutionVersion::V2, ..V1 };

const V3: RoomRules = RoomRules {
    version: RoomVersion::V3,
    event_id_format: EventIdFormat::Base64,
    redactions_authorised: false,
    ..V2
};

const V4: RoomRules =
    RoomRules { version: RoomVersion::V4, event_id_format: EventIdFormat::UrlSafeBase64, ..V3 };

const V5: RoomRules = RoomRules { version: RoomVersion::V5, signing_key_validity: true, ..V4 };

const V6: RoomRules = RoomRules {
    version: RoomVersion::V6,
    redaction: RedactionRules { keep_aliases: false, ..V5.redaction },
    canonical_json_strict: true,
    aliases_authorised: false,
    notifications_authorised: true,
    ..V5
};

const V7: RoomRules = RoomRules { version: RoomVersion::V7, knock: true, ..V6 };

const V8: RoomRules = RoomRules {
    version: RoomVersion::V8,
    redaction: RedactionRules { keep_allow: true, ..V7.redaction },
    restricted: true,
    ..V7
};

const V9: RoomRules = RoomRules {
    version: RoomVersion::V9,
    redaction: RedactionRules { keep_join_authorised: true, ..V8.redaction },
    ..V8
};

const V10: RoomRules = RoomRules {
    version: RoomVersion::V10,
    knock_restricted: true,
    integer_power_levels: true,
    ..V9
};

const V10_OWNED: RoomRules = RoomRules { version: RoomVersion::V10Owned, owned_state: true, ..V10 };

const V11: RoomRules = RoomRules {
    version: RoomVersion::V11,
    redaction: RedactionRules {
        keep_legacy_fields: false,
        keep_create_content: true,
        keep_redacts: true,
        keep_invite_level: true,
        keep_third_party_signed: true,
        ..V10.redaction
    },
    strict_field_lengths: true,
    creator_in_content: false,
    redacts_in_content: true,
    ..V10
};

const V11_OWNED: RoomRules = RoomRules { version: RoomVersion::V11Owned, owned_state: true, ..V11 };

const V12: RoomRules = RoomRules {
    version: RoomVersion::V12,
    state_resolution: StateResolutionVersion::V2_1,
    creators_privileged: true,
    room_id_is_create_hash: true,
    ..V11
};
