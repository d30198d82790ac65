//! Identifiers as lower-case hexadecimal digits; nothing else is accepted.

/// Reads exactly `N` bytes from `2 * N` digits.
pub(super) fn read<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let pairs: &[[u8; 2]; N] = pairs.try_into().ok()?;
    let mut bytes = [0; N];
    // What is no digit has bits that no digit has; they are looked at once.
    let mut seen = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (value(*high), value(*low));
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (seen <= 15).then_some(bytes)
}

/// As [`read`], but all zeros are no identifier.
pub(super) fn read_id<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    read(digits).filter(|id| *id != [0; N])
}

/// Appends two digits a byte.
pub(super) fn write(text: &mut Vec<u8>, bytes: &[u8]) {
    text.extend(
        bytes
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]),
    );
}

/// 255 for what is no digit.
fn value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => u8::MAX,
    }
}

fn digit(value: u8) -> u8 {
    if value < 10 {
        b'0' + value
    } else {
        b'a' - 10 + value
    }
}
