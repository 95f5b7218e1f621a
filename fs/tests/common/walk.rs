//! A walk over a mounted file system: every name once, and what names must agree about.

use std::collections::BTreeMap;
use std::sync::Arc;

use dax::pmem::Pmem;
use fs::{Fs, Inode, Kind};

/// Every path, and what `see` makes of the inode there and its content: of a file, or the text of a link. An error is told with the path.
pub fn walk<P: Pmem, T>(
    fs: &Fs<P>,
    mut see: impl FnMut(&Arc<Inode<P>>, Vec<u8>) -> T,
) -> Result<BTreeMap<String, T>, String> {
    let mut out = BTreeMap::new();
    let mut todo = vec![(String::from("/"), fs.root().map_err(|e| e.to_string())?)];
    while let Some((path, inode)) = todo.pop() {
        let content = match inode.kind() {
            Kind::Dir => below(fs, &path, &inode, &mut todo).map(|()| Vec::new()),
            _ => data(fs, &inode).map_err(|e| format!("{path}: {e}")),
        }?;
        let seen = see(&inode, content);
        if out.insert(path.clone(), seen).is_some() {
            return Err(format!("{path} is there twice"));
        }
    }
    Ok(out)
}

/// The names of a directory: each has the kind that it says, is found by lookup, and a directory knows its parent.
fn below<P: Pmem>(
    fs: &Fs<P>,
    path: &str,
    dir: &Arc<Inode<P>>,
    todo: &mut Vec<(String, Arc<Inode<P>>)>,
) -> Result<(), String> {
    let mut cookie = 0;
    while let Some(entry) = fs
        .readdir(dir, cookie)
        .map_err(|e| format!("{path}: {e}"))?
    {
        cookie = entry.cookie;
        let name = String::from_utf8_lossy(entry.name.as_bytes()).into_owned();
        let below = format!("{}/{name}", path.trim_end_matches('/'));
        let child = fs.inode(entry.ino).map_err(|e| format!("{below}: {e}"))?;
        if child.kind() != entry.kind {
            return Err(format!("{below}: the name says {:?}", entry.kind));
        }
        let found = fs.lookup(dir, entry.name.as_bytes());
        if found.map(|i| i.ino()) != Ok(entry.ino) {
            return Err(format!("{below}: lookup disagrees with readdir"));
        }
        if child.kind() == Kind::Dir && fs.parent(&child).map(|i| i.ino()) != Ok(dir.ino()) {
            return Err(format!("{below}: its parent is another"));
        }
        todo.push((below, child));
    }
    Ok(())
}

/// Content of a file, text of a link.
fn data<P: Pmem>(fs: &Fs<P>, inode: &Inode<P>) -> Result<Vec<u8>, String> {
    let mut data = vec![0x55; inode.stat().size as usize];
    let got = match inode.kind() {
        Kind::File => fs.read(inode, 0, &mut data).map_err(|e| e.to_string())?,
        Kind::Symlink => inode.readlink(&mut data).map_err(|e| e.to_string())?,
        _ => 0,
    };
    if got == data.len() {
        Ok(data)
    } else {
        Err(format!("{got} bytes of {}", data.len()))
    }
}
