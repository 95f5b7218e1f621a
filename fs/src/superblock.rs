//! Reading the two superblocks and choosing one.

use dax::pmem::Pmem;
use zerocopy::FromBytes;

use crate::commit::Media;
use crate::layout::{
    BLOCK_SIZE, Geometry, SUPERBLOCK_SIZE, SuperBlock, SuperblockFault, SuperblockFaultKind,
};

/// The superblock in force.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    /// It.
    pub superblock: SuperBlock,
    /// The areas that it describes.
    pub geometry: Geometry,
    /// What was wrong with the other one, if it is not whole.
    pub other: Option<SuperblockFault>,
    /// The block of the other one, if it is whole and says something else: an older copy, not yet overwritten.
    pub differs: Option<u64>,
    /// The generation of the other one, if it is whole.
    pub other_generation: u64,
}

/// Takes the whole superblock with the highest generation; with none whole, says what is wrong with each.
pub fn choose<P: Pmem>(media: &Media<P>) -> Result<Chosen, [SuperblockFault; 2]> {
    match (read(media, 0), read(media, 1)) {
        (Ok(a), Ok(b)) if b.0.generation.get() > a.0.generation.get() => Ok(of_two(b, &a.0, 0)),
        (Ok(a), Ok(b)) => Ok(of_two(a, &b.0, 1)),
        (Ok(a), Err(fault)) => Ok(chosen(a, Some(fault))),
        (Err(fault), Ok(b)) => Ok(chosen(b, Some(fault))),
        (Err(a), Err(b)) => Err([a, b]),
    }
}

fn of_two(of: (SuperBlock, Geometry), other: &SuperBlock, block: u64) -> Chosen {
    Chosen {
        differs: (of.0 != *other).then_some(block),
        other_generation: other.generation.get(),
        ..chosen(of, None)
    }
}

const fn chosen(of: (SuperBlock, Geometry), other: Option<SuperblockFault>) -> Chosen {
    Chosen {
        superblock: of.0,
        geometry: of.1,
        other,
        differs: None,
        other_generation: 0,
    }
}

/// The letter of the superblock in `block`, 0 or 1.
pub const fn name(block: u64) -> char {
    if block == 0 { 'A' } else { 'B' }
}

fn read<P: Pmem>(media: &Media<P>, block: u64) -> Result<(SuperBlock, Geometry), SuperblockFault> {
    let offset = block * BLOCK_SIZE;
    let name = name(block);
    read_at(media, offset).map_err(|kind| SuperblockFault { name, offset, kind })
}

fn read_at<P: Pmem>(
    media: &Media<P>,
    offset: u64,
) -> Result<(SuperBlock, Geometry), SuperblockFaultKind> {
    let region = media.blocks();
    if region <= offset / BLOCK_SIZE {
        let blocks = offset / BLOCK_SIZE + 1;
        return Err(SuperblockFaultKind::Truncated { blocks, region });
    }
    let mut bytes = [0; SUPERBLOCK_SIZE];
    media.read(offset, &mut bytes)?;
    let (superblock, _) =
        SuperBlock::read_from_prefix(&bytes).map_err(|_| SuperblockFaultKind::Magic)?;
    let geometry = superblock.check(region)?;
    Ok((superblock, geometry))
}
