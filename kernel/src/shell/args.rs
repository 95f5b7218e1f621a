//! A command's arguments, taken one by one with typed errors.
//!
//! Options first (`flag`, `option`), then the positional arguments in order, then [`Args::end`], which refuses what is left.
//! A command acts only after `end`.

use super::error::{ArgProblem, CommandError, UsageError};
use super::number::{NumberError, parse_number, parse_size};
use alloc::collections::VecDeque;
use alloc::string::String;

/// The words after a command's name.
pub struct Args {
    name: &'static str,
    usage: String,
    words: VecDeque<String>,
}

impl Args {
    /// The arguments of the command `name`, whose usage line is `usage`.
    pub fn new(name: &'static str, usage: String, words: impl IntoIterator<Item = String>) -> Self {
        Args {
            name,
            usage,
            words: words.into_iter().collect(),
        }
    }

    /// The error for a problem with these arguments.
    #[must_use]
    pub fn error(&self, problem: ArgProblem) -> CommandError {
        CommandError::new(
            self.name,
            UsageError {
                problem,
                usage: self.usage.clone(),
            },
        )
    }

    /// Takes an option without a value; true when it was there.
    pub fn flag(&mut self, option: &'static str) -> bool {
        let at = self.words.iter().position(|w| w == option);
        at.and_then(|at| self.words.remove(at)).is_some()
    }

    /// Takes the next word if it is `word`.
    pub fn word_if(&mut self, word: &str) -> bool {
        let is = self.words.front().is_some_and(|first| first == word);
        is && self.words.pop_front().is_some()
    }

    /// Takes an option and its value.
    ///
    /// # Errors
    /// The option stands last.
    pub fn option(&mut self, option: &'static str) -> Result<Option<String>, CommandError> {
        let Some(at) = self.words.iter().position(|w| w == option) else {
            return Ok(None);
        };
        self.words.remove(at);
        match self.words.remove(at) {
            Some(value) => Ok(Some(value)),
            None => Err(self.error(ArgProblem::NoValue { option })),
        }
    }

    /// Takes an option whose value is a number.
    ///
    /// # Errors
    /// No value, or no number.
    pub fn number_option(&mut self, option: &'static str) -> Result<Option<u64>, CommandError> {
        let value = self.option(option)?;
        value
            .map(|word| self.converted(option, word, parse_number))
            .transpose()
    }

    /// Takes the next argument if there is one.
    pub fn optional(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// Takes the next argument.
    ///
    /// # Errors
    /// There is none, `name` being what the usage line calls it; or it begins as an option does, which the command then does not
    /// have. (A path may be written from the root.)
    pub fn word(&mut self, name: &'static str) -> Result<String, CommandError> {
        match self.text(name)? {
            word if word.starts_with("--") => Err(self.error(ArgProblem::UnknownOption { word })),
            word => Ok(word),
        }
    }

    /// Takes the next argument, which may begin with anything.
    ///
    /// # Errors
    /// There is none.
    pub fn text(&mut self, name: &'static str) -> Result<String, CommandError> {
        self.words
            .pop_front()
            .ok_or_else(|| self.error(ArgProblem::Missing { name }))
    }

    /// Takes the next argument as a number.
    ///
    /// # Errors
    /// There is none, or it is no number.
    pub fn number(&mut self, name: &'static str) -> Result<u64, CommandError> {
        let word = self.word(name)?;
        self.converted(name, word, parse_number)
    }

    /// Takes the next argument as a number that is at most `max`.
    ///
    /// # Errors
    /// There is none, it is no number, or it is more.
    pub fn number_up_to(&mut self, name: &'static str, max: u64) -> Result<u64, CommandError> {
        let word = self.word(name)?;
        self.converted(name, word, |w| match parse_number(w)? {
            n if n > max => Err(NumberError::TooLarge { max }),
            n => Ok(n),
        })
    }

    /// Takes the next argument as a size in bytes, with an optional K, M, G or T.
    ///
    /// # Errors
    /// There is none, or it is no size.
    pub fn size(&mut self, name: &'static str) -> Result<u64, CommandError> {
        let word = self.word(name)?;
        self.converted(name, word, parse_size)
    }

    /// Takes the next argument, if there is one, as a size.
    ///
    /// # Errors
    /// It is no size.
    pub fn optional_size(&mut self, name: &'static str) -> Result<Option<u64>, CommandError> {
        let word = self.words.pop_front();
        word.map(|word| self.converted(name, word, parse_size))
            .transpose()
    }

    /// Converts a word; the error names the argument.
    ///
    /// # Errors
    /// What `convert` says, as a usage error.
    pub fn converted<T>(
        &self,
        name: &'static str,
        word: String,
        convert: impl FnOnce(&str) -> Result<T, NumberError>,
    ) -> Result<T, CommandError> {
        convert(&word).map_err(|why| self.error(ArgProblem::BadNumber { name, word, why }))
    }

    /// All arguments are taken.
    ///
    /// # Errors
    /// One is left: an unknown option, or one too many.
    pub fn end(&mut self) -> Result<(), CommandError> {
        match self.words.pop_front() {
            None => Ok(()),
            Some(word) if word.starts_with("--") => {
                Err(self.error(ArgProblem::UnknownOption { word }))
            }
            Some(word) => Err(self.error(ArgProblem::Extra { word })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn args(text: &str) -> Args {
        Args::new(
            "truncate",
            "truncate PATH SIZE".into(),
            text.split_whitespace().map(String::from),
        )
    }

    #[test]
    fn options_may_stand_anywhere() {
        for text in ["--nowait --timeout 5 /f 64K", "/f --timeout 5 64K --nowait"] {
            let mut a = args(text);
            assert!(a.flag("--nowait"));
            assert_eq!(a.number_option("--timeout").unwrap(), Some(5));
            assert_eq!(a.word("PATH").unwrap(), "/f");
            assert_eq!(a.size("SIZE").unwrap(), 65536);
            a.end().unwrap();
        }
    }

    #[test]
    fn each_problem_names_the_argument_and_the_usage() {
        let shown = |e: CommandError| e.to_string();
        let usage = "(usage: truncate PATH SIZE)";
        assert_eq!(
            shown(args("").word("PATH").unwrap_err()),
            format!("truncate: PATH is missing {usage}")
        );
        let e = args("x1").size("SIZE").unwrap_err();
        assert_eq!(
            shown(e),
            format!("truncate: SIZE `x1`: it is not a number {usage}")
        );
        let e = args("256").number_up_to("BYTE", 255).unwrap_err();
        assert_eq!(
            shown(e),
            format!("truncate: BYTE `256`: it is more than 255 {usage}")
        );
        let e = args("--timeout").option("--timeout").unwrap_err();
        assert_eq!(
            shown(e),
            format!("truncate: --timeout wants a value {usage}")
        );
        assert_eq!(
            shown(args("--foo").end().unwrap_err()),
            format!("truncate: there is no option --foo {usage}")
        );
        assert_eq!(
            shown(args("--foo").word("PATH").unwrap_err()),
            format!("truncate: there is no option --foo {usage}")
        );
        assert_eq!(args("--foo").text("TEXT").unwrap(), "--foo");
        assert_eq!(
            shown(args("7").end().unwrap_err()),
            format!("truncate: `7` is one argument too many {usage}")
        );
    }
}
