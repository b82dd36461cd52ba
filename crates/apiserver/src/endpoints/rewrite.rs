//! What the proxies of pods, services and nodes change in answers, so that a page's links stay within the proxy: links of
//! HTML pages and the `Location` header get the proxy's path in front, and what the target says of origins is left out.

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::header::{self, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;

use crate::http::Body;

/// A tag longer than this is passed on as it is, bytes.
const MAX_TAG: usize = 64 << 10;

/// Elements with links, and the attributes that hold them.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["formaction", "src", "usemap"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text, whatever it looks like.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// Rewrites the answer of a target at `authority` (`host:port`) whose root is seen by the client at `prefix`.
pub(super) fn rewrite(response: Response<Body>, prefix: &str, authority: &str) -> Response<Body> {
    let links = Links {
        prefix: prefix.trim_end_matches('/').to_owned(),
        authority: authority.to_owned(),
    };
    let (mut parts, body) = response.into_parts();
    let location = parts.headers.get(LOCATION).and_then(|value| value.to_str().ok());
    if let Some(Ok(value)) = location
        .and_then(|location| links.rewrite(location))
        .map(HeaderValue::try_from)
    {
        parts.headers.insert(LOCATION, value);
    }
    for name in [
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        header::ACCESS_CONTROL_ALLOW_METHODS,
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
    ] {
        parts.headers.remove(name);
    }
    if !is_plain_html(&parts.headers) {
        return Response::from_parts(parts, body);
    }
    parts.headers.remove(CONTENT_LENGTH);
    let mut page = Page::new(links);
    let chunks = body.into_data_stream().map(Some);
    let rewritten = chunks.chain(stream::iter([None])).map(move |chunk| match chunk {
        Some(Ok(bytes)) => Ok(page.push(&bytes)),
        Some(Err(error)) => Err(error),
        None => Ok(page.finish()),
    });
    Response::from_parts(parts, Body::stream(rewritten))
}

/// HTML that is not compressed; what is compressed passes as it is.
fn is_plain_html(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    };
    let media_type = text(CONTENT_TYPE).split(';').next().unwrap_or("").trim();
    let encoding = text(header::CONTENT_ENCODING);
    media_type == "text/html" && (encoding.is_empty() || encoding == "identity")
}

struct Links {
    /// Without a slash at its end.
    prefix: String,
    authority: String,
}

impl Links {
    /// The link as the client has to follow it; `None` where it stays: relative links and those to other hosts.
    fn rewrite(&self, link: &str) -> Option<String> {
        let path = match link.strip_prefix("//") {
            Some(rest) => self.path_here(rest)?,
            None => match link.split_once("://") {
                Some(("http" | "https", rest)) => self.path_here(rest)?,
                _ => link,
            },
        };
        if !path.starts_with('/') {
            return None;
        }
        if path.starts_with(&self.prefix) {
            return (path != link).then(|| path.to_owned());
        }
        Some(format!("{}{path}", self.prefix))
    }

    /// The path of `host/path` if the host is the target.
    fn path_here<'a>(&self, rest: &'a str) -> Option<&'a str> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        (rest[..end] == self.authority).then(|| &rest[end..])
    }
}

enum Within {
    Text,
    /// From the `<` on.
    Tag,
    Comment,
    /// The content of this element.
    Raw(&'static str),
}

/// A page that comes in chunks.
struct Page {
    links: Links,
    within: Within,
    /// What cannot be decided yet.
    pending: Vec<u8>,
}

impl Page {
    fn new(links: Links) -> Self {
        Self {
            links,
            within: Within::Text,
            pending: Vec::new(),
        }
    }

    /// What can go on of what has come.
    fn push(&mut self, chunk: &[u8]) -> Bytes {
        let mut input = std::mem::take(&mut self.pending);
        input.extend_from_slice(chunk);
        let mut out = Vec::with_capacity(input.len());
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            let used = match self.within {
                Within::Text => self.text(rest, &mut out),
                Within::Tag => self.tag(rest, &mut out),
                Within::Comment => self.until(rest, b"-->", &mut out),
                Within::Raw(name) => self.until(rest, format!("</{name}").as_bytes(), &mut out),
            };
            if used == 0 {
                break;
            }
            at += used;
        }
        self.pending = input.split_off(at);
        out.into()
    }

    /// What is left at the end.
    fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.pending).into()
    }

    fn text(&mut self, rest: &[u8], out: &mut Vec<u8>) -> usize {
        let end = rest.iter().position(|byte| *byte == b'<').unwrap_or(rest.len());
        out.extend_from_slice(&rest[..end]);
        if end < rest.len() {
            self.within = Within::Tag;
        }
        // A tag at the very beginning uses nothing here.
        if end == 0 { self.tag(rest, out) } else { end }
    }

    fn tag(&mut self, rest: &[u8], out: &mut Vec<u8>) -> usize {
        const COMMENT: &[u8] = b"<!--";
        if rest.starts_with(COMMENT) {
            self.within = Within::Comment;
            out.extend_from_slice(COMMENT);
            return COMMENT.len();
        }
        if rest.len() < COMMENT.len() && COMMENT.starts_with(rest) {
            return 0;
        }
        let Some(end) = end_of_tag(rest) else {
            if rest.len() < MAX_TAG {
                return 0;
            }
            self.within = Within::Text;
            out.extend_from_slice(rest);
            return rest.len();
        };
        self.within = Within::Text;
        let Ok(tag) = std::str::from_utf8(&rest[..end]) else {
            out.extend_from_slice(&rest[..end]);
            return end;
        };
        let name = tag[1..]
            .split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap_or("")
            .to_ascii_lowercase();
        if let Some(raw) = RAW.iter().find(|raw| **raw == name) {
            self.within = Within::Raw(raw);
        }
        match LINKS.iter().find(|(element, _)| *element == name) {
            Some((_, attributes)) => out.extend_from_slice(self.with_links(tag, attributes).as_bytes()),
            None => out.extend_from_slice(tag.as_bytes()),
        }
        end
    }

    fn until(&mut self, rest: &[u8], mark: &[u8], out: &mut Vec<u8>) -> usize {
        let found = rest
            .windows(mark.len())
            .position(|window| window.eq_ignore_ascii_case(mark));
        if let Some(at) = found {
            // The end of an element's text is a tag of its own.
            let comment = matches!(self.within, Within::Comment);
            self.within = if comment { Within::Text } else { Within::Tag };
            let used = if comment { at + mark.len() } else { at };
            out.extend_from_slice(&rest[..used]);
            return if used == 0 { self.tag(rest, out) } else { used };
        }
        let used = (rest.len() + 1).saturating_sub(mark.len());
        out.extend_from_slice(&rest[..used]);
        used
    }

    /// The tag with its links rewritten.
    fn with_links(&self, tag: &str, attributes: &[&str]) -> String {
        let mut out = String::with_capacity(tag.len() + self.links.prefix.len());
        let mut copied = 0;
        for (name, value) in attributes_of(tag) {
            let link = &tag[value.clone()];
            if attributes.iter().any(|known| known.eq_ignore_ascii_case(name))
                && let Some(rewritten) = self.links.rewrite(link)
            {
                out.push_str(&tag[copied..value.start]);
                out.push_str(&rewritten);
                copied = value.end;
            }
        }
        out.push_str(&tag[copied..]);
        out
    }
}

/// The length of the tag at the beginning, its `>` included; one within quotes does not count.
fn end_of_tag(rest: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in rest.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), close) if open == *close => quote = None,
            _ => {}
        }
    }
    None
}

/// Names of a tag's attributes, and where their values stand, without quotes.
fn attributes_of(tag: &str) -> Vec<(&str, std::ops::Range<usize>)> {
    let bytes = tag.as_bytes();
    let skip = |mut at: usize, test: fn(u8) -> bool| {
        while at < bytes.len() && test(bytes[at]) {
            at += 1;
        }
        at
    };
    let space = |byte: u8| byte.is_ascii_whitespace() || byte == b'/';
    let mut found = Vec::new();
    let mut at = skip(1, |byte| byte.is_ascii_alphanumeric());
    loop {
        let start = skip(at, space);
        let end = skip(start, |byte| {
            !byte.is_ascii_whitespace() && !matches!(byte, b'=' | b'>' | b'/')
        });
        if start == end {
            return found;
        }
        at = skip(end, |byte| byte.is_ascii_whitespace());
        if bytes.get(at) != Some(&b'=') {
            continue;
        }
        at = skip(at + 1, |byte| byte.is_ascii_whitespace());
        let value = match bytes.get(at) {
            Some(quote @ (b'"' | b'\'')) => {
                let length = bytes[at + 1..].iter().position(|byte| byte == quote);
                at + 1..at + 1 + length.unwrap_or(bytes.len() - at - 1)
            }
            _ => at..skip(at, |byte| !byte.is_ascii_whitespace() && byte != b'>'),
        };
        let quoted = usize::from(
            bytes
                .get(value.end)
                .is_some_and(|byte| matches!(byte, b'"' | b'\'')),
        );
        at = value.end + quoted;
        found.push((&tag[start..end], value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links {
            prefix: "/p/proxy".to_owned(),
            authority: "10.1.2.3:80".to_owned(),
        }
    }

    #[test]
    fn links_get_the_prefix() {
        for (link, expected) in [
            ("/x?y=1", Some("/p/proxy/x?y=1")),
            ("x", None),
            ("#x", None),
            ("mailto:x", None),
            ("/p/proxy/x", None),
            ("http://10.1.2.3:80/x", Some("/p/proxy/x")),
            ("//10.1.2.3:80/x", Some("/p/proxy/x")),
            ("http://10.1.2.3:80/p/proxy/x", Some("/p/proxy/x")),
            ("http://other/x", None),
            ("//other/x", None),
        ] {
            assert_eq!(links().rewrite(link).as_deref(), expected, "{link}");
        }
    }

    #[test]
    fn pages_are_rewritten_however_they_are_cut() {
        let page = "<html><!-- <a href=\"/no\"> --><A class=b HREF='/yes' >x</A><script src=/s>\"<a href='/no'>\"</script>\
                    <img alt=\">\" src=\"/i\"/><a href>y</a><p title='<' cite=/no>1 < 2</p><a href=\"/end\"";
        let expected = "<html><!-- <a href=\"/no\"> --><A class=b HREF='/p/proxy/yes' >x</A><script src=/p/proxy/s>\
                        \"<a href='/no'>\"</script><img alt=\">\" src=\"/p/proxy/i\"/><a href>y</a>\
                        <p title='<' cite=/no>1 < 2</p><a href=\"/end\"";
        for size in [1, 2, 7, 1000] {
            let mut rewriting = Page::new(links());
            let mut out = Vec::new();
            for chunk in page.as_bytes().chunks(size) {
                out.extend_from_slice(&rewriting.push(chunk));
            }
            out.extend_from_slice(&rewriting.finish());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "chunks of {size}");
        }
    }
}
