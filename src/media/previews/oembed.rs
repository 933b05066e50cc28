//! What a page's oEmbed answer says (oembed.com, version 1.0), for pages that say little themselves.
//! Pure.

use serde::Deserialize;

use super::page::tidy;

/// The largest answer.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
const TEXT_CHARS_MAX: usize = 300;

/// What is used of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Embed {
    pub title: Option<String>,
    pub author: Option<String>,
    pub provider: Option<String>,
    /// An address of a picture.
    pub picture: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "type", default)]
    kind: String,
    title: Option<String>,
    author_name: Option<String>,
    provider_name: Option<String>,
    thumbnail_url: Option<String>,
    /// Of photos.
    url: Option<String>,
}

pub fn read(bytes: &[u8]) -> Option<Embed> {
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let text = |text: Option<String>| text.and_then(|text| tidy(&text, TEXT_CHARS_MAX));
    let photo = answer.url.filter(|_| answer.kind == "photo");
    Some(Embed {
        title: text(answer.title),
        author: text(answer.author_name),
        provider: text(answer.provider_name),
        picture: photo.or(answer.thumbnail_url),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_are_their_own_pictures() {
        let answer =
            br#"{"type":"photo","title":" A  cat ","url":"https://a/b.png","thumbnail_url":"t"}"#;
        let embed = read(answer).unwrap();
        assert_eq!(embed.title.as_deref(), Some("A cat"));
        assert_eq!(embed.picture.as_deref(), Some("https://a/b.png"));
        let video = read(br#"{"type":"video","url":"https://a/v","thumbnail_url":"t"}"#).unwrap();
        assert_eq!(video.picture.as_deref(), Some("t"));
        assert_eq!(read(b"<html>"), None);
    }
}
