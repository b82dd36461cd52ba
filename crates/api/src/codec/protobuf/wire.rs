//! The wire format: varints, tags, lengths.

/// A message cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end within a field.
    #[error("unexpected EOF")]
    Truncated,
    /// A varint of more than 64 bits, or a length beyond the bytes.
    #[error("proto: integer overflow")]
    Overflow,
    /// A tag of zero, or a wire type that does not exist.
    #[error("proto: illegal tag {0}")]
    Tag(u64),
    /// A field of another wire type than its schema has.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType {
        /// Wire type found.
        wire: u8,
        /// JSON name of the field.
        field: String,
    },
    /// Nested more deeply than objects may be.
    #[error("proto: nested too deeply")]
    Depth,
    /// A string that is not UTF-8.
    #[error("proto: field {0} contains invalid UTF-8")]
    Utf8(String),
    /// A value that its schema does not allow, or raw bytes that are not JSON.
    #[error("proto: invalid value for field {0}")]
    Value(String),
    /// The body does not start with the magic number.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// The kind has no message.
    #[error("no protobuf message is known for {0}")]
    UnknownKind(String),
}

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const FIXED32: u8 = 5;

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(super) fn put_tag(out: &mut Vec<u8>, tag: u8, wire: u8) {
    put_varint(out, u64::from(tag) << 3 | u64::from(wire));
}

pub(super) fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    put_tag(out, tag, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_int(out: &mut Vec<u8>, tag: u8, value: i64) {
    put_tag(out, tag, VARINT);
    put_varint(out, value.cast_unsigned());
}

/// Writes a length-delimited field whose content `write` appends; its length is put in front afterwards.
pub(super) fn put_nested<E>(
    out: &mut Vec<u8>,
    tag: u8,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    put_tag(out, tag, BYTES);
    let start = out.len();
    out.push(0);
    write(out)?;
    let length = out.len() - start - 1;
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out[start] = short,
        _ => {
            let mut prefix = Vec::with_capacity(5);
            put_varint(&mut prefix, length as u64);
            out.splice(start..=start, prefix);
        }
    }
    Ok(())
}

/// A field as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl Content<'_> {
    pub(super) fn wire(&self) -> u8 {
        match self {
            Self::Varint(_) => VARINT,
            Self::Fixed64(_) => FIXED64,
            Self::Bytes(_) => BYTES,
            Self::Fixed32 => FIXED32,
        }
    }
}

/// Reads the fields of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Error::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Overflow)
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, Error> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(
            bytes.try_into().map_err(|_| Error::Truncated)?,
        ))
    }

    /// The next field's tag and content; `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u64, Content<'a>)>, Error> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = key >> 3;
        if tag == 0 {
            return Err(Error::Tag(key));
        }
        let content = match key & 7 {
            0 => Content::Varint(self.varint()?),
            1 => Content::Fixed64(self.fixed64()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Error::Overflow)?;
                Content::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Content::Fixed32
            }
            _ => return Err(Error::Tag(key)),
        };
        Ok(Some((tag, content)))
    }
}
