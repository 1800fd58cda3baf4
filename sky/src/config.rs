//! Which processes are watched, and how: the file behind `--monitor`.
//!
//! ```toml
//! [[process]]
//! executable = "writer"      # file name of the executable, without folders
//!
//! [trap]
//! mechanism = "port"         # the way to stop the guest
//! port = 0xe8                # an I/O port that the guest does not use
//! returns = "decoded"        # stop at the return of the calls that are decoded, or of "all"
//!
//! [insight]
//! pending_blocks = 1048576   # written blocks that are remembered until they reach the disk
//! ```

use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result};

/// What `--monitor` names.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Config {
    /// The processes to watch; one matching entry is enough.
    pub process: Vec<ProcessRule>,
    /// How system calls are trapped.
    #[serde(default)]
    pub trap: Trap,
    /// What is remembered of them.
    #[serde(default)]
    pub insight: Insight,
}

/// A process to watch.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ProcessRule {
    /// File name of the executable, without folders.
    pub executable: String,
}

/// How system calls are trapped.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Trap {
    /// The way to stop the guest.
    pub mechanism: Mechanism,
    /// The I/O port of port traps, 0 to 255; a port that no device of the guest uses.
    pub port: u8,
    /// Which returns stop the guest.
    pub returns: Returns,
}

impl Default for Trap {
    fn default() -> Self {
        Self { mechanism: Mechanism::default(), port: 0xe8, returns: Returns::default() }
    }
}

/// The way to stop a guest at an address.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mechanism {
    /// An `out` instruction written over the guest's own.
    #[default]
    Port,
}

/// Which returns of system calls stop the guest.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Returns {
    /// Those of the calls that Sky decodes; every other call costs one stop instead of two.
    #[default]
    Decoded,
    /// Every one, for measurements.
    All,
}

/// What is remembered of written blocks.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Insight {
    /// Written blocks that are remembered until they reach the disk, about 150 bytes each; the oldest go first.
    pub pending_blocks: usize,
}

impl Default for Insight {
    fn default() -> Self {
        Self { pending_blocks: 1 << 20 }
    }
}

/// Names less alike than this are not what the user meant.
const ALIKE: f64 = 0.75;

/// Every key there is, by table; the root's is empty.
const KEYS: &[(&str, &[&str])] = &[
    ("", &["process", "trap", "insight"]),
    ("process", &["executable"]),
    ("trap", &["mechanism", "port", "returns"]),
    ("insight", &["pending_blocks"]),
];

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Config`] with the file's name and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self> {
        let named = |what: String| Error::Config(format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        Self::parse(&text).map_err(|error| named(error.to_string()))
    }

    /// Checks a text.
    ///
    /// # Errors
    /// [`Error::Config`] says what is wrong; an unknown key is named, and the known one nearest to it.
    pub fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| config(error.message()))?;
        check_keys("", &table)?;
        for (name, value) in &table {
            let tables = match value {
                toml::Value::Array(tables) => tables.as_slice(),
                other => std::slice::from_ref(other),
            };
            for table in tables.iter().filter_map(toml::Value::as_table) {
                check_keys(name, table)?;
            }
        }
        let parsed: Self = table.try_into().map_err(|error: toml::de::Error| config(error.message()))?;
        parsed.check()?;
        Ok(parsed)
    }

    fn check(&self) -> Result<()> {
        if self.process.is_empty() {
            return Err(config("no [[process]] to monitor"));
        }
        for rule in &self.process {
            if rule.executable.is_empty() || rule.executable.contains('/') {
                return Err(config(&format!(
                    "process.executable = {:?}: give the file name of the executable, without folders",
                    rule.executable
                )));
            }
        }
        if self.insight.pending_blocks == 0 || self.insight.pending_blocks > 1 << 28 {
            return Err(config("insight.pending_blocks: 1 to 268435456"));
        }
        Ok(())
    }

    /// Whether a process with this executable is to be watched.
    #[must_use]
    pub fn wants(&self, executable: &str) -> bool {
        self.process.iter().any(|rule| rule.executable == executable)
    }
}

fn config(what: &str) -> Error {
    Error::Config(what.to_owned())
}

fn check_keys(table: &str, content: &toml::Table) -> Result<()> {
    let Some((_, known)) = KEYS.iter().find(|(name, _)| *name == table) else { return Ok(()) };
    match content.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(config(&unknown_key(key, table, known))),
        None => Ok(()),
    }
}

fn unknown_key(key: &str, table: &str, known: &[&str]) -> String {
    let place = if table.is_empty() { String::new() } else { format!(" in {table}") };
    match nearest(key, known) {
        Some(candidate) => format!("unknown key {key:?}{place}: did you mean {candidate:?}?"),
        None => format!("unknown key {key:?}{place}: there are {}", known.join(", ")),
    }
}

/// The one of `known` that was probably meant by `key`, if any is near.
#[must_use]
pub fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(key, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| *candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_smallest_file_takes_every_default() {
        let config = Config::parse("[[process]]\nexecutable = 'writer'").unwrap();
        assert_eq!(config.trap, Trap::default());
        assert!(config.wants("writer") && !config.wants("write") && !config.wants("/bin/writer"));
    }

    #[test]
    fn every_key_can_be_set() {
        let text = "[[process]]\nexecutable='a'\n[[process]]\nexecutable='b'\n[trap]\nmechanism='port'\nport=0xb2\n\
                    returns='all'\n[insight]\npending_blocks=7";
        let config = Config::parse(text).unwrap();
        assert_eq!((config.trap.port, config.trap.returns), (0xb2, Returns::All));
        assert_eq!(config.insight.pending_blocks, 7);
        assert!(config.wants("a") && config.wants("b"));
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest() {
        assert_eq!(
            error("[[process]]\nexecutabel='a'"),
            "unknown key \"executabel\" in process: did you mean \"executable\"?"
        );
        assert_eq!(error("[[proces]]\nexecutable='a'"), "unknown key \"proces\": did you mean \"process\"?");
        assert!(error("[zzz]").contains("there are process, trap, insight"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "process = []",
            "[[process]]\nexecutable = ''",
            "[[process]]\nexecutable = '/usr/bin/x'",
            "[[process]]\nexecutable = 'x'\n[trap]\nport = 256",
            "[[process]]\nexecutable = 'x'\n[trap]\nmechanism = 'hope'",
            "[[process]]\nexecutable = 'x'\n[insight]\npending_blocks = 0",
            "process = 3",
            "[[process",
        ] {
            assert!(Config::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
