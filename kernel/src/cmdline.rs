//! The kernel's command line: words separated by blanks, `key=value` or a bare `key`.

/// The value of `key` in `line`: the last `key=value` wins; a bare `key` has the value "".
///
/// ```
/// assert_eq!(kernel::cmdline::value("log=debug tour", "log"), Some("debug"));
/// assert_eq!(kernel::cmdline::value("log=debug tour", "tour"), Some(""));
/// assert_eq!(kernel::cmdline::value("log=debug tour", "lo"), None);
/// ```
pub fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace()
        .rev()
        .find_map(|word| match word.split_once('=') {
            Some((k, v)) => (k == key).then_some(v),
            None => (word == key).then_some(""),
        })
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn the_last_one_wins_and_values_may_hold_equal_signs() {
        assert_eq!(value("a=1 b a=2", "a"), Some("2"));
        assert_eq!(value("run=x=y", "run"), Some("x=y"));
        assert_eq!(value("", "run"), None);
    }
}
