//! `image bios|uefi KERNEL IMAGE`: writes a bootable disk image. The driver builds and calls this when an image is asked for.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bootloader::{BootConfig, DiskImageBuilder};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [kind, kernel, image] = words.as_slice() else {
        eprintln!("image bios|uefi KERNEL IMAGE");
        return ExitCode::from(2);
    };
    match write(kind, kernel.into(), Path::new(image)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("image: {why}");
            ExitCode::FAILURE
        }
    }
}

fn write(kind: &str, kernel: PathBuf, image: &Path) -> Result<(), String> {
    let mut builder = DiskImageBuilder::new(kernel);
    builder.set_boot_config(&silent());
    let written = match kind {
        "bios" => builder.create_bios_image(image),
        "uefi" => builder.create_uefi_image(image),
        other => return Err(format!("{other}: neither bios nor uefi")),
    };
    written.map_err(|why| format!("{why:#}"))
}

/// The boot stages write nothing: the serial port and the screen are the kernel's.
fn silent() -> BootConfig {
    let mut config = BootConfig::default();
    config.serial_logging = false;
    config.frame_buffer_logging = false;
    config
}
