//! A machine as data, and the QEMU command line that it becomes.
//!
//! Every machine is a q35 with the named parts and nothing else (`-nodefaults`). Its first serial port is this process's end of a pipe,
//! its second one the control socket, if any; the debug-exit device ends it, and so does a reset (`-no-reboot`).

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::scratch::Scratch;
use crate::size::Size;

/// What a device's contents come from.
#[derive(Clone, Debug)]
pub enum Backing {
    /// A file of the user's.
    File(PathBuf),
    /// A file that is gone when the machine is.
    Scratch(Scratch),
}

impl Backing {
    /// The path under which QEMU opens it.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Scratch(scratch) => scratch.path(),
        }
    }
}

/// An NVDIMM.
#[derive(Clone, Debug)]
pub struct Nvdimm {
    /// Where its bytes are kept: what the guest stores is found there.
    pub backing: Backing,
    /// All of its bytes, label area included.
    pub size: Size,
    /// The bytes of label area at its end.
    pub label_size: Option<Size>,
    /// Whether the guest is told that it cannot keep its contents.
    pub unarmed: bool,
}

/// A file that the guest finds in the fw_cfg device.
#[derive(Clone, Debug)]
pub struct FwCfg {
    /// Its name; see [`protocol::fw_cfg`].
    pub name: &'static str,
    /// Its contents.
    pub contents: Backing,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// QEMU's translator: everywhere, and repeatable.
    Tcg,
    /// The host's own CPU.
    Kvm,
}

impl Accel {
    /// KVM where the CPU says that it can and `/dev/kvm` opens, else TCG.
    pub fn best() -> Self {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let capable = flags
            .split_whitespace()
            .any(|word| word == "vmx" || word == "svm");
        let open = || {
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .is_ok()
        };
        if capable && open() {
            Self::Kvm
        } else {
            Self::Tcg
        }
    }
}

/// How the kernel gets into the machine.
#[derive(Clone, Debug)]
pub enum Firmware {
    /// QEMU loads the ELF file and jumps to its PVH entry.
    Pvh {
        /// The ELF file.
        kernel: PathBuf,
    },
    /// SeaBIOS starts a disk image.
    Bios {
        /// The disk image; never written.
        image: PathBuf,
    },
    /// OVMF starts a disk image.
    Uefi {
        /// The disk image; never written.
        image: PathBuf,
        /// OVMF's code.
        code: PathBuf,
        /// OVMF's variables: a copy for this machine alone, because a used one may change what is started.
        variables: Scratch,
    },
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// RAM.
    pub memory: Size,
    /// CPUs, at least 1.
    pub cpus: u32,
    /// What runs them.
    pub accel: Accel,
    /// Whether virtual time counts instructions; for TCG and one CPU only.
    pub icount: bool,
    /// What starts.
    pub firmware: Firmware,
    /// NVDIMMs, in the order of their addresses.
    pub nvdimms: Vec<Nvdimm>,
    /// virtio-blk disks, in the order of their PCI slots.
    pub disks: Vec<Backing>,
    /// Files for the guest.
    pub fw_cfg: Vec<FwCfg>,
    /// The far end of the second serial port.
    pub control: Option<Arc<OwnedFd>>,
    /// The TCP port on the loopback interface where the machine waits for a debugger before its first instruction.
    pub gdb: Option<u16>,
    /// The user's own words to QEMU, last on its command line.
    pub raw: Vec<OsString>,
}

impl Machine {
    /// A machine with one CPU, 512 MiB of RAM and nothing else.
    pub fn new(firmware: Firmware) -> Self {
        Self {
            memory: Size::mib(512),
            cpus: 1,
            accel: Accel::Tcg,
            icount: false,
            firmware,
            nvdimms: Vec::new(),
            disks: Vec::new(),
            fw_cfg: Vec::new(),
            control: None,
            gdb: None,
            raw: Vec::new(),
        }
    }

    /// QEMU's arguments, without its own name.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut args = Arguments::default();
        args.flags(&["-nodefaults", "-no-user-config", "-no-reboot"]);
        args.pair("-display", "none");
        self.add_board(&mut args);
        self.add_ports(&mut args);
        self.add_firmware(&mut args);
        self.nvdimms
            .iter()
            .enumerate()
            .for_each(|(n, nvdimm)| nvdimm.add(n, &mut args));
        self.disks
            .iter()
            .enumerate()
            .for_each(|(n, disk)| add_disk(n, disk, &mut args));
        for file in &self.fw_cfg {
            args.pair(
                "-fw_cfg",
                &format!("name={},file={}", file.name, quoted(&file.contents.path())),
            );
        }
        args.0.extend(self.raw.iter().cloned());
        args.0
    }

    fn add_board(&self, args: &mut Arguments) {
        let accel = if self.accel == Accel::Kvm {
            "kvm"
        } else {
            "tcg"
        };
        let nvdimm = if self.nvdimms.is_empty() {
            ""
        } else {
            ",nvdimm=on"
        };
        args.pair("-machine", &format!("q35,accel={accel}{nvdimm}"));
        args.pair("-cpu", "max"); // qemu64 has no clwb
        args.pair("-smp", &self.cpus.to_string());
        args.pair("-m", &self.memory_argument());
        if self.icount {
            args.pair("-icount", "shift=0");
        }
        if let Some(port) = self.gdb {
            args.pair("-gdb", &format!("tcp:127.0.0.1:{port}"));
            args.flags(&["-S"]);
        }
    }

    fn memory_argument(&self) -> String {
        let Size(memory) = self.memory;
        if self.nvdimms.is_empty() {
            return format!("size={memory}b");
        }
        let nvdimms = self
            .nvdimms
            .iter()
            .map(|n| n.size.0.next_multiple_of(1 << 30))
            .sum::<u64>();
        let most = (memory + nvdimms).next_multiple_of(1 << 30);
        format!("size={memory}b,slots={},maxmem={most}b", self.nvdimms.len())
    }

    fn add_ports(&self, args: &mut Arguments) {
        args.pair("-chardev", "stdio,id=console,signal=off");
        args.pair("-serial", "chardev:console");
        if let Some(control) = &self.control {
            args.pair(
                "-chardev",
                &format!("socket,id=control,fd={}", control.as_raw_fd()),
            );
            args.pair("-serial", "chardev:control");
        }
        args.pair(
            "-device",
            &format!("isa-debug-exit,iobase={:#x},iosize=4", protocol::exit::PORT),
        );
    }

    fn add_firmware(&self, args: &mut Arguments) {
        match &self.firmware {
            Firmware::Pvh { kernel } => args.path("-kernel", kernel),
            Firmware::Bios { image } => add_image(image, args),
            Firmware::Uefi {
                image,
                code,
                variables,
            } => {
                let flash = "if=pflash,format=raw";
                args.pair(
                    "-drive",
                    &format!("{flash},unit=0,readonly=on,file={}", quoted(code)),
                );
                args.pair(
                    "-drive",
                    &format!("{flash},unit=1,file={}", quoted(&variables.path())),
                );
                add_image(image, args);
            }
        }
    }

    /// The open files that QEMU must inherit.
    pub fn inherited(&self) -> Vec<Arc<OwnedFd>> {
        let nvdimms = self.nvdimms.iter().map(|n| &n.backing);
        let backings = nvdimms
            .chain(&self.disks)
            .chain(self.fw_cfg.iter().map(|f| &f.contents));
        let mut files: Vec<_> = backings.filter_map(Backing::inherited).collect();
        files.extend(self.control.clone());
        if let Firmware::Uefi { variables, .. } = &self.firmware {
            files.push(variables.inherited());
        }
        files
    }
}

impl Backing {
    fn inherited(&self) -> Option<Arc<OwnedFd>> {
        match self {
            Self::File(_) => None,
            Self::Scratch(scratch) => Some(scratch.inherited()),
        }
    }
}

impl Nvdimm {
    fn add(&self, n: usize, args: &mut Arguments) {
        let (path, Size(size)) = (self.backing.path(), self.size);
        let object = "memory-backend-file,share=on";
        args.pair(
            "-object",
            &format!(
                "{object},id=pmem{n},size={size}b,mem-path={}",
                quoted(&path)
            ),
        );
        let labels = self
            .label_size
            .map(|s| format!(",label-size={}b", s.0))
            .unwrap_or_default();
        let unarmed = if self.unarmed { ",unarmed=on" } else { "" };
        args.pair(
            "-device",
            &format!("nvdimm,id=nvdimm{n},memdev=pmem{n}{labels}{unarmed}"),
        );
    }
}

fn add_disk(n: usize, disk: &Backing, args: &mut Arguments) {
    args.pair(
        "-drive",
        &format!(
            "if=none,id=disk{n},format=raw,file={}",
            quoted(&disk.path())
        ),
    );
    args.pair(
        "-device",
        &format!("virtio-blk-pci,drive=disk{n},disable-legacy=on"),
    );
}

/// Adds a boot disk, and the display without which the BIOS boot stages hang.
fn add_image(image: &Path, args: &mut Arguments) {
    args.pair("-vga", "std");
    args.pair(
        "-drive",
        &format!(
            "if=none,id=boot,format=raw,snapshot=on,file={}",
            quoted(image)
        ),
    );
    args.pair("-device", "ide-hd,drive=boot,bootindex=0");
}

/// A path as one value of a comma-separated option.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: &str) {
        self.flags(&[option, value]);
    }

    fn path(&mut self, option: &str, value: &Path) {
        self.0.extend([option.into(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::{Backing, Firmware, Machine, Nvdimm, Size};

    fn machine() -> Machine {
        Machine::new(Firmware::Pvh { kernel: "k".into() })
    }

    fn line(machine: &Machine) -> String {
        machine
            .arguments()
            .join(" ".as_ref())
            .into_string()
            .unwrap()
    }

    #[test]
    fn a_machine_without_nvdimms_has_no_slots() {
        let line = line(&machine());
        assert!(
            line.contains("-machine q35,accel=tcg ") && line.contains("-m size=536870912b "),
            "{line}"
        );
    }

    #[test]
    fn the_address_space_holds_ram_and_all_nvdimms() {
        let nvdimm = |size| Nvdimm {
            backing: Backing::File("a,b".into()),
            size,
            label_size: None,
            unarmed: false,
        };
        let mut machine = machine();
        machine.nvdimms = vec![nvdimm(Size::mib(128)), nvdimm(Size::gib(512))];
        let line = line(&machine);
        assert!(line.contains("slots=2,maxmem=551903297536b"), "{line}"); // 514 GiB
        assert!(line.contains("mem-path=a,,b"), "{line}");
        assert!(
            line.contains("-device nvdimm,id=nvdimm1,memdev=pmem1"),
            "{line}"
        );
    }

    #[test]
    fn raw_arguments_come_last() {
        let mut machine = machine();
        machine.raw = vec!["-d".into(), "int".into()];
        assert!(line(&machine).ends_with("-d int"));
    }
}
