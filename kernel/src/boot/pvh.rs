//! The PVH way in: a Xen note in the ELF names a 32-bit entry, and `ebx` holds the address of the start info.
//!
//! The stub maps the first 4 GiB three times with 2 MiB pages (identity, direct map, and the first GiB at the kernel's
//! base), turns on long mode with NX and write-protect, and calls [`pvh_enter`] on a stack of its own. The start info, its memory
//! map and the command line lie in low RAM that the map calls usable: all is copied before anything is allocated.
//! Source: Xen's public `start_info.h` (version 1), the PVH boot ABI.
#![expect(unsafe_code, reason = "32-bit entry code and raw boot structures")]

use core::arch::global_asm;
use core::ptr;

use x86_64::PhysAddr;

use super::{BootInfo, EntryPath, PHYS_OFFSET};
use crate::memmap::{Kind, MemoryMap, Range};

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18              /* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_start - {base}
    .align 4

    .section .text.pvh, "ax"
    .code32
    .global pvh_start
pvh_start:
    cli
    cld
    mov esp, offset pvh_phys_stack_top
    mov esi, ebx                /* start info, kept in esi until the call */

    /* Four page directories: 2048 entries of 2 MiB, present, writable, large. */
    mov edi, offset pvh_phys_pd
    mov eax, 0x83
    mov ecx, 2048
2:  mov dword ptr [edi], eax
    mov dword ptr [edi + 4], 0
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 2b

    /* The low directory pointer table: four directories. */
    mov edi, offset pvh_phys_pdpt_low
    mov eax, offset pvh_phys_pd
    or eax, 3
    mov ecx, 4
3:  mov dword ptr [edi], eax
    add eax, 4096
    add edi, 8
    dec ecx
    jnz 3b

    /* The high one: entry 510 is the kernel's base. */
    mov eax, offset pvh_phys_pd
    or eax, 3
    mov edi, offset pvh_phys_pdpt_high
    mov dword ptr [edi + 510 * 8], eax

    /* The top level: identity, direct map (entry 256), kernel (entry 511). */
    mov edi, offset pvh_phys_pml4
    mov eax, offset pvh_phys_pdpt_low
    or eax, 3
    mov dword ptr [edi], eax
    mov dword ptr [edi + 256 * 8], eax
    mov eax, offset pvh_phys_pdpt_high
    or eax, 3
    mov dword ptr [edi + 511 * 8], eax

    mov eax, cr4
    or eax, 0x20                /* PAE */
    mov cr4, eax
    mov cr3, edi
    mov ecx, 0xc0000080         /* EFER: long mode, NX */
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    or eax, 0x80010001          /* paging, write-protect, protection */
    mov cr0, eax

    mov eax, offset pvh_phys_gdtr
    lgdt [eax]
    push 8
    mov eax, offset pvh_phys_start64
    push eax
    retf

    .code64
    .global pvh_start64
pvh_start64:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    movabs rax, offset pvh_start_high
    jmp rax
pvh_start_high:
    movabs rsp, offset pvh_stack_top
    xor ebp, ebp
    mov edi, esi
    call {enter}
    ud2

    .section .rodata.pvh, "a"
    .align 8
pvh_gdt:
    .quad 0
    .quad 0x00209a0000000000    /* 64-bit code, ring 0 */
    .global pvh_gdtr
pvh_gdtr:
    .word 15
    .quad pvh_gdt - {base}

    .section .bss.pvh, "aw", @nobits
    .align 4096
    .global pvh_pml4, pvh_pdpt_low, pvh_pdpt_high, pvh_pd, pvh_stack_top
pvh_pml4:      .skip 4096
pvh_pdpt_low:  .skip 4096
pvh_pdpt_high: .skip 4096
pvh_pd:        .skip 4 * 4096
pvh_stack:     .skip 256 * 1024
pvh_stack_top:
    .text
    "#,
    base = const 0xffff_ffff_8000_0000_u64,
    enter = sym pvh_enter,
);

/// The head of Xen's `hvm_start_info`, version 1.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    cmdline: u64,
    rsdp: u64,
    memmap: u64,
    memmap_entries: u32,
    reserved: u32,
}

/// `hvm_memmap_table_entry`: E820 with 64-bit fields.
#[repr(C)]
struct MemmapEntry {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const MAGIC: u32 = 0x336e_c578;

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
}

extern "C" fn pvh_enter(start_info: u64) -> ! {
    // SAFETY: the loader passes the address of a start info below 4 GiB, where the stub mapped all memory.
    let info = unsafe { ptr::read_unaligned((PHYS_OFFSET + start_info) as *const StartInfo) };
    assert!(
        info.magic == MAGIC && info.version >= 1,
        "the PVH start info is not one with a memory map"
    );
    let base = 0xffff_ffff_8000_0000_u64;
    crate::start(BootInfo {
        entry: EntryPath::Pvh,
        memory: copy_map(info.memmap, info.memmap_entries),
        rsdp: (info.rsdp != 0).then(|| PhysAddr::new_truncate(info.rsdp)),
        image: (
            (&raw const __image_start) as u64 - base,
            (&raw const __image_end) as u64 - base,
        ),
    })
}

fn copy_map(at: u64, entries: u32) -> MemoryMap {
    let mut map = MemoryMap::new();
    let table = (PHYS_OFFSET + at) as *const MemmapEntry;
    for i in 0..entries as usize {
        // SAFETY: the start info says that the table, below 4 GiB, has this many entries.
        let e = unsafe { ptr::read_unaligned(table.add(i)) };
        let kind = match e.kind {
            1 => Kind::Usable,
            3 => Kind::Acpi,
            _ => Kind::Reserved,
        };
        map.push(Range {
            start: e.addr,
            end: e.addr.saturating_add(e.size),
            kind,
        });
    }
    map
}
