//! Names of the files that the driver hands over through QEMU's fw_cfg device.

/// The kernel command line: words separated by spaces (see [`crate::cmdline`]); UTF-8, at most 4 KiB.
pub const CMDLINE: &str = "opt/org.holdfast/cmdline";
/// The shell script of `exec`: commands separated by `;` or newlines; UTF-8. Absent in other modes.
pub const SCRIPT: &str = "opt/org.holdfast/script";
/// A whole NFIT, header included, which the kernel takes instead of the firmware's. Absent unless `--nfit` is given.
pub const NFIT: &str = "opt/org.holdfast/nfit";
