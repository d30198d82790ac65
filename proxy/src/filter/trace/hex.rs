//! Identifiers as lower-case hexadecimal digits; nothing else is accepted.

/// Reads exactly `N` bytes from `2 * N` digits.
pub(super) fn read<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = 16 * digit(high)? + digit(low)?;
    }
    Some(bytes)
}

/// As [`read`], but all zeros are no identifier.
pub(super) fn read_id<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    read(digits).filter(|id| *id != [0; N])
}

/// Appends two digits a byte.
pub(super) fn write(text: &mut Vec<u8>, bytes: &[u8]) {
    let digit = |value: u8| {
        if value < 10 {
            b'0' + value
        } else {
            b'a' - 10 + value
        }
    };
    for byte in bytes {
        text.extend([digit(byte >> 4), digit(byte & 15)]);
    }
}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
