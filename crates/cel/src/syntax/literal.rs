//! Values of literals.

/// The text of a string literal, or what is wrong with it.
pub(super) fn string(token: &str) -> Result<String, &'static str> {
    let (raw, body) = strip(token);
    if raw {
        return Ok(body.to_owned());
    }
    let mut text = String::with_capacity(body.len());
    unescape(body, false, &mut |piece| match piece {
        Piece::Char(character) => text.push(character),
        Piece::Byte(byte) => text.push(char::from(byte)),
    })?;
    Ok(text)
}

/// The content of a bytes literal, or what is wrong with it.
pub(super) fn bytes(token: &str) -> Result<Vec<u8>, &'static str> {
    let (raw, body) = strip(&token[1..]);
    if raw {
        return Ok(body.as_bytes().to_vec());
    }
    let mut content = Vec::with_capacity(body.len());
    unescape(body, true, &mut |piece| match piece {
        Piece::Char(character) => content.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        Piece::Byte(byte) => content.push(byte),
    })?;
    Ok(content)
}

/// A signed integer in decimal or hexadecimal.
pub(super) fn int(negative: bool, digits: &str) -> Option<i64> {
    let magnitude = i128::from(uint(digits)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// An unsigned integer without its suffix.
pub(super) fn uint(digits: &str) -> Option<u64> {
    match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}

enum Piece {
    Char(char),
    Byte(u8),
}

/// Takes off the prefix and the quotes; also says whether the literal is raw.
fn strip(token: &str) -> (bool, &str) {
    let raw = token.starts_with(['r', 'R']);
    let body = token.trim_start_matches(['r', 'R']);
    let quotes = if body.len() >= 6 && (body.starts_with("\"\"\"") || body.starts_with("'''")) {
        3
    } else {
        1
    };
    (raw, &body[quotes..body.len() - quotes])
}

fn unescape(body: &str, bytes: bool, emit: &mut dyn FnMut(Piece)) -> Result<(), &'static str> {
    const UNABLE: &str = "unable to unescape string";
    let mut characters = body.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            emit(Piece::Char(character));
            continue;
        }
        let escape = characters.next().ok_or(UNABLE)?;
        let simple = match escape {
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            '\\' | '\'' | '"' | '`' | '?' => Some(escape),
            _ => None,
        };
        if let Some(character) = simple {
            emit(Piece::Char(character));
            continue;
        }
        let (digits, radix, first) = match escape {
            'x' | 'X' => (2, 16, None),
            'u' if !bytes => (4, 16, None),
            'U' if !bytes => (8, 16, None),
            '0'..='3' => (2, 8, Some(escape)),
            _ => return Err(UNABLE),
        };
        let mut number = first.and_then(|digit| digit.to_digit(8)).unwrap_or(0);
        for _ in 0..digits {
            let digit = characters
                .next()
                .and_then(|digit| digit.to_digit(radix))
                .ok_or(UNABLE)?;
            number = number.checked_mul(radix).ok_or(UNABLE)? + digit;
        }
        match u8::try_from(number) {
            Ok(byte) if bytes => emit(Piece::Byte(byte)),
            _ => emit(Piece::Char(char::from_u32(number).ok_or(UNABLE)?)),
        }
    }
    Ok(())
}
