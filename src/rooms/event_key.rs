//! The short form in which the store keeps the IDs of events. Not for finding events.

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ruma::{EventId, OwnedEventId};

use crate::protocol::room_version::{EventIdFormat, RoomRules};

const UNPADDED: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_encode_padding(false)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, UNPADDED);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, UNPADDED);

/// What `event_keys` holds for an event ID: the 32 bytes of its hash from room version 3 on,
/// the ID itself before.
pub fn event_key(id: &EventId) -> Vec<u8> {
    let text = id.as_str();
    let hash = text.strip_prefix('$').filter(|hash| hash.len() == 43);
    let decoded = hash.and_then(|hash| match hash.contains(['+', '/']) {
        true => BASE64.decode(hash).ok(),
        false => BASE64_URL.decode(hash).ok(),
    });
    decoded.unwrap_or_else(|| text.as_bytes().to_vec())
}

pub(super) fn event_id_of_key(key: &[u8], rules: &RoomRules) -> Result<OwnedEventId, String> {
    let text = match rules.event_id_format {
        EventIdFormat::Opaque => String::from_utf8_lossy(key).into_owned(),
        EventIdFormat::Base64 => format!("${}", BASE64.encode(key)),
        EventIdFormat::UrlSafeBase64 => format!("${}", BASE64_URL.encode(key)),
    };
    EventId::parse(text).map_err(|error| error.to_string())
}
