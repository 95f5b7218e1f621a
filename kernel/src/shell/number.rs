//! Numbers as people type and read them: decimal, hexadecimal, sizes with a suffix, times.

use alloc::format;
use alloc::string::String;
use thiserror::Error;

/// Why a word is not the number that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NumberError {
    /// Empty, or a character that belongs to no number.
    #[error("it is not a number")]
    NotANumber,
    /// A number larger than the argument can take.
    #[error("it is more than {max}")]
    TooLarge {
        /// The largest value that is accepted.
        max: u64,
    },
}

/// Reads a number: decimal, or hexadecimal after `0x`; `_` may group its digits.
///
/// # Errors
/// [`NumberError::NotANumber`], or [`NumberError::TooLarge`] past 64 bits.
pub fn parse_number(word: &str) -> Result<u64, NumberError> {
    let (digits, radix) = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None => (word, 10),
    };
    let mut digits = digits.chars().filter(|&c| c != '_').peekable();
    if digits.peek().is_none() {
        return Err(NumberError::NotANumber);
    }
    digits.try_fold(0u64, |n, c| push_digit(n, c, radix))
}

/// Reads an octal number of at most `max`, as modes are written.
///
/// # Errors
/// [`NumberError::NotANumber`], or [`NumberError::TooLarge`] past `max`.
pub fn parse_octal(word: &str, max: u64) -> Result<u64, NumberError> {
    if word.is_empty() {
        return Err(NumberError::NotANumber);
    }
    let number = word
        .chars()
        .try_fold(0u64, |number, digit| match digit.to_digit(8) {
            Some(digit) => Ok(number.saturating_mul(8).saturating_add(digit.into())),
            None => Err(NumberError::NotANumber),
        })?;
    if number > max {
        return Err(NumberError::TooLarge { max });
    }
    Ok(number)
}

fn push_digit(n: u64, c: char, radix: u32) -> Result<u64, NumberError> {
    let digit = c.to_digit(radix).ok_or(NumberError::NotANumber)?;
    n.checked_mul(u64::from(radix))
        .and_then(|n| n.checked_add(u64::from(digit)))
        .ok_or(NumberError::TooLarge { max: u64::MAX })
}

/// Reads a size in bytes: a number with an optional suffix K, M, G or T (powers of 1024; `KiB` and `k` do as well).
///
/// # Errors
/// As [`parse_number`].
pub fn parse_size(word: &str) -> Result<u64, NumberError> {
    let bare = word
        .strip_suffix("iB")
        .or_else(|| word.strip_suffix("ib"))
        .unwrap_or(word);
    let (digits, shift) = match bare.char_indices().last() {
        Some((at, c)) if suffix(c).is_some() => (&bare[..at], suffix(c).unwrap_or(0)),
        _ if bare.len() != word.len() => return Err(NumberError::NotANumber),
        _ => (bare, 0),
    };
    let n = parse_number(digits)?;
    n.checked_mul(1 << shift)
        .ok_or(NumberError::TooLarge { max: u64::MAX })
}

fn suffix(c: char) -> Option<u32> {
    match c.to_ascii_uppercase() {
        'K' => Some(10),
        'M' => Some(20),
        'G' => Some(30),
        'T' => Some(40),
        _ => None,
    }
}

/// Writes a size for people: the largest unit that divides it exactly, else the largest unit below it, rounded to one decimal.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >> shift > 0) {
        None => format!("{bytes} B"),
        Some((unit, shift)) if bytes.trailing_zeros() >= *shift => {
            format!("{} {unit}", bytes >> shift)
        }
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
    }
}

/// Writes a time given in microseconds for people: `750 us`, `12.345 ms`, `3.200 s`.
#[must_use]
pub fn human_time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{:03} ms", us / 1_000, us % 1_000),
        _ => format!("{}.{:03} s", us / 1_000_000, us / 1_000 % 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(parse_number("0"), Ok(0));
        assert_eq!(parse_number("0x1_0"), Ok(16));
        assert_eq!(parse_number("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(
            parse_number("18446744073709551616"),
            Err(NumberError::TooLarge { max: u64::MAX })
        );
        for bad in ["", "0x", "-1", "12a", "1.5", "_"] {
            assert_eq!(parse_number(bad), Err(NumberError::NotANumber), "{bad}");
        }
    }

    #[test]
    fn sizes_take_a_suffix() {
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("64k"), Ok(65536));
        assert_eq!(parse_size("2MiB"), Ok(2 << 20));
        assert_eq!(parse_size("512G"), Ok(512 << 30));
        assert_eq!(parse_size("0x10K"), Ok(16384));
        assert_eq!(parse_size("1T"), Ok(1 << 40));
        assert_eq!(
            parse_size("16777216T"),
            Err(NumberError::TooLarge { max: u64::MAX })
        );
        for bad in ["K", "1KK", "1iB", "1X", ""] {
            assert_eq!(parse_size(bad), Err(NumberError::NotANumber), "{bad}");
        }
    }

    #[test]
    fn people_read_round_units_exactly_and_others_with_a_decimal() {
        assert_eq!(human_size(0), "0 B");
        assert_eq!(human_size(1023), "1023 B");
        assert_eq!(human_size(65536), "64 KiB");
        assert_eq!(human_size(1536), "1.5 KiB");
        assert_eq!(human_size(512 << 30), "512 GiB");
        assert_eq!(human_size(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn times_have_three_scales() {
        assert_eq!(human_time(999), "999 us");
        assert_eq!(human_time(100_021), "100.021 ms");
        assert_eq!(human_time(3_200_499), "3.200 s");
    }
}
