//! An image as a mounted file system in this process, without a machine.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use dax::pmem::{MappedPmem, Pmem};
use dax::xarray::NodePool;
use fs::{Backing, Fs, Inode};
use mm::addr::{PAGE_SIZE, Pfn, PfnRange};
use mm::pgmap::Pgmap;

use crate::pmem_file::{Changes, PmemFile};

/// A file system in an image.
pub type Mounted = Fs<&'static MappedPmem>;
/// A file or directory of it.
pub type Node = Inode<&'static MappedPmem>;

/// A frame that no image has.
const ZERO_PAGE: u64 = (1 << 20) - 1;
/// Frames of a gibibyte: images begin at a multiple, so that large runs of blocks are aligned as in a machine.
const GIB: u64 = 1 << 18;
/// The next frames for an image: each has its own, so that one process may mount several.
static NEXT: AtomicU64 = AtomicU64::new(ZERO_PAGE + 1);
/// The nodes that the page indexes start with; nothing is mapped here.
const NODES: u32 = 64;

/// Mounts a private copy of the image: recovery does not reach the file.
///
/// # Errors
/// When the image cannot be used, or with what `work` said.
pub fn look(image: &Path, work: impl FnOnce(&Mounted) -> Result<()>) -> Result<()> {
    let file = PmemFile::open(image, Changes::Dropped)?;
    work(&*mount(&file, image)?)
}

/// Mounts the image, and unmounts it whether or not the work succeeds.
///
/// # Errors
/// As [`look`], and when the image cannot be left.
pub fn change(image: &Path, work: impl FnOnce(&Mounted) -> Result<()>) -> Result<()> {
    let file = PmemFile::open(image, Changes::Kept)?;
    let fs = mount(&file, image)?;
    let done = work(&fs);
    leave(fs, &file, image)?;
    done
}

/// Unmounts, and waits until the file is on the disk. Nobody else may hold the file system or a file of it.
///
/// # Errors
/// When somebody does, or the system cannot write.
pub fn leave(fs: Arc<Mounted>, file: &PmemFile, image: &Path) -> Result<()> {
    fs.unmount()
        .map_err(|(_, why)| anyhow!("{}: {why}", image.display()))?;
    file.sync()
        .with_context(|| format!("{}: not written to the disk", image.display()))
}

/// Mounts what `file` maps, with the time of this machine.
///
/// # Errors
/// When it holds no file system that can be mounted.
pub fn mount(file: &PmemFile, image: &Path) -> Result<Arc<Mounted>> {
    let backing = backing(file, image)?;
    let fs = Fs::mount(file.pmem, backing).with_context(|| image.display().to_string())?;
    fs.set_clock(now_ns);
    Ok(fs)
}

/// What a mount of the image gets: frames that no other image of this process has.
///
/// # Errors
/// When the image is too small, or memory is missing.
pub fn backing(file: &PmemFile, image: &Path) -> Result<Backing> {
    let pages = file.pmem.len() / PAGE_SIZE;
    // Relaxed: nothing but the number is shared.
    let base = NEXT.fetch_add(pages.next_multiple_of(GIB), Ordering::Relaxed);
    let range = Pfn::new(base)
        .and_then(|start| PfnRange::new(start, pages))
        .with_context(|| format!("{}: less than a page", image.display()))?;
    let zero_page = Pfn::new(ZERO_PAGE).context("a frame")?;
    Ok(Backing {
        pgmap: Pgmap::new("image", range, None)?,
        nodes: NodePool::new(NODES)?,
        zero_page,
    })
}

/// Nanoseconds since 1970; 0 if the clock says an earlier time.
pub fn now_ns() -> u64 {
    ns_of(SystemTime::now())
}

/// A time as the file system keeps it: before 1970 is 1970, after 2554 is 2554.
pub fn ns_of(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::ns_of;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_outside_are_the_nearest_inside() {
        assert_eq!(ns_of(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(ns_of(UNIX_EPOCH + Duration::from_nanos(7)), 7);
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(ns_of(far), u64::MAX);
    }
}
