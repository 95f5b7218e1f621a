//! Writes tables for the tests: pieces in any order, sizes and checksum made right, then spoilt on purpose.

/// Text form of the GUID of persistent memory, as bytes in memory.
pub const PERSISTENT: [u8; 16] = [
    0x79, 0xd3, 0xf0, 0x66, 0xf3, 0xb4, 0x74, 0x40, 0xac, 0x43, 0x0d, 0x33, 0x18, 0xb7, 0x8c, 0xdb,
];
/// The same for volatile memory.
pub const VOLATILE: [u8; 16] = [
    0x4f, 0x94, 0x05, 0x73, 0xda, 0xfd, 0xe3, 0x44, 0xb1, 0x6c, 0x3f, 0x22, 0xd2, 0x52, 0xe5, 0xd0,
];

/// Bytes before the first piece.
pub const FIXED: usize = 40;

/// One structure, to be encoded.
#[derive(Clone, Debug)]
pub enum Piece {
    Spa(Spa),
    Device(Device),
    Control { index: u16, serial: u32 },
    Interleave { index: u16, lines: u32 },
    Hints { handle: u32, addresses: Vec<u64> },
    Capabilities { highest: u8, bits: u32 },
    Unknown { kind: u16, body: Vec<u8> },
}

#[derive(Clone, Debug)]
pub struct Spa {
    pub index: u16,
    pub guid: [u8; 16],
    pub base: u64,
    pub length: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Device {
    pub handle: u32,
    pub region_id: u16,
    pub spa: u16,
    pub control: u16,
    pub interleave: u16,
    pub flags: u16,
}

pub fn spa(index: u16, base: u64, length: u64) -> Piece {
    let guid = PERSISTENT;
    Piece::Spa(Spa {
        index,
        guid,
        base,
        length,
    })
}

pub fn device(handle: u32, spa: u16, control: u16, flags: u16) -> Piece {
    Piece::Device(Device {
        handle,
        spa,
        control,
        flags,
        ..Device::default()
    })
}

impl Piece {
    fn kind(&self) -> u16 {
        match self {
            Self::Spa(_) => 0,
            Self::Device(_) => 1,
            Self::Interleave { .. } => 2,
            Self::Control { .. } => 4,
            Self::Hints { .. } => 6,
            Self::Capabilities { .. } => 7,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    /// The bytes after type and length.
    fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Spa(s) => {
                put(
                    &mut out,
                    &[
                        &s.index.to_le_bytes(),
                        &3_u16.to_le_bytes(),
                        &[0; 4],
                        &[0; 4],
                        &s.guid,
                    ],
                );
                put(
                    &mut out,
                    &[
                        &s.base.to_le_bytes(),
                        &s.length.to_le_bytes(),
                        &0x8008_u64.to_le_bytes(),
                    ],
                );
            }
            Self::Device(d) => {
                put(
                    &mut out,
                    &[&d.handle.to_le_bytes(), &[0; 2], &d.region_id.to_le_bytes()],
                );
                put(
                    &mut out,
                    &[&d.spa.to_le_bytes(), &d.control.to_le_bytes(), &[0; 24]],
                );
                put(
                    &mut out,
                    &[&d.interleave.to_le_bytes(), &1_u16.to_le_bytes()],
                );
                put(&mut out, &[&d.flags.to_le_bytes(), &[0; 2]]);
            }
            Self::Control { index, serial } => {
                put(
                    &mut out,
                    &[&index.to_le_bytes(), &0x8086_u16.to_le_bytes(), &[0; 16]],
                );
                put(
                    &mut out,
                    &[&serial.to_le_bytes(), &0x0301_u16.to_le_bytes(), &[0; 50]],
                );
            }
            Self::Interleave { index, lines } => {
                put(
                    &mut out,
                    &[
                        &index.to_le_bytes(),
                        &[0; 2],
                        &lines.to_le_bytes(),
                        &4096_u32.to_le_bytes(),
                    ],
                );
                out.resize(out.len() + *lines as usize * 4, 0);
            }
            Self::Hints { handle, addresses } => {
                put(
                    &mut out,
                    &[
                        &handle.to_le_bytes(),
                        &(addresses.len() as u16).to_le_bytes(),
                        &[0; 6],
                    ],
                );
                addresses.iter().for_each(|a| out.extend(a.to_le_bytes()));
            }
            Self::Capabilities { highest, bits } => {
                put(
                    &mut out,
                    &[&[*highest, 0, 0, 0], &bits.to_le_bytes(), &[0; 4]],
                );
            }
            Self::Unknown { body, .. } => out.extend(body),
        }
        out
    }

    pub fn bytes(&self) -> Vec<u8> {
        let body = self.body();
        let length = body.len() as u16 + 4;
        [
            &self.kind().to_le_bytes(),
            &length.to_le_bytes(),
            body.as_slice(),
        ]
        .concat()
    }
}

fn put(out: &mut Vec<u8>, fields: &[&[u8]]) {
    fields.iter().for_each(|field| out.extend(*field));
}

/// A table of these pieces.
pub fn table(pieces: &[Piece]) -> Vec<u8> {
    let body: Vec<u8> = pieces.iter().flat_map(Piece::bytes).collect();
    raw_table(&body)
}

/// A table with these bytes after its fixed part.
pub fn raw_table(body: &[u8]) -> Vec<u8> {
    let mut out = b"NFIT".to_vec();
    out.extend((FIXED as u32 + body.len() as u32).to_le_bytes());
    out.push(1);
    out.resize(FIXED, 0);
    out.extend(body);
    fix_checksum(&mut out);
    out
}

/// Makes the bytes add up to 0 again.
pub fn fix_checksum(table: &mut [u8]) {
    table[9] = 0;
    table[9] = table.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
}
