//! What is written to disk: operations, encoded the same way in the journal and in the checkpoint.
//!
//! All integers are little endian. An operation is a tag byte, fixed fields, then key and value with their lengths.

/// One durable change. Borrowed, because encoding copies once and decoding copies only what stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op<'a> {
    /// `key` was written at `revision`; it exists since `create`.
    Put {
        revision: u64,
        create: u64,
        lease: i64,
        key: &'a [u8],
        value: &'a [u8],
    },
    /// `key` was deleted at `revision`.
    Delete { revision: u64, key: &'a [u8] },
    /// History before this revision was given up.
    Compact { revision: u64 },
    /// A lease was granted.
    LeaseGrant { id: i64, ttl: u64 },
    /// A lease expired or was revoked.
    LeaseEnd { id: i64 },
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const COMPACT: u8 = 3;
const LEASE_GRANT: u8 = 4;
const LEASE_END: u8 = 5;

impl<'a> Op<'a> {
    /// Appends the encoding to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Op::Put {
                revision,
                create,
                lease,
                key,
                value,
            } => {
                out.push(PUT);
                out.extend_from_slice(&revision.to_le_bytes());
                out.extend_from_slice(&create.to_le_bytes());
                out.extend_from_slice(&lease.to_le_bytes());
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Op::Delete { revision, key } => {
                out.push(DELETE);
                out.extend_from_slice(&revision.to_le_bytes());
                put_bytes(out, key);
            }
            Op::Compact { revision } => {
                out.push(COMPACT);
                out.extend_from_slice(&revision.to_le_bytes());
            }
            Op::LeaseGrant { id, ttl } => {
                out.push(LEASE_GRANT);
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&ttl.to_le_bytes());
            }
            Op::LeaseEnd { id } => {
                out.push(LEASE_END);
                out.extend_from_slice(&id.to_le_bytes());
            }
        }
    }

    /// Takes one operation off the front of `input`; `None` when the bytes are not one.
    pub(super) fn decode(input: &mut &'a [u8]) -> Option<Op<'a>> {
        let (&tag, rest) = input.split_first()?;
        *input = rest;
        Some(match tag {
            PUT => Op::Put {
                revision: take_u64(input)?,
                create: take_u64(input)?,
                lease: take_u64(input)?.cast_signed(),
                key: take_bytes(input)?,
                value: take_bytes(input)?,
            },
            DELETE => Op::Delete {
                revision: take_u64(input)?,
                key: take_bytes(input)?,
            },
            COMPACT => Op::Compact {
                revision: take_u64(input)?,
            },
            LEASE_GRANT => Op::LeaseGrant {
                id: take_u64(input)?.cast_signed(),
                ttl: take_u64(input)?,
            },
            LEASE_END => Op::LeaseEnd {
                id: take_u64(input)?.cast_signed(),
            },
            _ => return None,
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes()[..4]);
    out.extend_from_slice(bytes);
}

pub(super) fn take_u64(input: &mut &[u8]) -> Option<u64> {
    let (head, rest) = input.split_first_chunk::<8>()?;
    *input = rest;
    Some(u64::from_le_bytes(*head))
}

pub(super) fn take_u32(input: &mut &[u8]) -> Option<u32> {
    let (head, rest) = input.split_first_chunk::<4>()?;
    *input = rest;
    Some(u32::from_le_bytes(*head))
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_u32(input)? as usize;
    let (head, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_survives_and_every_cut_is_refused() {
        let ops = [
            Op::Put {
                revision: 7,
                create: 3,
                lease: -9,
                key: b"/registry/a",
                value: b"value",
            },
            Op::Put {
                revision: u64::MAX,
                create: 1,
                lease: 0,
                key: b"",
                value: b"",
            },
            Op::Delete {
                revision: 8,
                key: b"/registry/a",
            },
            Op::Compact { revision: 5 },
            Op::LeaseGrant { id: 77, ttl: 3600 },
            Op::LeaseEnd { id: i64::MIN },
        ];
        for op in ops {
            let mut bytes = Vec::new();
            op.encode(&mut bytes);
            let mut input = bytes.as_slice();
            assert_eq!(Op::decode(&mut input), Some(op));
            assert!(input.is_empty());
            for cut in 0..bytes.len() {
                assert_eq!(Op::decode(&mut &bytes[..cut]), None, "{op:?} cut at {cut}");
            }
        }
        assert_eq!(Op::decode(&mut &[99u8, 0, 0][..]), None);
    }
}
