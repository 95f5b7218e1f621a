//! Writes label areas for the tests.

/// Fletcher's checksum over little-endian words, computed naively.
pub fn fletcher64(bytes: &[u8]) -> u64 {
    let (mut low, mut high) = (0_u32, 0_u32);
    for word in bytes.chunks_exact(4) {
        low = low.wrapping_add(u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        high = high.wrapping_add(low);
    }
    u64::from(high) << 32 | u64::from(low)
}

/// A label to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub slot: u32,
    pub uuid: [u8; 16],
    pub flags: u32,
    pub labels: u16,
    pub position: u16,
    pub cookie: u64,
    pub dpa: u64,
    pub raw_size: u64,
    pub abstraction: [u8; 16],
}

impl Label {
    /// The only label of a namespace, on a device that is no part of a set.
    pub fn alone(slot: u32, cookie: u64, dpa: u64, raw_size: u64) -> Self {
        let (uuid, abstraction) = ([(slot as u8).wrapping_add(1); 16], [0; 16]);
        Self {
            slot,
            uuid,
            flags: 0,
            labels: 1,
            position: 0,
            cookie,
            dpa,
            raw_size,
            abstraction,
        }
    }

    fn bytes(&self, size: usize) -> Vec<u8> {
        let mut out = self.uuid.to_vec();
        out.resize(80, 0);
        out[16] = b'n';
        out.extend(self.flags.to_le_bytes());
        out.extend(self.labels.to_le_bytes());
        out.extend(self.position.to_le_bytes());
        [self.cookie, 0, self.dpa, self.raw_size]
            .iter()
            .for_each(|v| out.extend(v.to_le_bytes()));
        out.extend(self.slot.to_le_bytes());
        out.resize(144, 0);
        out.extend(self.abstraction);
        out.resize(size, 0);
        out.truncate(size);
        if size == 256 {
            let sum = fletcher64(&out);
            out[248..].copy_from_slice(&sum.to_le_bytes());
        }
        out
    }
}

/// Shape of an area.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub size: usize,
    pub label_size: usize,
    pub index_size: usize,
    pub slots: u32,
}

impl Shape {
    /// 128 KiB with labels of version 1.2, as QEMU's smallest area holds.
    pub const V1_2: Self = Self {
        size: 128 << 10,
        label_size: 256,
        index_size: 256,
        slots: 510,
    };
    /// The same with labels of version 1.1.
    pub const V1_1: Self = Self {
        size: 128 << 10,
        label_size: 128,
        index_size: 256,
        slots: 1020,
    };
}

/// The index block number `which` for these labels.
pub fn index(shape: Shape, which: usize, sequence: u32, labels: &[Label]) -> Vec<u8> {
    let mut out = b"NAMESPACE_INDEX\0\0\0\0".to_vec();
    out.push(u8::from(shape.label_size == 256));
    out.extend(sequence.to_le_bytes());
    let size = shape.index_size as u64;
    let places = [
        which as u64 * size,
        size,
        (1 - which as u64) * size,
        2 * size,
    ];
    places.iter().for_each(|v| out.extend(v.to_le_bytes()));
    out.extend(shape.slots.to_le_bytes());
    out.extend(1_u16.to_le_bytes());
    out.extend((if shape.label_size == 256 { 2_u16 } else { 1 }).to_le_bytes());
    out.resize(72, 0);
    out.resize(shape.index_size, 0xFF);
    for label in labels {
        out[72 + label.slot as usize / 8] &= !(1 << (label.slot % 8));
    }
    seal_index(&mut out);
    out
}

/// Makes an index block add up.
pub fn seal_index(block: &mut [u8]) {
    block[64..72].fill(0);
    let sum = fletcher64(block);
    block[64..72].copy_from_slice(&sum.to_le_bytes());
}

/// An area: each index block with its sequence number and labels; all labels are written to their slots.
pub fn area(shape: Shape, blocks: [(u32, &[Label]); 2]) -> Vec<u8> {
    let mut out = vec![0; shape.size];
    for (which, (sequence, labels)) in blocks.into_iter().enumerate() {
        out[which * shape.index_size..][..shape.index_size]
            .copy_from_slice(&index(shape, which, sequence, labels));
        for label in labels {
            let at = 2 * shape.index_size + label.slot as usize * shape.label_size;
            out[at..][..shape.label_size].copy_from_slice(&label.bytes(shape.label_size));
        }
    }
    out
}
