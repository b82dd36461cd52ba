//! Query strings without allocation where nothing is escaped.

use std::borrow::Cow;

/// A raw query string (`a=b&c=d`), searched on demand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<'a> {
    raw: &'a str,
}

impl<'a> Query<'a> {
    /// Wraps the part of a URL behind `?`.
    pub fn new(raw: &'a str) -> Self {
        Self { raw }
    }

    /// The string as it came.
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The first value of `key`, decoded.
    pub fn get(&self, key: &str) -> Option<Cow<'a, str>> {
        self.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// All values of `key`, decoded.
    pub fn all(&self, key: &str) -> Vec<String> {
        self.iter()
            .filter(|(k, _)| k == key)
            .map(|(_, v)| v.into_owned())
            .collect()
    }

    /// Whether `key` is given as true: upstream's query booleans are true unless empty-of-key, `0` or `false`.
    pub fn flag(&self, key: &str) -> bool {
        match self.get(key) {
            None => false,
            Some(value) => !matches!(value.as_ref(), "0" | "false" | "False" | "FALSE" | "f" | "F"),
        }
    }

    /// All pairs in order, decoded.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        self.raw.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(k, true), percent_decode(v, true))
        })
    }
}

/// Decodes `%XX` and, with `plus`, `+` as a space. A malformed escape stays as it is.
pub fn percent_decode(raw: &str, plus: bool) -> Cow<'_, str> {
    if !raw.bytes().any(|b| b == b'%' || (plus && b == b'+')) {
        return Cow::Borrowed(raw);
    }
    let bytes = raw.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let hex = bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok());
                if let Some(byte) = hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
                    out.push(byte);
                    i += 3;
                    continue;
                }
                out.push(b'%');
            }
            b'+' if plus => out.push(b' '),
            other => out.push(other),
        }
        i += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let q = Query::new("watch&labelSelector=a%3Db%2Cc+in+%28d%29&x=1&x=2&f=false&bad=%zz");
        assert!(q.flag("watch"));
        assert!(!q.flag("f"));
        assert!(!q.flag("absent"));
        assert_eq!(q.get("labelSelector").unwrap(), "a=b,c in (d)");
        assert_eq!(q.all("x"), ["1", "2"]);
        assert_eq!(q.get("bad").unwrap(), "%zz");
    }
}
