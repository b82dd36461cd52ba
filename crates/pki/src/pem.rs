//! PEM armour (RFC 7468).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Error;

/// One block.
pub(crate) struct Block {
    pub(crate) label: String,
    pub(crate) der: Vec<u8>,
}

/// Wraps DER bytes, 64 characters a line.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).expect("invariant: base64 is ASCII"));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// All blocks of a text; what stands between blocks, and headers within them, is ignored.
pub(crate) fn decode(text: &str) -> Result<Vec<Block>, Error> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        let line = line.trim();
        match &mut open {
            None => {
                if let Some(label) = line
                    .strip_prefix("-----BEGIN ")
                    .and_then(|l| l.strip_suffix("-----"))
                {
                    open = Some((label.to_string(), String::new()));
                }
            }
            Some((label, body)) => {
                if line.starts_with("-----END ") {
                    let der = STANDARD
                        .decode(body.as_bytes())
                        .map_err(|_| Error::BadPem(label.clone()))?;
                    blocks.push(Block {
                        label: std::mem::take(label),
                        der,
                    });
                    open = None;
                } else if !line.contains(':') {
                    body.push_str(line);
                }
            }
        }
    }
    Ok(blocks)
}
