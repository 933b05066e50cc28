//! What an HTML page says about itself: its properties, title, first paragraph. Reads tokens and builds
//! no tree; what is malformed is skipped. Pure.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use html5gum::{DefaultEmitter, StartTag, Token, Tokenizer};

/// How far a declaration of the character set is looked for (HTML, "prescan a byte stream").
const CHARSET_BYTES_MAX: usize = 1024;
/// Properties of a page that are kept, and how long one may be in characters.
const PROPERTIES_MAX: usize = 100;
const VALUE_CHARS_MAX: usize = 1000;
/// From this length on, in characters, a paragraph tells something.
const PARAGRAPH_CHARS_MIN: usize = 40;
/// Elements whose text is not what a page is about.
const ASIDE: [&[u8]; 7] =
    [b"nav", b"header", b"footer", b"aside", b"noscript", b"form", b"template"];

/// What was found. Texts have single spaces and are bounded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// `og:…`, `twitter:…` and the like with their values, names in lower case, in their order.
    pub properties: Vec<(String, String)>,
    pub title: Option<String>,
    pub paragraph: Option<String>,
    /// `<link rel="image_src">`
    pub image: Option<String>,
    /// `<link type="application/json+oembed">`
    pub embed: Option<String>,
}

/// Text of a page, whatever its character set; the header's word counts more than the page's.
pub fn decode(bytes: &[u8], charset: Option<&str>) -> String {
    let declared = charset.and_then(|label| Encoding::for_label(label.as_bytes()));
    let encoding = declared.or_else(|| find_declared(bytes)).unwrap_or_else(|| {
        // A page that is cut may end in the middle of a character.
        match std::str::from_utf8(bytes) {
            Err(error) if error.error_len().is_some() => WINDOWS_1252,
            _ => UTF_8,
        }
    });
    // A byte order mark counts most.
    encoding.decode(bytes).0.into_owned()
}

pub fn read(html: &str) -> Page {
    let mut emitter = DefaultEmitter::default();
    // What stands in scripts and styles is no markup.
    emitter.naively_switch_states(true);
    let mut reader = Reader::default();
    for token in Tokenizer::new_with_emitter(html, emitter) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) => reader.open(&tag),
            Token::EndTag(tag) => reader.close(&tag.name),
            Token::String(text) => reader.hear(&String::from_utf8_lossy(&text)),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
    }
    reader.page
}

/// One line of at most `chars_max` characters; `None` when nothing is left.
pub fn tidy(text: &str, chars_max: usize) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    let visible = |char: &char| !char.is_control();
    let mut cut: String = line.chars().filter(visible).take(chars_max).collect();
    if line.chars().nth(chars_max).is_some() {
        cut.pop();
        cut.push('…');
    }
    (!cut.is_empty()).then_some(cut)
}

/// Where the reading is.
#[derive(Default)]
struct Reader {
    page: Page,
    /// The element whose text is being gathered, and the text.
    gathered: Option<(Element, String)>,
    /// How deep in elements that are aside.
    aside: usize,
    /// How deep in pictures, which have titles too.
    drawing: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    Title,
    Paragraph,
    /// What nobody sees.
    Hidden,
}

impl Reader {
    fn open(&mut self, tag: &StartTag<()>) {
        let name: &[u8] = &tag.name;
        match name {
            b"meta" => self.note_property(tag),
            b"link" => self.note_link(tag),
            b"svg" => self.drawing += 1,
            b"title" if self.drawing == 0 && self.page.title.is_none() => {
                self.gathered = Some((Element::Title, String::new()));
            }
            b"script" | b"style" => self.gathered = Some((Element::Hidden, String::new())),
            b"p" => {
                self.finish();
                if self.aside == 0 && self.page.paragraph.is_none() {
                    self.gathered = Some((Element::Paragraph, String::new()));
                }
            }
            name if ASIDE.contains(&name) => self.aside += 1,
            _ => {}
        }
    }

    fn close(&mut self, name: &[u8]) {
        match name {
            b"title" | b"script" | b"style" | b"p" | b"body" | b"div" | b"article" => {
                self.finish();
            }
            b"svg" => self.drawing = self.drawing.saturating_sub(1),
            name if ASIDE.contains(&name) => self.aside = self.aside.saturating_sub(1),
            _ => {}
        }
    }

    fn hear(&mut self, text: &str) {
        if let Some((_, gathered)) = &mut self.gathered
            && gathered.len() < VALUE_CHARS_MAX * 4
        {
            gathered.push_str(text);
        }
    }

    fn finish(&mut self) {
        let Some((element, text)) = self.gathered.take() else { return };
        let text = tidy(&text, VALUE_CHARS_MAX);
        match element {
            Element::Title => self.page.title = text,
            Element::Paragraph => {
                let tells = |text: &String| text.chars().count() >= PARAGRAPH_CHARS_MIN;
                self.page.paragraph = text.filter(tells);
            }
            Element::Hidden => {}
        }
    }

    fn note_property(&mut self, tag: &StartTag<()>) {
        let name = attribute(tag, b"property").or_else(|| attribute(tag, b"name"));
        let (Some(name), Some(value)) = (name, attribute(tag, b"content")) else { return };
        let name = name.trim().to_ascii_lowercase();
        let is_known =
            name.starts_with("og:") || name.starts_with("twitter:") || name == "description";
        if is_known
            && self.page.properties.len() < PROPERTIES_MAX
            && let Some(value) = tidy(&value, VALUE_CHARS_MAX)
        {
            self.page.properties.push((name, value));
        }
    }

    fn note_link(&mut self, tag: &StartTag<()>) {
        let Some(href) = attribute(tag, b"href") else { return };
        let rel = attribute(tag, b"rel").unwrap_or_default().to_ascii_lowercase();
        let kind = attribute(tag, b"type").unwrap_or_default().to_ascii_lowercase();
        if kind == "application/json+oembed" {
            self.page.embed.get_or_insert(href);
        } else if rel == "image_src" {
            self.page.image.get_or_insert(href);
        }
    }
}

fn attribute(tag: &StartTag<()>, name: &[u8]) -> Option<String> {
    let value = tag.attributes.get(name)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The character set that the beginning of a page names, as `charset=…`.
fn find_declared(bytes: &[u8]) -> Option<&'static Encoding> {
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(CHARSET_BYTES_MAX)]);
    let beginning = beginning.to_ascii_lowercase();
    let (_, label) = beginning.split_once("charset=")?;
    let label = label.trim_start_matches(['"', '\'', ' ']);
    let end = label.find(['"', '\'', ' ', ';', '>', '/', '?']).unwrap_or(label.len());
    Encoding::for_label(&label.as_bytes()[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_read() {
        let page = read(
            r#"<!DOCTYPE html><html><head><svg><title>Logo</title></svg>
            <title>The  title
            &amp; more</title>
            <meta property="og:title" content="A &quot;title&quot;"><meta name=Description content=D>
            <meta property="og:empty" content=" "><meta name="viewport" content="x">
            <link rel="alternate" type="application/json+oembed" href="/o?a=1&amp;b=2">
            <script>var a = "<title>no</title><meta property='og:no' content='no'>";</script>
            </head><body><nav><p>Home, about us, everything else that is in a menu here</p></nav>
            <p>Short.</p><p>This is the <b>first</b> paragraph that tells what the page is.</p>"#,
        );
        let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expect = vec![property("og:title", "A \"title\""), property("description", "D")];
        assert_eq!(page.properties, expect);
        assert_eq!(page.title.as_deref(), Some("The title & more"));
        assert_eq!(page.embed.as_deref(), Some("/o?a=1&b=2"));
        let paragraph = "This is the first paragraph that tells what the page is.";
        assert_eq!(page.paragraph.as_deref(), Some(paragraph));
    }

    #[test]
    fn character_sets_are_found() {
        assert_eq!(decode("Grüße".as_bytes(), None), "Grüße");
        assert_eq!(decode(b"Gr\xfc\xdfe", None), "Grüße");
        assert_eq!(decode(b"Gr\xfc\xdfe", Some("iso-8859-1")), "Grüße");
        let japanese = b"<meta charset=\"shift_jis\">\x93\xfa\x96{";
        assert!(decode(japanese, None).ends_with("日本"));
        assert_eq!(decode(b"\xef\xbb\xbfok", Some("iso-8859-1")), "ok");
        // Cut in the middle of a character.
        assert!(decode(&"aü".as_bytes()[..2], None).starts_with('a'));
    }

    #[test]
    fn lines_are_cut_with_a_mark() {
        assert_eq!(tidy(" a \n b ", 10).as_deref(), Some("a b"));
        assert_eq!(tidy("abcdef", 4).as_deref(), Some("abc…"));
        assert_eq!(tidy(" \u{0} ", 4), None);
    }
}
