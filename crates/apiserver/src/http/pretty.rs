//! Indents JSON without parsing it into values: order and numbers stay as they are.

/// The JSON with two spaces per level and a line feed at its end.
pub(crate) fn pretty(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0usize;
    let mut at = 0;
    while at < json.len() {
        let byte = json[at];
        match byte {
            b'"' => {
                let end = string_end(json, at);
                out.extend_from_slice(&json[at..end]);
                at = end;
                continue;
            }
            b'{' | b'[' => {
                let close = if byte == b'{' { b'}' } else { b']' };
                let next = json[at + 1..]
                    .iter()
                    .position(|b| !b.is_ascii_whitespace())
                    .map(|n| at + 1 + n);
                out.push(byte);
                if next.is_some_and(|n| json[n] == close) {
                    out.push(close);
                    at = next.unwrap_or(at) + 1;
                    continue;
                }
                depth += 1;
                indent(&mut out, depth);
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                indent(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(b',');
                indent(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b if b.is_ascii_whitespace() => {}
            other => out.push(other),
        }
        at += 1;
    }
    out
}

fn string_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < json.len() {
        match json[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    json.len()
}

fn indent(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.resize(out.len() + depth * 2, b' ');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents() {
        let got = pretty(br#"{"b":"x{\"","a":[1,{ }],"c":{}}"#);
        let expected = "{\n  \"b\": \"x{\\\"\",\n  \"a\": [\n    1,\n    {}\n  ],\n  \"c\": {}\n}";
        assert_eq!(String::from_utf8(got).unwrap(), expected);
    }
}
