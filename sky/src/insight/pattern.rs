//! Which files are followed.

use glob::{MatchOptions, Pattern};

use crate::{Error, Result};

/// An entry of `insight.files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePattern {
    /// This file, or whatever lies in this directory, at any depth.
    Below(String),
    /// Whose whole path matches; `*` matches slashes, too.
    Matches(Pattern),
}

impl FilePattern {
    /// An absolute path without `*`, `?` and `[` names itself and what lies below; anything else is a pattern.
    ///
    /// # Errors
    /// [`Error::Config`] for an empty text, or a malformed pattern.
    pub fn new(text: &str) -> Result<Self> {
        let wrong = |what: &str| Error::Config(format!("insight.files: {text:?}: {what}"));
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.starts_with('/') && !text.contains(['*', '?', '[']) {
            return Ok(Self::Below(text.trim_end_matches('/').to_owned()));
        }
        Pattern::new(text).map(Self::Matches).map_err(|error| wrong(&error.to_string()))
    }

    /// Whether a file is followed.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        match self {
            Self::Below(above) => {
                path.strip_prefix(above.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Matches(pattern) => pattern.matches_with(path, MatchOptions::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_patterns() {
        let contains = |text: &str, path: &str| FilePattern::new(text).unwrap().contains(path);
        for path in ["/var/lib/a", "/var/lib/a/b", "/var/lib"] {
            assert!(contains("/var/lib", path) && contains("/var/lib/", path), "{path}");
        }
        assert!(!contains("/var/lib", "/var/library") && !contains("/var/lib", "/mnt/var/lib"));
        assert!(contains("/", "/a") && contains("*.db", "/a/b.db") && contains("/a/*/c", "/a/b/c"));
        assert!(!contains("*.db", "/a/b.dbx"));
        assert!(FilePattern::new("").is_err() && FilePattern::new("a[").is_err());
    }
}
