//! Which servers a room lets take part (client-server API, "Server Access Control Lists (ACLs) for
//! rooms").

use ruma::ServerName;
use serde_json::{Map, Value};

use super::event::Event;

/// The longest pattern that is looked at, bytes: a server name has 255 at most.
const PATTERN_BYTES_MAX: usize = 512;

/// Whether a server may take part, by the room's current `m.room.server_acl` (None: all may).
pub fn is_server_allowed(acl: Option<&Event>, server: &ServerName) -> bool {
    let Some(acl) = acl else { return true };
    let content: Map<String, Value> = acl.content_as().unwrap_or_default();
    // Ports do not count; names match in any case.
    let host = server.host().to_ascii_lowercase();
    let allows_ip_literals = content.get("allow_ip_literals").and_then(Value::as_bool);
    if allows_ip_literals == Some(false) && server.is_ip_literal() {
        return false;
    }
    let matches = |list: &str| {
        let patterns = content.get(list).and_then(Value::as_array);
        let patterns = patterns.into_iter().flatten().filter_map(Value::as_str);
        patterns
            .filter(|pattern| pattern.len() <= PATTERN_BYTES_MAX)
            .any(|pattern| glob_matches(pattern.to_ascii_lowercase().as_bytes(), host.as_bytes()))
    };
    !matches("deny") && matches("allow")
}

/// `*` for any text, `?` for one character; in time proportional to the product of the lengths.
pub(super) fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    // Where the last `*` stood, and the text that it takes up to now.
    let mut star: Option<(usize, usize)> = None;
    while position < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, position));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[position] => {
                at += 1;
                position += 1;
            }
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    position = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::room_version::RoomVersion;

    fn check(content: &str, server: &str, expect: bool) {
        let json = format!(
            r#"{{"auth_events":[],"content":{content},"depth":1,"hashes":{{}},"origin_server_ts":1,"prev_events":[],"room_id":"!a:b","sender":"@a:b","signatures":{{}},"state_key":"","type":"m.room.server_acl"}}"#
        );
        let event = Event::from_stored(
            &json,
            "$x".try_into().unwrap(),
            "!a:b".try_into().unwrap(),
            RoomVersion::V11.rules(),
        );
        let server = ServerName::parse(server).unwrap();
        assert_eq!(is_server_allowed(Some(&event.unwrap()), &server), expect, "{content} {server}");
    }

    #[test]
    fn denied_servers_are_denied_and_only_allowed_ones_allowed() {
        let all = r#"{"allow":["*"],"deny":["*.evil.com","evil.com"]}"#;
        check(all, "good.com", true);
        check(all, "evil.com", false);
        check(all, "EVIL.com:8448", false);
        check(all, "very.evil.com", false);
        check(all, "notevil.com", true);
        check("{}", "good.com", false);
        check(r#"{"allow":["a?c.*"]}"#, "abc.org", true);
        check(r#"{"allow":["a?c.*"]}"#, "ac.org", false);
        check(r#"{"allow":["*a*b"]}"#, "aabab", true);
    }

    #[test]
    fn ip_literals_are_allowed_unless_the_room_says_otherwise() {
        check(r#"{"allow":["*"]}"#, "1.2.3.4", true);
        check(r#"{"allow":["*"],"allow_ip_literals":false}"#, "1.2.3.4:80", false);
        check(r#"{"allow":["*"],"allow_ip_literals":false}"#, "[::1]:80", false);
        check(r#"{"allow":["*"],"allow_ip_literals":"no"}"#, "1.2.3.4", true);
    }
}
