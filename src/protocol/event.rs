//! An event in the federation format (a PDU): immutable, checked once, held once.
//!
//! Not for building events (`event_builder`), nor for what only clients see of them (`unsigned`).

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::{
    event_format::{EventFormatError, check_and_name},
    power_levels::PowerLevelsContent,
    room_version::RoomRules,
};

/// The longest time for which an event is sticky, milliseconds (MSC4354: "1 hour").
pub const STICKY_MS_MAX: u32 = 3_600_000;

/// A persistent data unit. Passed around as `Arc<Event>`.
///
/// All its text lies in one allocation: the canonical JSON, followed by what is not a plain slice of it
/// (the event ID, a room ID that the create event implies, strings with escapes).
pub struct Event {
    text: Box<str>,
    json_length: u32,
    event_id: Span,
    room_id: Span,
    sender: Span,
    kind: Span,
    content: Span,
    state_key: Option<Span>,
    top_level_redacts: Option<Span>,
    /// The previous events, then the authorisation events.
    links: Box<[Span]>,
    prev_events_count: u32,
    depth: i64,
    origin_server_ts: i64,
    sticky_ms: Option<u32>,
    room_id_implied: bool,
    /// What an `m.room.power_levels` event says, read when first asked for: every event of a room is judged
    /// by it, and it may name thousands of users.
    power_levels: OnceLock<Arc<PowerLevelsContent>>,
}

/// A range of bytes in an event's text.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl Event {
    /// Reads an event from an untrusted source: every format rule of its room version is checked, the
    /// event ID computed, the text made canonical. `unsigned` is dropped: nothing signs it.
    ///
    /// Signatures and hashes are not verified here.
    pub fn parse(json: &str, rules: &RoomRules) -> Result<Self, EventFormatError> {
        Self::parse_with_object(json, rules).map(|(event, _)| event)
    }

    /// As [`Event::parse`], and hands over the parsed object (without `unsigned`), which the checks of
    /// signatures and hashes need.
    pub fn parse_with_object(
        json: &str,
        rules: &RoomRules,
    ) -> Result<(Self, Map<String, Value>), EventFormatError> {
        let (object, canonical, names) = check_and_name(json, rules)?;
        let event = Self::from_stored(&canonical, &names.event_id, &names.room_id, rules)?;
        Ok((event, object))
    }

    /// Holds an event whose bytes this server has made canonical and checked before. Does little: it is
    /// on the paths that read many events.
    pub fn from_stored(
        json: &str,
        event_id: &EventId,
        room_id: &RoomId,
        _rules: &RoomRules,
    ) -> Result<Self, EventFormatError> {
        let skeleton: Skeleton<'_> = serde_json::from_str(json)
            .map_err(|error| EventFormatError::Structure(error.to_string()))?;
        let capacity = json.len() + event_id.as_str().len() + room_id.as_str().len();
        let mut layout = Layout { json, text: String::with_capacity(capacity) };
        layout.text.push_str(json);

        let (links, prev_events_count) = layout.links(&skeleton);
        let kind = layout.string(skeleton.kind)?;
        let sender = layout.string(skeleton.sender)?;
        let state_key = skeleton.state_key.map(|raw| layout.string(raw)).transpose()?;
        let top_level_redacts = match skeleton.redacts {
            Some(raw) if raw.get().starts_with('"') => Some(layout.string(raw)?),
            _ => None,
        };
        let room_id_implied = skeleton.room_id.is_none();
        let room_id = match skeleton.room_id {
            Some(raw) => layout.string(raw)?,
            None => layout.append(room_id.as_str()),
        };
        let event = Self {
            content: layout.span_of(skeleton.content.get()),
            event_id: layout.append(event_id.as_str()),
            room_id,
            room_id_implied,
            power_levels: OnceLock::new(),
            sender,
            kind,
            state_key,
            top_level_redacts,
            links,
            prev_events_count,
            depth: skeleton.depth,
            origin_server_ts: skeleton.origin_server_ts,
            sticky_ms: skeleton.msc4354_sticky.and_then(read_sticky_ms),
            json_length: json.len() as u32,
            text: layout.text.into_boxed_str(),
        };
        event.check_identifiers()?;
        Ok(event)
    }

    pub fn event_id(&self) -> &EventId {
        self.text(self.event_id).try_into().expect("checked when the event was made")
    }

    pub fn room_id(&self) -> &RoomId {
        self.text(self.room_id).try_into().expect("checked when the event was made")
    }

    pub fn sender(&self) -> &UserId {
        self.text(self.sender).try_into().expect("checked when the event was made")
    }

    /// The event's type, such as `m.room.message`.
    pub fn kind(&self) -> &str {
        self.text(self.kind)
    }

    pub fn state_key(&self) -> Option<&str> {
        self.state_key.map(|span| self.text(span))
    }

    /// The content as JSON text. Costs nothing.
    pub fn content_json(&self) -> &str {
        self.text(self.content)
    }

    /// The content as raw JSON, which costs a scan of its text.
    pub fn content(&self) -> &RawValue {
        serde_json::from_str(self.content_json()).expect("checked when the event was made")
    }

    /// Reads the content, or part of it, into `T`.
    pub fn content_as<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_str(self.content_json())
    }

    /// The content as power levels, malformed values left out. Read once; `rules` must be those of the
    /// event's room.
    pub fn power_levels(&self, rules: &RoomRules) -> Arc<PowerLevelsContent> {
        let read = || {
            let content: Map<String, Value> = self.content_as().unwrap_or_default();
            Arc::new(PowerLevelsContent::parse_lenient(&content, rules))
        };
        Arc::clone(self.power_levels.get_or_init(read))
    }

    pub fn prev_events(&self) -> impl ExactSizeIterator<Item = &EventId> + '_ {
        self.event_ids(0..self.prev_events_count as usize)
    }

    pub fn auth_events(&self) -> impl ExactSizeIterator<Item = &EventId> + '_ {
        self.event_ids(self.prev_events_count as usize..self.links.len())
    }

    pub fn depth(&self) -> i64 {
        self.depth
    }

    /// Milliseconds since the Unix epoch, as the origin claims.
    pub fn origin_server_ts(&self) -> i64 {
        self.origin_server_ts
    }

    /// For how long every client is to get the event, milliseconds (MSC4354); None for one that is not
    /// sticky.
    pub fn sticky_ms(&self) -> Option<u32> {
        self.sticky_ms
    }

    /// The event that this redaction names, from where the room version puts it. `None` for other events.
    pub fn redacts(&self, rules: &RoomRules) -> Option<OwnedEventId> {
        if self.kind() != "m.room.redaction" {
            return None;
        }
        if !rules.redacts_in_content {
            return EventId::parse(self.text(self.top_level_redacts?)).ok();
        }
        let content: RedactionContent = self.content_as().ok()?;
        EventId::parse(content.redacts?.as_str()?).ok()
    }

    /// The whole event as canonical JSON, as it goes to other servers.
    pub fn json(&self) -> &str {
        &self.text[..self.json_length as usize]
    }

    /// The whole event, parsed.
    pub fn to_object(&self) -> Map<String, Value> {
        serde_json::from_str(self.json()).expect("checked when the event was made")
    }

    pub fn is_state(&self) -> bool {
        self.state_key.is_some()
    }

    /// Whether the event carries its `room_id`, which only the create event of version 12 does not.
    pub fn states_room_id(&self) -> bool {
        !self.room_id_implied
    }

    /// Whether this is a state event of type `kind` with `state_key`.
    pub fn is_state_of(&self, kind: &str, state_key: &str) -> bool {
        self.kind() == kind && self.state_key() == Some(state_key)
    }

    /// Bytes that this event occupies, for caches bounded by weight.
    pub fn weight_bytes(&self) -> usize {
        // Maps of names to numbers take up to three times the space of their JSON.
        let read =
            if self.kind() == "m.room.power_levels" { 3 * self.content_json().len() } else { 0 };
        size_of::<Self>() + self.text.len() + size_of_val(&*self.links) + read
    }

    fn text(&self, span: Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }

    fn event_ids(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = &EventId> + '_ {
        self.links[range]
            .iter()
            .map(|span| self.text(*span).try_into().expect("checked when the event was made"))
    }

    /// Proves what the accessors rely on.
    fn check_identifiers(&self) -> Result<(), EventFormatError> {
        <&EventId>::try_from(self.text(self.event_id)).map_err(|_| EventFormatError::BadEventId)?;
        <&RoomId>::try_from(self.text(self.room_id)).map_err(|_| EventFormatError::BadRoomId)?;
        <&UserId>::try_from(self.text(self.sender)).map_err(|_| EventFormatError::BadSender)?;
        for link in &self.links {
            <&EventId>::try_from(self.text(*link)).map_err(|_| EventFormatError::BadEventLink)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Event")
            .field("event_id", &self.event_id())
            .field("kind", &self.kind())
            .field("state_key", &self.state_key())
            .finish_non_exhaustive()
    }
}

/// The fields of an event that are looked at, as slices of its text.
#[derive(Deserialize)]
struct Skeleton<'a> {
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
    #[serde(borrow)]
    sender: &'a RawValue,
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    room_id: Option<&'a RawValue>,
    #[serde(borrow)]
    state_key: Option<&'a RawValue>,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
    #[serde(borrow)]
    prev_events: Vec<Link<'a>>,
    #[serde(borrow)]
    auth_events: Vec<Link<'a>>,
    #[serde(borrow)]
    msc4354_sticky: Option<&'a RawValue>,
    depth: i64,
    origin_server_ts: i64,
}

/// A reference to another event: its ID, or (versions 1 and 2) a pair of ID and hashes. Event IDs
/// never need escaping, so they can be borrowed.
struct Link<'a>(&'a str);

impl<'de: 'a, 'a> Deserialize<'de> for Link<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LinkVisitor)
    }
}

struct LinkVisitor;

impl<'de> Visitor<'de> for LinkVisitor {
    type Value = Link<'de>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an event ID or a pair of event ID and hashes")
    }

    fn visit_borrowed_str<E>(self, id: &'de str) -> Result<Link<'de>, E> {
        Ok(Link(id))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Link<'de>, A::Error> {
        let id = pair.next_element()?.ok_or_else(|| A::Error::custom("expected an event ID"))?;
        while pair.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Link(id))
    }
}

#[derive(Deserialize)]
struct RedactionContent {
    redacts: Option<Value>,
}

/// "The presence of `sticky.duration_ms` with a valid value makes the event sticky"; it lasts no longer than
/// [`STICKY_MS_MAX`] (MSC4354).
fn read_sticky_ms(sticky: &RawValue) -> Option<u32> {
    let sticky: Value = serde_json::from_str(sticky.get()).ok()?;
    let duration_ms = sticky.get("duration_ms")?.as_u64()?;
    Some(u32::try_from(duration_ms).map_or(STICKY_MS_MAX, |ms| ms.min(STICKY_MS_MAX)))
}

/// The text of an event while it is being laid out.
struct Layout<'a> {
    json: &'a str,
    text: String,
}

impl Layout<'_> {
    /// The span of a JSON string's value; one with escapes is appended to the text.
    fn string(&mut self, raw: &RawValue) -> Result<Span, EventFormatError> {
        let quoted = raw.get();
        let plain = quoted
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .ok_or_else(|| EventFormatError::Structure("expected a string".to_owned()))?;
        if !plain.contains('\\') {
            return Ok(self.span_of(plain));
        }
        let value: String = serde_json::from_str(quoted)
            .map_err(|error| EventFormatError::Structure(error.to_string()))?;
        Ok(self.append(&value))
    }

    /// Where `part`, a slice of the JSON, lies.
    fn span_of(&self, part: &str) -> Span {
        let start = part.as_ptr() as usize - self.json.as_ptr() as usize;
        Span { start: start as u32, end: (start + part.len()) as u32 }
    }

    fn append(&mut self, value: &str) -> Span {
        let start = self.text.len() as u32;
        self.text.push_str(value);
        Span { start, end: self.text.len() as u32 }
    }

    /// The spans of all links, and how many of them are previous events.
    fn links(&self, skeleton: &Skeleton<'_>) -> (Box<[Span]>, u32) {
        let links = skeleton.prev_events.iter().chain(&skeleton.auth_events);
        let spans = links.map(|link| self.span_of(link.0)).collect();
        (spans, skeleton.prev_events.len() as u32)
    }
}
