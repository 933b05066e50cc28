//! What is fuzzed, a file each: `run` takes any bytes, panics when a promise is broken, and says in
//! a few words what it made of them; `seeds` are the inputs from which mutations begin.

pub mod authorisation;
pub mod canonical_json;
pub mod documents;
pub mod events;
pub mod identifiers;
pub mod requests;
pub mod state_resolution;

use hearth::protocol::room_version::RoomVersion;

/// Takes the room version from the first byte, and the rest as text.
fn split_version(input: &[u8]) -> Option<(RoomVersion, &str)> {
    let (first, rest) = input.split_first()?;
    let version = RoomVersion::ALL[usize::from(*first) % RoomVersion::ALL.len()];
    Some((version, std::str::from_utf8(rest).ok()?))
}

/// The opposite of [`split_version`].
fn with_version(version: RoomVersion, text: &str) -> Vec<u8> {
    let number = RoomVersion::ALL.iter().position(|other| *other == version).unwrap();
    [&[number as u8], text.as_bytes()].concat()
}

/// An error without what differs from input to input, so that equal failures are equal outcomes.
fn kind_of_error(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split(['"', '(']).next().unwrap_or_default().to_owned()
}
