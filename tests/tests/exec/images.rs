//! The bootable disk images, from the firmware to the tour's end. The first run builds the boot stages, which takes minutes.

use libtest_mimic::Failed;
use tests::driver::holdfast;

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

/// What the tour says last must be the same as without a boot loader.
fn boots(how: &str) -> Result<(), Failed> {
    let direct = holdfast(&["--boot", "pvh", "--timeout", "2m"])?;
    let image = holdfast(&["--boot", how, "--timeout", "5m"])?;
    let last = direct.stdout.lines().last().unwrap_or("nothing at all");
    match direct.code == Some(0)
        && image.code == Some(0)
        && image.stdout.lines().last() == Some(last)
    {
        true => Ok(()),
        false => Err(format!("directly: {direct:?}\nby the image: {image:?}").into()),
    }
}
