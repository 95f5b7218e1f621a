//! The command line: text to commands.
//!
//! Words are separated by blanks. Single quotes keep everything, double quotes keep everything but a backslash and the
//! quote it escapes, and a backslash outside quotes keeps the next character. `;` and a new line end a command, `&` ends
//! it and sends it to the background, `#` at the start of a word begins a comment. A whole script is parsed before its
//! first command runs, so a slip at the end does not leave half of the work done.

use alloc::string::String;
use alloc::vec::Vec;
use core::iter::Peekable;
use core::str::CharIndices;
use thiserror::Error;

/// One command as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The command's name and its arguments, quotes removed; never empty.
    pub words: Vec<String>,
    /// It ended with `&`: run it in its own thread.
    pub background: bool,
    /// `--json` was among the words (it is not in `words`).
    pub json: bool,
    /// The text as typed, for `jobs`.
    pub source: String,
}

/// Why a line or script is not a sequence of commands. Positions are bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// A quote was opened and not closed.
    #[error("the quote opened at byte {at} is not closed")]
    OpenQuote {
        /// Where the quote stands.
        at: usize,
    },
    /// `&` with no command before it.
    #[error("there is no command before the & at byte {at}")]
    NothingToRun {
        /// Where the `&` stands.
        at: usize,
    },
    /// The text ends in the middle of an escape.
    #[error("nothing follows the backslash at byte {at}")]
    OpenEscape {
        /// Where the backslash stands.
        at: usize,
    },
}

/// Splits a line or a whole script into its commands; empty commands and comments vanish.
///
/// # Errors
/// The first [`ParseError`]; nothing of the script should run then.
pub fn parse(text: &str) -> Result<Vec<Parsed>, ParseError> {
    let mut parser = Parser::new(text);
    parser.commands()?;
    Ok(parser.done)
}

struct Parser<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
    start: usize,
    words: Vec<String>,
    word: Option<String>,
    json: bool,
    quoted: bool,
    done: Vec<Parsed>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Parser {
            text,
            chars: text.char_indices().peekable(),
            start: 0,
            words: Vec::new(),
            word: None,
            json: false,
            quoted: false,
            done: Vec::new(),
        }
    }

    fn commands(&mut self) -> Result<(), ParseError> {
        while let Some((at, c)) = self.chars.next() {
            match c {
                ';' | '\n' => self.end_command(at, false)?,
                '&' => self.end_command(at, true)?,
                '\'' => self.single_quoted(at)?,
                '"' => self.double_quoted(at)?,
                '\\' => self.escape(at)?,
                '#' if self.word.is_none() => self.comment(),
                c if c.is_whitespace() => self.end_word(),
                c => self.push(c),
            }
        }
        self.end_command(self.text.len(), false)
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn single_quoted(&mut self, at: usize) -> Result<(), ParseError> {
        self.open_quote();
        loop {
            match self.chars.next() {
                Some((_, '\'')) => return Ok(()),
                Some((_, c)) => self.push(c),
                None => return Err(ParseError::OpenQuote { at }),
            }
        }
    }

    fn double_quoted(&mut self, at: usize) -> Result<(), ParseError> {
        self.open_quote();
        loop {
            match self.chars.next() {
                Some((_, '"')) => return Ok(()),
                Some((at, '\\')) => self.escape_in_quotes(at)?,
                Some((_, c)) => self.push(c),
                None => return Err(ParseError::OpenQuote { at }),
            }
        }
    }

    /// `""` is a word too, and `"--json"` is a word and no option.
    fn open_quote(&mut self) {
        self.word.get_or_insert_default();
        self.quoted = true;
    }

    fn escape(&mut self, at: usize) -> Result<(), ParseError> {
        let (_, c) = self.chars.next().ok_or(ParseError::OpenEscape { at })?;
        self.quoted = true;
        self.push(c);
        Ok(())
    }

    fn escape_in_quotes(&mut self, at: usize) -> Result<(), ParseError> {
        match self.chars.next().ok_or(ParseError::OpenEscape { at })? {
            (_, c @ ('"' | '\\')) => self.push(c),
            (_, 'n') => self.push('\n'),
            (_, 't') => self.push('\t'),
            (_, c) => {
                self.push('\\');
                self.push(c);
            }
        }
        Ok(())
    }

    fn comment(&mut self) {
        while self.chars.next_if(|&(_, c)| c != '\n').is_some() {}
    }

    fn end_word(&mut self) {
        let quoted = core::mem::take(&mut self.quoted);
        match self.word.take() {
            Some(word) if word == "--json" && !quoted => self.json = true,
            Some(word) => self.words.push(word),
            None => {}
        }
    }

    fn end_command(&mut self, at: usize, background: bool) -> Result<(), ParseError> {
        self.end_word();
        let source = self.text[self.start..at].trim();
        self.start = (at + 1).min(self.text.len());
        let json = core::mem::take(&mut self.json);
        let words = core::mem::take(&mut self.words);
        if words.is_empty() {
            return if background {
                Err(ParseError::NothingToRun { at })
            } else {
                Ok(())
            };
        }
        let source = String::from(source);
        self.done.push(Parsed {
            words,
            background,
            json,
            source,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn words(text: &str) -> Vec<Vec<String>> {
        parse(text).unwrap().into_iter().map(|c| c.words).collect()
    }

    #[test]
    fn blanks_separate_words_and_semicolons_and_lines_separate_commands() {
        assert_eq!(
            words(" ls  /a ;\n\n stat\t/b;; "),
            [vec!["ls", "/a"], vec!["stat", "/b"]]
        );
    }

    #[test]
    fn ampersand_ends_a_command_as_a_semicolon_does_and_marks_it() {
        let c = parse("truncate /f 0 & sleep 100; jobs").unwrap();
        let got: Vec<_> = c
            .iter()
            .map(|c| (c.source.as_str(), c.background))
            .collect();
        assert_eq!(
            got,
            [
                ("truncate /f 0", true),
                ("sleep 100", false),
                ("jobs", false)
            ]
        );
    }

    #[test]
    fn quotes_keep_blanks_separators_and_empty_words() {
        assert_eq!(
            words(r#"write /f 0 'a; b & "c"'"#),
            [vec!["write", "/f", "0", r#"a; b & "c""#]]
        );
        assert_eq!(
            words(r#"write "" "a \"b\" \\ \n" x' 'y"#),
            [vec!["write", "", "a \"b\" \\ \n", "x y"]]
        );
        assert_eq!(words(r"ls a\ b\;c"), [vec!["ls", "a b;c"]]);
    }

    #[test]
    fn json_is_taken_from_any_place_but_not_from_quotes() {
        let c = parse("page --json 5; write /f 0 '--json'").unwrap();
        assert_eq!(
            (c[0].json, &c[0].words[..]),
            (true, &["page".into(), "5".into()][..])
        );
        assert_eq!((c[1].json, c[1].words[3].as_str()), (false, "--json"));
    }

    #[test]
    fn a_comment_runs_to_the_end_of_its_line_and_needs_a_word_start() {
        assert_eq!(
            words("ls # all; of it\nstat a#b"),
            [vec!["ls"], vec!["stat", "a#b"]]
        );
    }

    #[test]
    fn slips_are_named_with_their_place() {
        assert_eq!(parse("ls 'abc"), Err(ParseError::OpenQuote { at: 3 }));
        assert_eq!(parse("ls \"abc"), Err(ParseError::OpenQuote { at: 3 }));
        assert_eq!(parse("ls; & stat"), Err(ParseError::NothingToRun { at: 4 }));
        assert_eq!(parse("ls a\\"), Err(ParseError::OpenEscape { at: 4 }));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_no_command_is_empty(text in "\\PC*") {
            for c in parse(&text).unwrap_or_default() {
                assert!(!c.words.is_empty());
            }
        }
    }
}
