//! The way in from the `bootloader` crate's BIOS and UEFI images.
//!
//! The loader's configuration rides in the ELF (`.bootloader-config`). Everything that it maps dynamically is kept in the
//! higher half, because the lower half belongs to the address space. The segments stay where the loader put the ELF, so
//! `virtual - KERNEL_BASE` is *not* a physical address here; paging asks the page tables instead.

use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use x86_64::PhysAddr;

use super::{BootInfo, EntryPath, PHYS_OFFSET};
use crate::memmap::{Kind, MemoryMap, Range};

static CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::FixedAddress(PHYS_OFFSET));
    config.mappings.dynamic_range_start = Some(0xffff_9000_0000_0000);
    config.mappings.dynamic_range_end = Some(0xffff_ff00_0000_0000);
    config.kernel_stack_size = 256 * 1024;
    config
};

bootloader_api::entry_point!(enter, config = &CONFIG);

fn enter(info: &'static mut bootloader_api::BootInfo) -> ! {
    let mut memory = MemoryMap::new();
    info.memory_regions
        .iter()
        .for_each(|r| memory.push(translate(r)));
    crate::start(BootInfo {
        entry: EntryPath::Bootloader,
        memory,
        rsdp: info.rsdp_addr.as_ref().map(|&a| PhysAddr::new_truncate(a)),
        image: (info.kernel_addr, info.kernel_addr + info.kernel_len),
    })
}

fn translate(region: &MemoryRegion) -> Range {
    let kind = match region.kind {
        MemoryRegionKind::Usable => Kind::Usable,
        MemoryRegionKind::Bootloader => Kind::Boot,
        // E820 type 3 and UEFI type 9: ACPI reclaimable.
        MemoryRegionKind::UnknownBios(3) | MemoryRegionKind::UnknownUefi(9) => Kind::Acpi,
        _ => Kind::Reserved,
    };
    Range {
        start: region.start,
        end: region.end,
        kind,
    }
}
