//! The words of a mail about unread messages: a heading for each room, a line for each event. Pure. Not
//! for deciding what goes into one.

use ruma::{OwnedEventId, UserId};
use serde_json::Value;

use super::letter::Letterhead;
use crate::{
    outbound::{Mail, Paragraph},
    protocol::event::Event,
    storage::RoomNid,
};

/// What is shown of one message, characters.
const TEXT_CHARS_MAX: usize = 500;
/// What is shown of the name of a person or a room, characters.
const NAME_CHARS_MAX: usize = 80;

/// What one mail tells, room by room in the order of their first events.
#[derive(Debug, Default)]
pub struct Digest {
    rooms: Vec<RoomNews>,
    events: Vec<OwnedEventId>,
}

/// What happened in one room.
#[derive(Debug)]
struct RoomNews {
    room: RoomNid,
    title: String,
    lines: Vec<String>,
}

impl Digest {
    /// Adds an event for its reader; the oldest comes first.
    pub fn add(&mut self, room: RoomNid, event: &Event, head: &Letterhead, reader: &UserId) {
        let line = describe(event, head, reader);
        self.events.push(event.event_id().to_owned());
        match self.rooms.iter_mut().find(|news| news.room == room) {
            Some(news) => news.lines.push(line),
            None => {
                self.rooms.push(RoomNews {
                    room,
                    title: name_room(event, head),
                    lines: vec![line],
                });
            }
        }
    }

    /// The mail, with a link that ends such mails; None when there is nothing to tell. It is known by the
    /// link, which nobody else has, and by what it tells: with more to tell it is another mail.
    pub fn write(self, server_name: &str, to: &str, unsubscribe: &str) -> Option<Mail> {
        let subject = match self.rooms.as_slice() {
            [] => return None,
            [only] => format!("[{server_name}] {} unread in {}", self.events.len(), only.title),
            rooms => {
                format!("[{server_name}] {} unread in {} rooms", self.events.len(), rooms.len())
            }
        };
        let events = self.events.iter().map(|event| event.as_str());
        let identity: Vec<&str> = std::iter::once(unsubscribe).chain(events).collect();
        let identity = Some(identity.join("\n"));
        let mut body = Vec::new();
        for news in self.rooms {
            body.push(Paragraph::Heading(news.title));
            body.push(Paragraph::Text(news.lines.join("\n")));
        }
        let label = "No more mails about unread messages".to_owned();
        body.push(Paragraph::Link { label, url: unsubscribe.to_owned() });
        let headers = vec![
            ("List-Unsubscribe", format!("<{unsubscribe}>")),
            // RFC 8058: a click in the mail program, without the page.
            ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()),
        ];
        Some(Mail { to: to.to_owned(), subject, body, headers, identity })
    }
}

fn name_room(event: &Event, head: &Letterhead) -> String {
    match head.room_name.as_ref().or(head.room_alias.as_ref()) {
        Some(name) => shorten(&in_one_line(name), NAME_CHARS_MAX),
        None => format!("a conversation with {}", name_sender(event, head)),
    }
}

fn name_sender(event: &Event, head: &Letterhead) -> String {
    let name = head.sender_name.as_deref().map(in_one_line).filter(|name| !name.is_empty());
    shorten(&name.unwrap_or_else(|| event.sender().to_string()), NAME_CHARS_MAX)
}

/// A line about an event. Of what is encrypted, or only an app can show, it says that it is there.
fn describe(event: &Event, head: &Letterhead, reader: &UserId) -> String {
    let sender = name_sender(event, head);
    match event.kind() {
        "m.room.message" => {
            let content: Value = event.content_as().unwrap_or_default();
            let text = content["body"].as_str().unwrap_or_default();
            format!("{sender}: {}", shorten(text.trim(), TEXT_CHARS_MAX))
        }
        "m.room.encrypted" => format!("{sender} has sent an encrypted message."),
        "m.room.member" if event.state_key() == Some(reader.as_str()) => {
            format!("{sender} invites you.")
        }
        "m.call.invite" => format!("{sender} has called."),
        _ => format!("{sender} has sent something that your app can show."),
    }
}

/// A name cannot pretend to be a line of its own, nor turn what stands around it.
fn in_one_line(text: &str) -> String {
    let is_plain = |char: &char| !char.is_control() && !is_direction(*char);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(is_plain).collect()
}

/// Whether a character changes the direction of the text behind it (Unicode, UAX #9).
fn is_direction(char: char) -> bool {
    matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn shorten(text: &str, chars_max: usize) -> String {
    let mut shown: String = text.chars().take(chars_max).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_line() {
        assert_eq!(in_one_line(" Alice\r\nBob:  hi\u{202e} "), "Alice Bob: hi");
        assert_eq!(in_one_line("\u{7}"), "");
    }

    #[test]
    fn long_texts_end_with_dots() {
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(shorten("äöü", 2), "äö…");
    }

    #[test]
    fn nothing_to_tell_is_no_mail() {
        assert!(Digest::default().write("example.org", "alice@example.org", "https://x").is_none());
    }
}
