//! One NVDIMM, as the user describes it: `FILE[,size=S][,label-size=S][,unarmed]`.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::size::{Size, SizeError};

/// An NVDIMM to be backed by a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PmemOption {
    /// The file.
    pub file: PathBuf,
    /// Its size; what the file has when `None`.
    pub size: Option<Size>,
    /// The bytes of label area, which QEMU takes from the file's end; no label area when `None`.
    pub label_size: Option<Size>,
    /// Whether the guest is told that the device cannot keep its contents over a loss of power.
    pub unarmed: bool,
}

/// Why a text describes no NVDIMM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PmemOptionError {
    /// There is nothing before the first comma.
    #[error("the file's name is missing")]
    NoFile,
    /// A word after the first comma that is none of `size=S`, `label-size=S`, `unarmed`.
    #[error("`{0}` is none of size=S, label-size=S, unarmed")]
    UnknownWord(String),
    /// A size that is none.
    #[error("`{word}`: {why}")]
    Size {
        /// The whole word.
        word: String,
        /// What is wrong with it.
        why: SizeError,
    },
}

impl FromStr for PmemOption {
    type Err = PmemOptionError;

    fn from_str(text: &str) -> Result<Self, PmemOptionError> {
        let mut words = text.split(',');
        let file = words
            .next()
            .filter(|f| !f.is_empty())
            .ok_or(PmemOptionError::NoFile)?;
        let mut option = Self {
            file: file.into(),
            size: None,
            label_size: None,
            unarmed: false,
        };
        words.try_for_each(|word| option.take(word))?;
        Ok(option)
    }
}

impl PmemOption {
    fn take(&mut self, word: &str) -> Result<(), PmemOptionError> {
        let size = |text: &str| {
            let of_word = |why| PmemOptionError::Size {
                word: word.to_owned(),
                why,
            };
            text.parse().map(Some).map_err(of_word)
        };
        match word.split_once('=') {
            Some(("size", text)) => self.size = size(text)?,
            Some(("label-size", text)) => self.label_size = size(text)?,
            None if word == "unarmed" => self.unarmed = true,
            _ => return Err(PmemOptionError::UnknownWord(word.to_owned())),
        }
        Ok(())
    }

    /// Makes the file, sparse, when it is missing and a size is given; returns the size that the NVDIMM gets.
    ///
    /// # Errors
    /// [`BackingError`]; an existing file is never made longer or shorter.
    pub fn prepare(&self) -> Result<Size, BackingError> {
        let fail = |why| BackingError::Io {
            file: self.file.clone(),
            why,
        };
        let found = match std::fs::metadata(&self.file) {
            Ok(found) => Size(found.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.create().map_err(fail)?,
            Err(e) => return Err(fail(e)),
        };
        match self.size {
            Some(asked) if asked != found => Err(BackingError::OtherSize {
                file: self.file.clone(),
                asked,
                found,
            }),
            _ if found.0 == 0 => Err(BackingError::Empty {
                file: self.file.clone(),
            }),
            _ => Ok(found),
        }
    }

    fn create(&self) -> io::Result<Result<Size, BackingError>> {
        match self.size {
            Some(size) if size.0 != 0 => create_sparse(&self.file, size).map(|_| Ok(size)),
            _ => Ok(Err(BackingError::Missing {
                file: self.file.clone(),
            })),
        }
    }
}

/// Makes a new file of the given size without any blocks.
///
/// # Errors
/// When the file exists already, or the system refuses.
pub fn create_sparse(path: &Path, size: Size) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    file.set_len(size.0)?;
    Ok(file)
}

/// Why a file cannot back an NVDIMM.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// It does not exist, and no size was given to make it with.
    #[error("{file}: no such file (give its size to have it made: --pmem {file},size=1G)", file = file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// It is empty.
    #[error("{file}: the file is empty", file = file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// It has another size than the option says.
    #[error("{file}: the file has {found}, not {asked} (leave out size=, or use another file)", file = file.display())]
    OtherSize {
        /// The file.
        file: PathBuf,
        /// What the option says.
        asked: Size,
        /// What the file has.
        found: Size,
    },
    /// The system refused.
    #[error("{file}: {why}", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        why: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::{PmemOption, PmemOptionError, Size};

    #[test]
    fn all_words_are_read() {
        let option: PmemOption = "a.img,unarmed,label-size=128K,size=1G".parse().unwrap();
        assert_eq!(option.file.to_str(), Some("a.img"));
        assert_eq!(
            (option.size, option.label_size),
            (Some(Size::gib(1)), Some(Size(128 << 10)))
        );
        assert!(option.unarmed);
    }

    #[test]
    fn a_wrong_word_is_named() {
        let unknown = "a.img,armed".parse::<PmemOption>();
        assert_eq!(unknown, Err(PmemOptionError::UnknownWord("armed".into())));
        assert_eq!(
            ",size=1G".parse::<PmemOption>(),
            Err(PmemOptionError::NoFile)
        );
        assert!(matches!(
            "a,size=1X".parse::<PmemOption>(),
            Err(PmemOptionError::Size { .. })
        ));
    }
}
