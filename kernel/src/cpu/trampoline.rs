//! The first instructions of another CPU: from real mode to 64-bit code in the kernel's half.
//!
//! A CPU that gets a start-up interrupt begins in real mode at a page below 1 MiB. [`Trampoline::install`] copies the code there, together
//! with a small page table: the kernel's half as it is, and the first 2 MiB at their own addresses, executable and not writable. That
//! table exists because a CPU must fetch the instruction after `mov cr0` from the same address; nothing else ever runs on it.
//!
//! The code takes a ticket (a locked add on a word in the kernel's memory). The ticket is the index of the CPU that it becomes, and chooses
//! its stack. A ticket at or above the limit means that the CPU has come too late, or uninvited: it halts for ever with interrupts off, on no
//! stack. AT&T syntax, because Intel syntax refuses differences of symbols in memory operands.
#![expect(unsafe_code, reason = "real-mode code and page tables below 1 MiB")]

use core::arch::global_asm;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64};

use mm::addr::PAGE_SIZE;
use x86_64::PhysAddr;

use crate::mem::paging::{self, Cache, MapPhysError, map_phys};

global_asm!(
    r#"
    .section .rodata.trampoline, "a"
    .balign 16
    .global ap_code, ap_params, ap_code_end
ap_code:
    .code16
    cli
    cld
    xorl %ebx, %ebx
    movw %cs, %bx
    movw %bx, %ds
    shll $4, %ebx                       /* the linear address of ap_code, kept to the end */
    lgdtl (ap_gdtr - ap_code)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl *(ap_far32 - ap_code)
    .code32
ap_protected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr4, %eax
    orl $0x20, %eax                     /* PAE */
    movl %eax, %cr4
    movl (ap_root - ap_code)(%ebx), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              /* EFER: long mode, NX */
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax              /* caches on: INIT leaves CD and NW as they were, reset sets them */
    orl $0x80010001, %eax               /* paging, write-protect, protection */
    movl %eax, %cr0
    ljmpl *(ap_far64 - ap_code)(%ebx)
    .code64
ap_long:
    movl %ebx, %ebx
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movq (ap_tickets - ap_code)(%rbx), %rdx
    movl $1, %eax
    lock xaddl %eax, (%rdx)
    movq (ap_limit - ap_code)(%rbx), %rdx
    cmpl (%rdx), %eax
    jae 2f
    movq (ap_stacks - ap_code)(%rbx), %rdx
    movq (%rdx, %rax, 8), %rsp
    xorl %ebp, %ebp
    movl %eax, %edi
    movq (ap_entry - ap_code)(%rbx), %rax
    callq *%rax
2:  cli
    hlt
    jmp 2b

    .balign 8
ap_gdt:
    .quad 0
    .quad 0x00209a0000000000            /* 0x08: 64-bit code */
    .quad 0x00cf92000000ffff            /* 0x10: data */
    .quad 0x00cf9a000000ffff            /* 0x18: 32-bit code */
    .balign 8
ap_params:                              /* `Params`, filled in by the boot CPU */
ap_root:    .quad 0
ap_tickets: .quad 0
ap_limit:   .quad 0
ap_stacks:  .quad 0
ap_entry:   .quad 0
ap_far32:   .long ap_protected - ap_code
            .word 0x18, 0
ap_far64:   .long ap_long - ap_code
            .word 0x08, 0
ap_gdtr:    .word 31
            .long ap_gdt - ap_code
            .word 0
ap_code_end:
    .text
    .code64
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    static ap_code: u8;
    static ap_params: u8;
    static ap_code_end: u8;
}

/// What the code reads, in its order.
#[repr(C, packed)]
struct Params {
    root: u64,
    tickets: u64,
    limit: u64,
    stacks: u64,
    entry: u64,
    far32: Far,
    far64: Far,
    gdtr: Gdtr,
}

/// Where a far jump leads.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Far {
    offset: u32,
    segment: u16,
    unused: u16,
}

/// What `lgdt` reads.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Gdtr {
    limit: u16,
    base: u32,
    unused: u16,
}

impl Far {
    fn moved(self, base: u32) -> Self {
        Self {
            offset: self.offset + base,
            ..self
        }
    }
}

/// Pages: the code, and three levels of page table.
pub const PAGES: u64 = 4;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const LARGE: u64 = 1 << 7;

/// What a CPU that has taken a ticket finds.
pub struct Welcome {
    /// The next ticket.
    pub tickets: &'static AtomicU32,
    /// Tickets from here on are refused.
    pub limit: &'static AtomicU32,
    /// The end of each ticket's stack.
    pub stacks: &'static [AtomicU64],
    /// Where it goes on, with its ticket.
    pub entry: extern "sysv64" fn(u32) -> !,
}

/// The installed code.
pub struct Trampoline {
    /// The number of the page where it begins, for the start-up interrupt.
    pub page: u8,
}

impl Trampoline {
    /// Puts code and page table at `at`, [`PAGES`] free pages of RAM below 1 MiB, which stay theirs for ever.
    ///
    /// # Errors
    /// As [`map_phys`].
    pub fn install(at: PhysAddr, welcome: &Welcome) -> Result<Self, MapPhysError> {
        let base = at.as_u64();
        let to: *mut u8 = map_phys(at, PAGES * PAGE_SIZE, Cache::WriteBack)?.as_mut_ptr();
        let (from, end) = (&raw const ap_code, &raw const ap_code_end);
        let offset = &raw const ap_params as usize - from as usize;
        // SAFETY: the pages are RAM that the frame allocator never had, mapped writable; the code is shorter than a page, and
        // `ap_params` lies in it, laid out as `Params`.
        unsafe {
            ptr::copy_nonoverlapping(from, to, end as usize - from as usize);
            let params = to.add(offset).cast::<Params>();
            let seed = params.read_unaligned();
            params.write_unaligned(seed.filled(base as u32, welcome));
            write_tables(to.add(PAGE_SIZE as usize).cast(), base + PAGE_SIZE);
        }
        Ok(Self {
            page: (base / PAGE_SIZE) as u8,
        })
    }
}

impl Params {
    /// The parameters for code at `base`: offsets become addresses.
    fn filled(self, base: u32, welcome: &Welcome) -> Self {
        Self {
            root: u64::from(base) + PAGE_SIZE,
            tickets: welcome.tickets.as_ptr() as u64,
            limit: welcome.limit.as_ptr() as u64,
            stacks: welcome.stacks.as_ptr() as u64,
            entry: welcome.entry as *const () as u64,
            far32: self.far32.moved(base),
            far64: self.far64.moved(base),
            gdtr: Gdtr {
                base: self.gdtr.base + base,
                ..self.gdtr
            },
        }
    }
}

/// Writes three tables at `to`, which lie at the physical address `phys`: top level, pointers, directory.
///
/// # Safety
/// `to` are three writable pages that nobody else uses.
unsafe fn write_tables(to: *mut [u64; 512], phys: u64) {
    let mut top = paging::top_level();
    top[..256].fill(0);
    top[0] = (phys + PAGE_SIZE) | PRESENT | WRITABLE;
    let mut pointers = [0; 512];
    pointers[0] = (phys + 2 * PAGE_SIZE) | PRESENT | WRITABLE;
    let mut directory = [0; 512];
    directory[0] = PRESENT | LARGE;
    // SAFETY: passed on to the caller.
    unsafe {
        to.write(top);
        to.add(1).write(pointers);
        to.add(2).write(directory);
    }
}
