//! Bytes of a region that is kept in little-endian words.

/// Copies bytes out; `get` gives a word by its number.
pub fn read(off: u64, buf: &mut [u8], get: impl Fn(usize) -> u64) {
    let (mut at, mut buf) = (off as usize, buf);
    while !buf.is_empty() {
        let n = (8 - at % 8).min(buf.len());
        let (piece, rest) = buf.split_at_mut(n);
        piece.copy_from_slice(&get(at / 8).to_le_bytes()[at % 8..at % 8 + n]);
        (at, buf) = (at + n, rest);
    }
}

/// Cuts a store of bytes into words, merging at the edges; `put` stores one.
pub fn store(off: u64, data: &[u8], get: impl Fn(usize) -> u64, put: impl Fn(usize, u64)) {
    let (mut at, mut data) = (off as usize, data);
    while !data.is_empty() {
        let (word, from) = (at / 8, at % 8);
        let n = (8 - from).min(data.len());
        let mut bytes = get(word).to_le_bytes();
        bytes[from..from + n].copy_from_slice(&data[..n]);
        put(word, u64::from_le_bytes(bytes));
        (at, data) = (at + n, &data[n..]);
    }
}
