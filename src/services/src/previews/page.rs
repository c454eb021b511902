//! What a page says of itself: Open Graph properties, else its title, description and first words.
//!
//! Pages are taken apart into tags and text and never built into a tree, so that nesting costs nothing. What is kept of a page is
//! bounded in number and length.

use std::{cell::RefCell, collections::BTreeMap};

use encoding_rs::Encoding;
use html5ever::{
    Attribute,
    buffer_queue::BufferQueue,
    tendril::StrTendril,
    tokenizer::{Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts, states::RawKind},
};
use serde_json::{Map, Value as JsonValue};

pub(super) const TITLE_CHARS_MAX: usize = 300;
const TEXT_CHARS_MAX: usize = 1_000;
/// How much of a page's own words are shown where it does not describe itself.
const WORDS_CHARS_MAX: usize = 500;
/// How many images of a page are tried.
const IMAGES_MAX: usize = 3;
/// How far into a page its charset may be declared, in bytes.
const CHARSET_WITHIN_BYTES: usize = 1_024;
/// Open Graph properties that are passed on. Those that hold further URLs to fetch are not: clients would ask strangers for them.
const PROPERTIES: [&str; 7] =
    ["og:title", "og:type", "og:url", "og:description", "og:site_name", "og:locale", "og:determiner"];

/// What was found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    /// The first value of each property, and of the `twitter:` and `description` names that stand in for them.
    properties: BTreeMap<String, String>,
    title: String,
    words: String,
    /// The page's own images, where it names none.
    shown_images: Vec<String>,
    og_images: Vec<String>,
    /// Where its oEmbed description is.
    pub(super) oembed: Option<String>,
}

impl Page {
    /// Images that may stand for the page, the likeliest first.
    pub(super) fn images(&self) -> impl Iterator<Item = &str> {
        self.og_images.iter().chain(&self.shown_images).map(String::as_str).take(IMAGES_MAX)
    }

    /// Takes over what an oEmbed description says and the page does not.
    pub(super) fn add_oembed(&mut self, described: &Map<String, JsonValue>) {
        let text = |key: &str| described.get(key).and_then(JsonValue::as_str).filter(|text| !text.trim().is_empty());
        for (key, property) in
            [("title", "og:title"), ("provider_name", "og:site_name"), ("author_name", "og:description")]
        {
            if let Some(text) = text(key) {
                self.properties.entry(property.to_owned()).or_insert_with(|| shorten(text, TEXT_CHARS_MAX));
            }
        }
        let is_photo = text("type") == Some("photo");
        let image = if is_photo { text("url") } else { None };
        self.og_images.extend(image.or(text("thumbnail_url")).map(str::to_owned));
    }

    /// The properties of the preview, but for the image.
    pub(super) fn into_properties(self) -> Map<String, JsonValue> {
        let mut properties = Map::new();
        for name in PROPERTIES {
            if let Some(value) = self.properties.get(name) {
                properties.insert(name.to_owned(), value.as_str().into());
            }
        }
        let first = |names: &[&str]| names.iter().find_map(|name| self.properties.get(*name)).cloned();
        let title = first(&["twitter:title"]).or(Some(self.title.clone()));
        let description = first(&["twitter:description", "description"]).or(Some(self.words.clone()));
        for (name, value) in [("og:title", title), ("og:description", description)] {
            let value = value.map(|value| collapse(&value)).filter(|value| !value.is_empty());
            if let (false, Some(value)) = (properties.contains_key(name), value) {
                properties.insert(name.to_owned(), value.into());
            }
        }
        properties
    }
}

/// Whether content of this type is read as a page.
pub(super) fn is_page(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    matches!(essence, "text/html" | "application/xhtml+xml")
}

/// The page as text: in the charset of the header, else of a byte order mark, else that the page declares.
pub(super) fn decode(body: &[u8], content_type: &str) -> String {
    let labelled = content_type.split("charset=").nth(1).and_then(charset);
    let declared = || {
        let head = body.get(..CHARSET_WITHIN_BYTES).unwrap_or(body);
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        head.split("charset=").nth(1).and_then(charset)
    };
    let is_utf8 = || match std::str::from_utf8(body) {
        Ok(_) => true,
        // The last character may have been cut in two.
        Err(error) => error.error_len().is_none(),
    };
    let encoding = labelled
        .or_else(declared)
        .unwrap_or_else(|| if is_utf8() { encoding_rs::UTF_8 } else { encoding_rs::WINDOWS_1252 });
    encoding.decode(body).0.into_owned()
}

fn charset(text: &str) -> Option<&'static Encoding> {
    let label = text.trim_start_matches(['"', '\'', ' ']);
    let label = label.split(['"', '\'', ';', ' ', '>', '/']).next()?;
    Encoding::for_label(label.as_bytes())
}

/// Reads a page.
pub(super) fn read(text: &str) -> Page {
    let tokenizer = Tokenizer::new(Reader::default(), TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(StrTendril::from(text));
    // Where a script would run, reading just goes on.
    while let html5ever::TokenizerResult::Script(()) = tokenizer.feed(&input) {}
    tokenizer.end();
    tokenizer.sink.found.into_inner().page
}

#[derive(Default)]
struct Reader {
    found: RefCell<Found>,
}

#[derive(Default)]
struct Found {
    page: Page,
    in_title: bool,
    /// Depth of elements whose text is not the page's own words.
    aside: u32,
    in_paragraph: bool,
}

impl TokenSink for Reader {
    type Handle = ();

    fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
        let mut found = self.found.borrow_mut();
        match token {
            Token::TagToken(tag) => return found.read_tag(&tag),
            Token::CharacterTokens(text) => found.read_text(&text),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

impl Found {
    fn read_tag(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let is_start = tag.kind == TagKind::StartTag;
        match (&*tag.name, is_start) {
            ("script", true) => return TokenSinkResult::RawData(RawKind::ScriptData),
            ("style" | "noscript" | "iframe" | "noembed" | "noframes" | "xmp", true) => {
                return TokenSinkResult::RawData(RawKind::Rawtext);
            }
            ("textarea", true) => return TokenSinkResult::RawData(RawKind::Rcdata),
            ("title", true) => {
                self.in_title = self.page.title.is_empty();
                return TokenSinkResult::RawData(RawKind::Rcdata);
            }
            ("title", false) => self.in_title = false,
            ("meta", true) => self.read_meta(tag),
            ("link", true) => self.read_link(tag),
            ("img", true) if self.aside == 0 => self.read_image(tag),
            ("header" | "footer" | "nav" | "aside" | "button" | "svg" | "form", true) if !tag.self_closing => {
                self.aside = self.aside.saturating_add(1);
            }
            ("header" | "footer" | "nav" | "aside" | "button" | "svg" | "form", false) => {
                self.aside = self.aside.saturating_sub(1);
            }
            ("p" | "h1" | "h2" | "article", true) => {
                self.in_paragraph = true;
                self.page.words.push(' ');
            }
            ("p" | "h1" | "h2" | "article", false) => self.in_paragraph = false,
            _ => {}
        }
        TokenSinkResult::Continue
    }

    fn read_text(&mut self, text: &str) {
        if self.in_title {
            append(&mut self.page.title, text, TITLE_CHARS_MAX);
        } else if self.in_paragraph && self.aside == 0 {
            append(&mut self.page.words, text, WORDS_CHARS_MAX);
        }
    }

    fn read_meta(&mut self, tag: &Tag) {
        let name = attribute(tag, "property").or_else(|| attribute(tag, "name")).unwrap_or_default();
        let (name, Some(content)) = (name.trim().to_ascii_lowercase(), attribute(tag, "content")) else { return };
        if content.trim().is_empty() {
            return;
        }
        match name.as_str() {
            "og:image" | "og:image:url" | "og:image:secure_url" | "twitter:image" | "twitter:image:src" => {
                self.add_image(content, true);
            }
            "description" | "twitter:title" | "twitter:description" => self.add_property(name, content),
            _ if PROPERTIES.contains(&name.as_str()) => self.add_property(name, content),
            _ => {}
        }
    }

    fn add_property(&mut self, name: String, content: &str) {
        self.page.properties.entry(name).or_insert_with(|| shorten(content.trim(), TEXT_CHARS_MAX));
    }

    fn read_link(&mut self, tag: &Tag) {
        let rel = attribute(tag, "rel").unwrap_or_default().to_ascii_lowercase();
        let (kind, link) = (attribute(tag, "type").unwrap_or_default(), attribute(tag, "href").unwrap_or_default());
        if self.page.oembed.is_none()
            && rel.split_ascii_whitespace().any(|word| word == "alternate")
            && kind.eq_ignore_ascii_case("application/json+oembed")
            && !link.is_empty()
        {
            self.page.oembed = Some(link.to_owned());
        }
    }

    fn read_image(&mut self, tag: &Tag) {
        // Small ones are ornaments, or count visitors.
        let is_small = ["width", "height"]
            .iter()
            .filter_map(|side| attribute(tag, side)?.parse::<u32>().ok())
            .any(|pixels| pixels < 32);
        if let (false, Some(link)) = (is_small, attribute(tag, "src")) {
            self.add_image(link, false);
        }
    }

    fn add_image(&mut self, link: &str, is_og: bool) {
        let images = if is_og { &mut self.page.og_images } else { &mut self.page.shown_images };
        let link = link.trim();
        if images.len() < IMAGES_MAX && !link.is_empty() && !link.starts_with("data:") {
            images.push(link.to_owned());
        }
    }
}

fn attribute<'a>(tag: &'a Tag, name: &str) -> Option<&'a str> {
    tag.attrs.iter().find(|Attribute { name: found, .. }| &*found.local == name).map(|attribute| &*attribute.value)
}

/// Appends text up to a length in characters, which may be exceeded by white space that goes later.
fn append(text: &mut String, more: &str, chars_max: usize) {
    let left = chars_max.saturating_sub(text.chars().count());
    text.extend(more.chars().take(left));
}

/// The text with every run of white space made one space.
fn collapse(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text, cut to so many characters.
pub(super) fn shorten(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).collect()
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn properties(html: &str) -> Map<String, JsonValue> {
        read(html).into_properties()
    }

    #[test]
    fn open_graph_wins_over_what_stands_in_for_it() {
        let html = r#"<html><head><title>Not this</title><meta property="og:title" content="The &quot;Rock&quot;">
            <meta name="description" content="Words"><meta property="og:video" content="http://tracker.example/">
            <meta property="og:title" content="second"></head><body><p>Text</p></body></html>"#;
        let found = properties(html);
        assert_eq!(found["og:title"], "The \"Rock\"");
        assert_eq!(found["og:description"], "Words");
        assert!(!found.contains_key("og:video"));
    }

    #[test]
    fn title_and_first_words_are_used_where_there_is_nothing_else() {
        let html = "<title>A\n page &amp; more</title><nav><p>Menu</p></nav><script>var p = '<p>no</p>'</script>\
                    <style>p { }</style><h1>Head</h1><p>First <b>words</b>.</p>";
        let found = properties(html);
        assert_eq!(found["og:title"], "A page & more");
        assert_eq!(found["og:description"], "Head First words.");
    }

    #[test]
    fn deeply_nested_and_endless_pages_are_read_in_bounds() {
        let html = format!("{}<p>{}", "<div>".repeat(200_000), "word ".repeat(10_000));
        let found = properties(&html);
        assert!(found["og:description"].as_str().unwrap().chars().count() <= WORDS_CHARS_MAX);
        assert!(properties("<meta property=\"og:title\" content=\"").is_empty());
    }

    #[test]
    fn charset_is_told_by_header_mark_or_page() {
        let latin1 = b"<title>caf\xe9</title>";
        assert!(decode(latin1, "text/html; charset=iso-8859-1").contains("café"));
        assert!(decode(latin1, "text/html").contains("café"), "what is not UTF-8 is taken for windows-1252");
        let declared = b"<meta charset=\"windows-1251\"><title>\xcc\xe8\xf0</title>";
        assert!(decode(declared, "text/html").contains("Мир"));
        assert!(decode("<title>Мир</title>".as_bytes(), "text/html").contains("Мир"));
        assert!(decode(b"\xff\xfea\0b\0", "text/html").contains("ab"));
    }

    #[test]
    fn images_are_those_of_open_graph_first_and_no_ornaments() {
        let page = read(
            "<meta property=og:image content=big.png><img src=small.png width=1 height=1><img src=shown.png>\
             <img src='data:image/png;base64,AAAA'>",
        );
        assert_eq!(page.images().collect::<Vec<_>>(), ["big.png", "shown.png"]);
    }

    #[test]
    fn oembed_adds_what_the_page_does_not_say() {
        let mut page = read("<link rel=\"alternate\" type=\"application/json+oembed\" href=\"/oembed?x=1&amp;y=2\">");
        assert_eq!(page.oembed.as_deref(), Some("/oembed?x=1&y=2"));
        let described = serde_json::json!({ "type": "video", "title": "A video", "thumbnail_url": "t.png" });
        page.add_oembed(described.as_object().unwrap());
        assert_eq!(page.images().next(), Some("t.png"));
        assert_eq!(page.into_properties()["og:title"], "A video");
    }
}
