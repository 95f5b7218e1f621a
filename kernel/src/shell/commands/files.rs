//! `create`, `cat`, `write`, `fill`, `sum`, `fallocate`: the content of files, by reads and writes.

use super::{Done, command, mounted, open};
use crate::machine::{Fs, Inode, Machine};
use crate::shell::{Args, Command, CommandError, On, Out, Value};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use crc::{CRC_32_ISCSI, Crc, Digest};
use fs::Fill;

/// Bytes that are read or written at a time.
const PIECE: usize = 1024;

pub const CREATE: Command<Machine> = command(
    "create",
    "PATH SIZE",
    "makes a file of that size, allocated and zeroed",
    "SIZE takes K, M, G, T. 0 makes an empty file.",
    create,
);
pub const CAT: Command<Machine> = command(
    "cat",
    "PATH",
    "prints a file as text",
    "Bytes that are no text are shown as \\xNN.",
    cat,
);
pub const WRITE: Command<Machine> = command(
    "write",
    "PATH OFF TEXT",
    "writes text at an offset, durably",
    "The file must exist.",
    write,
);
pub const FILL: Command<Machine> = command(
    "fill",
    "PATH OFF LEN BYTE",
    "writes one byte over a range, durably",
    "The file must exist.",
    fill,
);
pub const SUM: Command<Machine> = command(
    "sum",
    "PATH",
    "shows the CRC-32C of a file's content",
    "",
    sum,
);
pub const FALLOCATE: Command<Machine> = command(
    "fallocate",
    "PATH OFF LEN",
    "gives storage to a range of a file",
    "The storage reads as zero. The file grows if the range passes its end.",
    fallocate,
);

fn create(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let (path, size) = (args.word("PATH")?, args.size("SIZE")?);
    args.end()?;
    let inode = mounted(machine, &path)?
        .create_sized(&path, 0o644, size)
        .on(|| format!("create {path}"))?;
    let (ino, size) = (inode.ino(), Value::Bytes(size));
    let fields = vec![
        ("path", path.clone().into()),
        ("inode", ino.into()),
        ("size", size.clone()),
    ];
    out.say(fields, format_args!("{path}: inode {ino}, {size}"));
    Ok(())
}

/// Calls `each` with a file's content, piece by piece.
fn for_each_piece(
    fs: &Fs,
    inode: &Inode,
    path: &str,
    mut each: impl FnMut(&[u8]),
) -> Result<u64, CommandError> {
    let mut buf = [0; PIECE];
    let mut at = 0;
    loop {
        match fs.read(inode, at, &mut buf).on(|| path)? {
            0 => return Ok(at),
            n => {
                each(&buf[..n]);
                at += n as u64;
            }
        }
    }
}

fn cat(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let path = args.word("PATH")?;
    args.end()?;
    let (fs, inode) = open(machine, &path)?;
    let mut text = Text {
        line: String::new(),
        out,
    };
    for_each_piece(&fs, &inode, &path, |piece| {
        piece.iter().for_each(|&b| text.push(b))
    })?;
    text.flush();
    Ok(())
}

/// Bytes on their way to the output, line by line; a long line is cut so that it needs little memory.
struct Text<'a> {
    line: String,
    out: &'a Out,
}

impl Text<'_> {
    fn push(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\t' | b' '..=b'~' => self.line.push(byte.into()),
            _ => self.line.push_str(&format!("\\x{byte:02x}")),
        }
        if self.line.len() >= PIECE {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        // An empty line is a line, too.
        let line = core::mem::take(&mut self.line);
        self.out.text(if line.is_empty() { "\n" } else { &line });
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }
}

fn write(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let (path, off, text) = (args.word("PATH")?, args.size("OFF")?, args.text("TEXT")?);
    args.end()?;
    let (fs, inode) = open(machine, &path)?;
    fs.write(&inode, off, text.as_bytes())
        .on(|| format!("write {path}"))?;
    wrote(path, off, text.len() as u64, out);
    Ok(())
}

fn wrote(path: String, offset: u64, length: u64, out: &Out) {
    let fields = vec![
        ("path", path.clone().into()),
        ("offset", Value::Count(offset)),
        ("length", Value::Count(length)),
    ];
    out.say(
        fields,
        format_args!("{path}: {length} bytes written at {offset}"),
    );
}

fn fill(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let (path, off, len) = (args.word("PATH")?, args.size("OFF")?, args.size("LEN")?);
    let byte = args.number_up_to("BYTE", 255)? as u8;
    args.end()?;
    let (fs, inode) = open(machine, &path)?;
    let piece = [byte; PIECE];
    let mut done = 0;
    while done < len {
        let now = (len - done).min(PIECE as u64);
        fs.write(&inode, off.saturating_add(done), &piece[..now as usize])
            .on(|| format!("fill {path}"))?;
        done += now;
    }
    wrote(path, off, len, out);
    Ok(())
}

/// CRC-32C of what is fed to it.
struct Sum(Digest<'static, u32>);

impl Sum {
    fn new() -> Self {
        static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
        Sum(CRC.digest())
    }
}

fn sum(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let path = args.word("PATH")?;
    args.end()?;
    let (fs, inode) = open(machine, &path)?;
    let mut sum = Sum::new();
    let size = for_each_piece(&fs, &inode, &path, |piece| sum.0.update(piece))?;
    let crc = sum.0.finalize();
    let fields = vec![
        ("path", path.clone().into()),
        ("crc32c", crc.into()),
        ("crc32c_hex", format!("{crc:08x}").into()),
        ("size", size.into()),
    ];
    out.say(fields, format_args!("{crc:08x}  {path}"));
    Ok(())
}

fn fallocate(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let (path, off, len) = (args.word("PATH")?, args.size("OFF")?, args.size("LEN")?);
    args.end()?;
    let (fs, inode) = open(machine, &path)?;
    fs.fallocate(&inode, off, len, Fill::Unwritten)
        .on(|| format!("fallocate {path}"))?;
    let size = inode.stat().size;
    let fields = vec![
        ("path", path.clone().into()),
        ("offset", off.into()),
        ("length", len.into()),
        ("size", size.into()),
    ];
    out.say(
        fields,
        format_args!("{path}: storage for {len} bytes at {off}"),
    );
    Ok(())
}
