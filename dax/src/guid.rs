//! GUIDs.

/// A GUID as it lies in memory, from the number that its text form shows: the first three fields are little-endian.
pub(crate) const fn guid(text: u128) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = text.to_be_bytes();
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}
