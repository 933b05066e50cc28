//! From what a page says to what clients get: OpenGraph properties (ogp.me), filled up from what the
//! page says elsewhere. Pictures are left to others. Pure.

use serde_json::{Map, Value};
use url::Url;

use super::{
    oembed::Embed,
    page::{Page, tidy},
};

const TITLE_CHARS_MAX: usize = 300;
const DESCRIPTION_CHARS_MAX: usize = 500;
/// Properties that clients get.
const PROPERTIES_MAX: usize = 40;

/// All that is known of a page.
#[derive(Debug)]
pub struct Sources {
    /// Where it is, to which other addresses are relative.
    pub base: Url,
    pub page: Page,
    pub embed: Option<Embed>,
}

impl Sources {
    /// Whether the page says too little itself.
    pub fn wants_embed(&self) -> bool {
        self.page.embed.is_some()
            && (self.find(&["og:title"]).is_none() || self.find_picture().is_none())
    }

    pub fn embed_url(&self) -> Option<Url> {
        self.base.join(self.page.embed.as_deref()?).ok()
    }

    /// The address of the picture that stands for the page.
    pub fn picture_url(&self) -> Option<Url> {
        self.base.join(&self.find_picture()?).ok()
    }

    /// The properties, without pictures: those are elsewhere than the page says.
    pub fn describe(&self) -> Map<String, Value> {
        let mut preview = Map::new();
        let own = self.page.properties.iter();
        let own = own.filter(|(name, _)| name.starts_with("og:") && !name.starts_with("og:image"));
        for (name, value) in own {
            if preview.len() < PROPERTIES_MAX && !preview.contains_key(name) {
                preview.insert(name.clone(), value.as_str().into());
            }
        }
        let embed = self.embed.as_ref();
        let title = self
            .find(&["og:title", "twitter:title"])
            .or_else(|| embed?.title.clone())
            .or_else(|| self.page.title.clone());
        let description = self
            .find(&["og:description", "twitter:description", "description"])
            .or_else(|| embed?.author.clone())
            .or_else(|| self.page.paragraph.clone());
        let site = self.find(&["og:site_name"]).or_else(|| embed?.provider.clone());
        for (name, text, chars_max) in [
            ("og:title", title, TITLE_CHARS_MAX),
            ("og:description", description, DESCRIPTION_CHARS_MAX),
            ("og:site_name", site, TITLE_CHARS_MAX),
        ] {
            if let Some(text) = text.and_then(|text| tidy(&text, chars_max)) {
                preview.insert(name.to_owned(), text.into());
            }
        }
        preview
    }

    fn find_picture(&self) -> Option<String> {
        const NAMES: [&str; 5] = [
            "og:image:secure_url",
            "og:image",
            "og:image:url",
            "twitter:image",
            "twitter:image:src",
        ];
        self.find(&NAMES)
            .or_else(|| self.page.image.clone())
            .or_else(|| self.embed.as_ref()?.picture.clone())
    }

    /// The first value of the first of these names that there is.
    fn find(&self, names: &[&str]) -> Option<String> {
        let properties = &self.page.properties;
        names.iter().find_map(|wanted| {
            properties.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::page, *};

    fn sources(html: &str) -> Sources {
        let base = Url::parse("https://example.org/a/b").unwrap();
        Sources { base, page: page::read(html), embed: None }
    }

    #[test]
    fn own_properties_come_first() {
        let sources = sources(
            r#"<title>T</title><meta property="og:title" content="O">
            <meta name="description" content="D"><meta property="og:type" content="article">
            <meta property="og:image" content="../i.png"><meta property="og:image:width" content="9">"#,
        );
        let expect = json!({ "og:title": "O", "og:description": "D", "og:type": "article" });
        assert_eq!(Value::Object(sources.describe()), expect);
        assert_eq!(sources.picture_url().unwrap().as_str(), "https://example.org/i.png");
    }

    #[test]
    fn plain_page_has_its_title() {
        let sources = sources("<title>T</title><p>no");
        assert_eq!(Value::Object(sources.describe()), json!({ "og:title": "T" }));
        assert_eq!(sources.picture_url(), None);
        assert!(!sources.wants_embed());
    }
}
