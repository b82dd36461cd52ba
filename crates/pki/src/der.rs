//! The few DER forms that certificates and certificate requests are made of.

use crate::Error;

/// Tag, length, value.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    let length = content.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let skip = bytes.iter().take_while(|b| **b == 0).count();
        out.push(0x80 | (bytes.len() - skip) as u8);
        out.extend_from_slice(&bytes[skip..]);
    }
    out.extend_from_slice(content);
    out
}

/// SEQUENCE of already encoded parts.
pub(crate) fn sequence<P: AsRef<[u8]>>(parts: &[P]) -> Vec<u8> {
    constructed(0x30, parts)
}

/// SET of already encoded parts (the caller gives one part, or sorted ones).
pub(crate) fn set<P: AsRef<[u8]>>(parts: &[P]) -> Vec<u8> {
    constructed(0x31, parts)
}

/// Constructed value with any tag.
pub(crate) fn constructed<P: AsRef<[u8]>>(tag: u8, parts: &[P]) -> Vec<u8> {
    let content: Vec<u8> = parts.iter().flat_map(|p| p.as_ref().iter().copied()).collect();
    tlv(tag, &content)
}

/// INTEGER from unsigned big-endian bytes.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let skip = bytes.iter().take_while(|b| **b == 0).count();
    let digits = &bytes[skip..];
    let mut content = Vec::with_capacity(digits.len() + 1);
    if digits.first().is_none_or(|b| b & 0x80 != 0) {
        content.push(0);
    }
    content.extend_from_slice(digits);
    tlv(0x02, &content)
}

/// OBJECT IDENTIFIER.
pub(crate) fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = vec![(arcs[0] * 40 + arcs[1]) as u8];
    for arc in &arcs[2..] {
        let mut groups = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        content.extend(groups.iter().rev());
    }
    tlv(0x06, &content)
}

/// OCTET STRING.
pub(crate) fn octets(content: &[u8]) -> Vec<u8> {
    tlv(0x04, content)
}

/// BIT STRING of whole bytes.
pub(crate) fn bits(content: &[u8]) -> Vec<u8> {
    let mut all = vec![0u8];
    all.extend_from_slice(content);
    tlv(0x03, &all)
}

/// BIT STRING of named bits, bit 0 being the most significant, without trailing zero bits.
pub(crate) fn named_bits(set: u16) -> Vec<u8> {
    let Some(last) = (0..16).rev().find(|bit| set & (1 << bit) != 0) else {
        return tlv(0x03, &[0]);
    };
    let mut bytes = vec![0u8; last / 8 + 1];
    for bit in 0..=last {
        if set & (1 << bit) != 0 {
            bytes[bit / 8] |= 0x80 >> (bit % 8);
        }
    }
    let mut content = vec![(7 - last % 8) as u8];
    content.extend(bytes);
    tlv(0x03, &content)
}

/// BOOLEAN TRUE.
pub(crate) fn yes() -> Vec<u8> {
    tlv(0x01, &[0xff])
}

/// UTF8String.
pub(crate) fn utf8(text: &str) -> Vec<u8> {
    tlv(0x0c, text.as_bytes())
}

/// UTCTime before 2050, GeneralizedTime from then on (RFC 5280, 4.1.2.5).
pub(crate) fn time(at: jiff::Timestamp) -> Result<Vec<u8>, Error> {
    let utc = at.to_zoned(jiff::tz::TimeZone::UTC);
    match utc.year() {
        1950..=2049 => Ok(tlv(0x17, utc.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())),
        0..=9999 => Ok(tlv(0x18, utc.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())),
        _ => Err(Error::Time(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let table: &[(Vec<u8>, &str)] = &[
            (unsigned(&[0]), "020100"),
            (unsigned(&[0, 0x7f]), "02017f"),
            (unsigned(&[0x80]), "02020080"),
            (oid(&[1, 2, 840, 10045, 3, 1, 7]), "06082a8648ce3d030107"),
            (named_bits(0b101), "030205a0"),
            (named_bits(1 << 8), "0303070080"),
            (named_bits(0), "030100"),
            (utf8("a"), "0c0161"),
        ];
        for (have, want) in table {
            assert_eq!(&hex::encode(have), want);
        }
        assert_eq!(tlv(0x04, &[0; 300])[..4], [0x04, 0x82, 0x01, 0x2c]);
        let at = |s: &str| time(s.parse().unwrap()).unwrap();
        assert_eq!(at("2026-11-22T01:02:03Z")[2..], *b"261122010203Z");
        assert_eq!(at("2050-01-01T00:00:00Z")[2..], *b"20500101000000Z");
    }
}
