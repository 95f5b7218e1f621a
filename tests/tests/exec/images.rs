//! The bootable disk images, from the firmware to the tour's end. The first run builds the boot stages, which takes minutes.

use libtest_mimic::Failed;
use tests::driver::{Ran, holdfast};

use crate::Check;

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("images::the_bios_image_boots_to_the_tours_end", || {
        boots("bios")
    }),
    ("images::the_uefi_image_boots_to_the_tours_end", || {
        boots("uefi")
    }),
];

/// The tour must find as many facts right as without a boot loader.
fn boots(how: &str) -> Result<(), Failed> {
    let direct = holdfast(&["--boot", "pvh", "--timeout", "2m"])?;
    let image = holdfast(&["--boot", how, "--timeout", "5m"])?;
    let facts = |ran: &Ran| {
        let last = ran.stdout.lines().last().unwrap_or_default();
        last.split_once(" held").map(|(facts, _)| facts.to_owned())
    };
    let well = direct.code == Some(0) && image.code == Some(0) && facts(&direct).is_some();
    match well && facts(&direct) == facts(&image) {
        true => Ok(()),
        false => Err(format!("directly: {direct:?}\nby the image: {image:?}").into()),
    }
}
