//! Making events: a draft becomes a hashed, signed and named event in one pass.
//!
//! Not for deciding whether the draft is allowed (see `authorisation`, which judges drafts as well).
//! Source: specification, server-server API, "Adding hashes and signatures to outgoing events".

use std::{collections::BTreeMap, fmt::Write as _};

use base64::Engine as _;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName};
use serde_json::{Map, Value};

use super::{
    canonical_json::{self, CanonicalJsonError},
    event::Event,
    event_format::{
        AUTH_EVENTS_MAX, EventFormatError, FIELD_BYTES_MAX, PDU_SIZE_BYTES_MAX, PREV_EVENTS_MAX,
    },
    event_hash::{content_hash, event_id_of_hash, sha256},
    redaction::{redact, redact_content},
    room_version::RoomRules,
    signing::{SigningKey, UNPADDED_BASE64, add_signature, signed_bytes},
};

/// Everything of an event but its hash, signature and name.
#[derive(Clone, Debug)]
pub struct EventDraft {
    /// `None` only for the create event of a room of version 12, which gets its ID by being made.
    pub room_id: Option<OwnedRoomId>,
    pub sender: OwnedUserId,
    pub kind: String,
    pub state_key: Option<String>,
    /// A JSON object.
    pub content: Value,
    pub prev_events: Vec<OwnedEventId>,
    pub auth_events: Vec<OwnedEventId>,
    pub depth: i64,
    /// Milliseconds since the Unix epoch.
    pub origin_server_ts: i64,
    /// For `m.room.redaction`: the event to redact. Goes where the room version wants it.
    pub redacts: Option<OwnedEventId>,
    /// For how long every client is to get the event (MSC4354), milliseconds.
    pub sticky_ms: Option<u32>,
    /// Versions 1 and 2 only.
    pub opaque_names: Option<OpaqueNames>,
}

/// What versions 1 and 2 need and later versions derive.
#[derive(Clone, Debug)]
pub struct OpaqueNames {
    /// The new event's ID is `$OPAQUE:SERVER`.
    pub opaque_id: String,
    /// The reference hashes (unpadded Base64) of the events in `prev_events` and `auth_events`.
    pub reference_hashes: BTreeMap<OwnedEventId, String>,
}

/// Why a draft cannot become an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the content is not a JSON object")]
    ContentNotAnObject,
    #[error("the content is not canonical JSON: {0}")]
    ContentNotCanonical(#[from] CanonicalJsonError),
    #[error("the event is larger than {PDU_SIZE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("`{0}` is longer than {FIELD_BYTES_MAX} bytes")]
    FieldTooLong(&'static str),
    #[error("more than {PREV_EVENTS_MAX} previous events")]
    TooManyPrevEvents,
    #[error("more than {AUTH_EVENTS_MAX} authorisation events")]
    TooManyAuthEvents,
    #[error("the depth is negative or above 2^53 - 1")]
    DepthOutOfRange,
    #[error("the event needs a room ID")]
    RoomIdMissing,
    #[error("this create event must not have a room ID")]
    RoomIdOnCreate,
    #[error("events of this room version need an opaque ID")]
    OpaqueNamesMissing,
    #[error("the reference hash of {0} is missing")]
    ReferenceHashMissing(OwnedEventId),
    #[error(transparent)]
    Format(#[from] EventFormatError),
}

impl EventDraft {
    /// Hashes, signs and names the event. Versions before 6 tolerate numbers that are no integers in
    /// what others send; nothing made here contains them.
    pub fn seal(
        mut self,
        rules: &RoomRules,
        server_name: &ServerName,
        key: &SigningKey,
    ) -> Result<Event, SealError> {
        self.check(rules)?;
        self.place_redacts(rules);
        let Value::Object(content) = &self.content else {
            return Err(SealError::ContentNotAnObject);
        };
        canonical_json::check_strict_at(&self.content, 1)?;
        let mut fields = Fields::new(&self, rules, server_name)?;

        let full = canonical_json::encode(&self.content);
        let redacted = encode_object(redact_content(rules, &self.kind, content));
        let hash = sha256(fields.write(&full, Extent::Hashed).as_bytes());
        fields.hashes = format!(r#"{{"sha256":"{}"}}"#, UNPADDED_BASE64.encode(hash));
        let essentials = fields.write(&redacted, Extent::Redacted);
        let signature = key.sign(essentials.as_bytes());
        fields.signatures = format!(r#"{{"{server_name}":{{"{}":"{signature}"}}}}"#, key.key_id());

        let event_id = match event_id_of_hash(rules, &sha256(essentials.as_bytes())) {
            Some(id) => id,
            None => fields.event_id.clone().ok_or(SealError::OpaqueNamesMissing)?,
        };
        let event_id = EventId::parse(event_id).map_err(|_| EventFormatError::BadEventId)?;
        let json = fields.write(&full, Extent::Complete);
        if json.len() > PDU_SIZE_BYTES_MAX {
            return Err(SealError::TooLarge);
        }
        let room_id = match self.room_id {
            Some(room_id) => room_id,
            None => RoomId::parse(format!("!{}", &event_id.as_str()[1..]))
                .map_err(|_| EventFormatError::BadRoomId)?,
        };
        Ok(Event::from_stored(&json, &event_id, &room_id, rules)?)
    }

    /// The event without hashes and signatures, for another server to complete (the answer of
    /// `make_join` and its like).
    pub fn into_template(
        mut self,
        rules: &RoomRules,
        server_name: &ServerName,
    ) -> Result<Map<String, Value>, SealError> {
        self.check(rules)?;
        self.place_redacts(rules);
        let fields = Fields::new(&self, rules, server_name)?;
        let text = fields.write(&canonical_json::encode(&self.content), Extent::Hashed);
        serde_json::from_str(&text)
            .map_err(|error| EventFormatError::Structure(error.to_string()).into())
    }

    fn check(&self, rules: &RoomRules) -> Result<(), SealError> {
        let room_id = self.room_id.as_ref().map_or("", |room_id| room_id.as_str());
        let fields = [
            ("type", self.kind.as_str()),
            ("state_key", self.state_key.as_deref().unwrap_or_default()),
            ("sender", self.sender.as_str()),
            ("room_id", room_id),
        ];
        for (name, text) in fields {
            if text.len() > FIELD_BYTES_MAX {
                return Err(SealError::FieldTooLong(name));
            }
        }
        if self.prev_events.len() > PREV_EVENTS_MAX {
            return Err(SealError::TooManyPrevEvents);
        }
        if self.auth_events.len() > AUTH_EVENTS_MAX {
            return Err(SealError::TooManyAuthEvents);
        }
        if !(0..=canonical_json::INTEGER_MAX).contains(&self.depth) {
            return Err(SealError::DepthOutOfRange);
        }
        let implied = rules.room_id_is_create_hash && self.kind == "m.room.create";
        match (&self.room_id, implied) {
            (None, false) => Err(SealError::RoomIdMissing),
            (Some(_), true) => Err(SealError::RoomIdOnCreate),
            _ => Ok(()),
        }
    }

    /// From version 11 on, `redacts` belongs into the content.
    fn place_redacts(&mut self, rules: &RoomRules) {
        if !rules.redacts_in_content {
            return;
        }
        if let (Some(redacts), Value::Object(content)) = (self.redacts.take(), &mut self.content) {
            content.insert("redacts".to_owned(), Value::String(redacts.into()));
        }
    }
}

/// Completes an event that another server has drafted (the answer of `make_join` and its like): the
/// content hash and our signature are added, then the whole is checked like any untrusted event.
pub fn seal_object(
    mut object: Map<String, Value>,
    rules: &RoomRules,
    server_name: &ServerName,
    key: &SigningKey,
) -> Result<Event, EventFormatError> {
    object.remove("unsigned");
    object.remove("signatures");
    let hash = UNPADDED_BASE64.encode(content_hash(&object));
    object.insert("hashes".to_owned(), serde_json::json!({ "sha256": hash }));
    sign_object(&mut object, rules, server_name, key);
    Event::parse(&canonical_json::encode(&Value::Object(object)), rules)
}

/// `event` with the signature of `server_name` beside those it has, as the resident server of a
/// restricted room and the server of an invited user add theirs.
pub fn countersign(
    event: &Event,
    rules: &RoomRules,
    server_name: &ServerName,
    key: &SigningKey,
) -> Result<Event, EventFormatError> {
    let signature = key.sign(signed_bytes(&redact(rules, &event.to_object())).as_bytes());
    add_signatures(event, rules, [(server_name.as_str(), key.key_id(), signature.as_str())])
}

/// `event` with more signatures, each of a server with a key, none of which is checked here.
pub fn add_signatures<'a>(
    event: &Event,
    rules: &RoomRules,
    signatures: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>,
) -> Result<Event, EventFormatError> {
    let mut object = event.to_object();
    for (server_name, key_id, signature) in signatures {
        add_signature(&mut object, server_name, key_id, signature.to_owned());
    }
    let json = canonical_json::encode(&Value::Object(object));
    if json.len() > PDU_SIZE_BYTES_MAX {
        return Err(EventFormatError::TooLarge);
    }
    Event::from_stored(&json, event.event_id(), event.room_id(), rules)
}

fn sign_object(
    object: &mut Map<String, Value>,
    rules: &RoomRules,
    server_name: &ServerName,
    key: &SigningKey,
) {
    let signature = key.sign(signed_bytes(&redact(rules, object)).as_bytes());
    add_signature(object, server_name.as_str(), key.key_id(), signature);
}

/// How much of the event is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// For the content hash: neither hashes nor signatures.
    Hashed,
    /// For the signature and the reference hash: what a redaction leaves, with the hashes.
    Redacted,
    Complete,
}

/// The parts of an event as JSON texts, to be written three times in canonical order.
struct Fields<'a> {
    draft: &'a EventDraft,
    event_id: Option<String>,
    auth_events: String,
    prev_events: String,
    hashes: String,
    signatures: String,
}

impl<'a> Fields<'a> {
    fn new(
        draft: &'a EventDraft,
        rules: &RoomRules,
        server_name: &ServerName,
    ) -> Result<Self, SealError> {
        let names = match (&draft.opaque_names, rules.has_event_id_field()) {
            (Some(names), true) => Some(names),
            (None, true) => return Err(SealError::OpaqueNamesMissing),
            (_, false) => None,
        };
        Ok(Self {
            draft,
            event_id: names.map(|names| format!("${}:{server_name}", names.opaque_id)),
            auth_events: encode_links(&draft.auth_events, names)?,
            prev_events: encode_links(&draft.prev_events, names)?,
            hashes: String::new(),
            signatures: String::new(),
        })
    }

    /// The event with `content`, its keys in canonical order.
    fn write(&self, content: &str, extent: Extent) -> String {
        let draft = self.draft;
        let mut text = String::with_capacity(content.len() + 900);
        text.push_str(r#"{"auth_events":"#);
        text.push_str(&self.auth_events);
        text.push_str(r#","content":"#);
        text.push_str(content);
        append_number(&mut text, r#","depth":"#, draft.depth);
        append_string(&mut text, r#","event_id":"#, self.event_id.as_deref());
        if extent != Extent::Hashed {
            text.push_str(r#","hashes":"#);
            text.push_str(&self.hashes);
        }
        if let Some(sticky_ms) = draft.sticky_ms.filter(|_| extent != Extent::Redacted) {
            append_number(&mut text, r#","msc4354_sticky":{"duration_ms":"#, sticky_ms.into());
            text.push('}');
        }
        append_number(&mut text, r#","origin_server_ts":"#, draft.origin_server_ts);
        text.push_str(r#","prev_events":"#);
        text.push_str(&self.prev_events);
        if extent != Extent::Redacted {
            let redacts = draft.redacts.as_ref().map(|redacts| redacts.as_str());
            append_string(&mut text, r#","redacts":"#, redacts);
        }
        let room_id = draft.room_id.as_ref().map(|room_id| room_id.as_str());
        append_string(&mut text, r#","room_id":"#, room_id);
        append_string(&mut text, r#","sender":"#, Some(draft.sender.as_str()));
        if extent == Extent::Complete {
            text.push_str(r#","signatures":"#);
            text.push_str(&self.signatures);
        }
        append_string(&mut text, r#","state_key":"#, draft.state_key.as_deref());
        append_string(&mut text, r#","type":"#, Some(&draft.kind));
        text.push('}');
        text
    }
}

fn append_number(text: &mut String, key: &str, value: i64) {
    write!(text, "{key}{value}").expect("writing to a string cannot fail");
}

fn append_string(text: &mut String, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        text.push_str(key);
        canonical_json::append(text, &value);
    }
}

/// Links as event IDs, or (versions 1 and 2) as pairs of ID and hashes.
fn encode_links(links: &[OwnedEventId], names: Option<&OpaqueNames>) -> Result<String, SealError> {
    let mut text = String::with_capacity(2 + links.len() * 48);
    for link in links {
        text.push(if text.is_empty() { '[' } else { ',' });
        match names {
            None => canonical_json::append(&mut text, &link.as_str()),
            Some(names) => {
                let hash = names.reference_hashes.get(link);
                let hash = hash.ok_or_else(|| SealError::ReferenceHashMissing(link.clone()))?;
                let pair = serde_json::json!([link.as_str(), { "sha256": hash }]);
                canonical_json::append(&mut text, &pair);
            }
        }
    }
    if text.is_empty() {
        text.push('[');
    }
    text.push(']');
    Ok(text)
}

fn encode_object(object: Map<String, Value>) -> String {
    if object.is_empty() { "{}".to_owned() } else { canonical_json::encode(&Value::Object(object)) }
}
