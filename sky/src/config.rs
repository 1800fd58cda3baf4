//! Which processes are watched, and how: the file behind `--monitor`.
//!
//! ```toml
//! [[process]]
//! executable = "writer"      # pattern for the file name of the executable, or with a slash for its path
//! command = "* --fast *"     # pattern for the command line
//! parent = "sh"              # pattern for the executable of the parent, or its process id
//! pid = 42                   # process id
//! children = true            # also all that it starts
//!
//! [trap]
//! engine = "sce"             # system calls fault ("sce"), or are entered elsewhere ("entry")
//! mechanism = "auto"         # the way to stop the guest: "port", "debug", or the first of them that works
//! port = 0xe8                # an I/O port that the guest does not use
//! returns = "observed"       # stop at the return of the calls that are observed, or of "all"
//!
//! [insight]
//! pending_blocks = 1048576   # written blocks that are remembered until they reach the disk
//! policy = "ioclass.csv"     # classes of blocks, beside this file: docs/classes.md
//! assume = "partial"         # blocks that no monitored process wrote are unknown; "complete": they are metadata,
//!                            # because every process that writes is monitored
//! files = ["/var/lib", "*.db"]   # follow only these: what lies in a directory, or whose path matches a pattern
//! encrypting = ["gpg"]       # programs whose output is like no other block; a list of common ones without this
//! encrypted = ["gpg"]        # extensions of files of such blocks; likewise
//! entropy = 7.9              # bits for each byte from which on a block looks encrypted
//! ```
//!
//! `process = []` begins with nobody: rules may be [added](crate::Sky::add) later.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sky_devices::policy::{MAX_FILE_BYTES, Policy};

use crate::insight::{Assume, FilePattern, UniqueRules};
use crate::process::ProcessRule;
use crate::trap::Engine;
use crate::{Error, Result};

/// What `--monitor` names. The default watches nobody, until somebody is added.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
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

/// How system calls are trapped.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Trap {
    /// The way to stop the guest.
    pub mechanism: MechanismChoice,
    /// How calls are recognised.
    pub engine: Engine,
    /// The I/O port of port traps, 0 to 255; a port that no device of the guest uses.
    pub port: u8,
    /// Which returns stop the guest.
    pub returns: Returns,
}

impl Default for Trap {
    fn default() -> Self {
        Self {
            mechanism: MechanismChoice::default(),
            engine: Engine::default(),
            port: 0xe8,
            returns: Returns::default(),
        }
    }
}

/// The way to stop a guest at an address.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MechanismChoice {
    /// Port traps, or debug registers in a guest where those cannot be set. An embedder that has tested what works on
    /// the host may put one of the others in its place.
    #[default]
    Auto,
    /// An `out` instruction written over the guest's own.
    Port,
    /// Debug registers.
    Debug,
}

/// Which returns of system calls stop the guest.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Returns {
    /// Those of the calls that somebody observes; every other call costs one stop instead of two.
    #[default]
    Observed,
    /// Every one, for measurements.
    All,
}

/// What is remembered of written blocks.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default)]
pub struct Insight {
    /// Written blocks that are remembered until they reach the disk, about 200 bytes each; the oldest go first.
    pub pending_blocks: usize,
    /// Which class each block gets. In a configuration file, `policy` names a file in the format of Open CAS Linux, from
    /// the directory of the configuration file; without it, the paper's table.
    #[serde(skip)]
    pub policy: Policy,
    /// The file that the policy was read from, as the configuration names it.
    #[serde(rename = "policy")]
    pub policy_file: Option<PathBuf>,
    /// What a written block is that no monitored process has written.
    pub assume: Assume,
    /// Files that are followed: absolute paths of directories or files, or patterns for whole paths. All, if there is none.
    pub files: Vec<String>,
    /// Programs that encrypt, by name.
    pub encrypting: Vec<String>,
    /// Extensions of encrypted files, without the dot.
    pub encrypted: Vec<String>,
    /// From so many bits of entropy for each byte on a block looks encrypted.
    pub entropy: f64,
}

impl Insight {
    /// What tells blocks that are like no other.
    pub(crate) fn unique(&self) -> UniqueRules {
        UniqueRules {
            programs: self.encrypting.clone(),
            extensions: self.encrypted.clone(),
            entropy: self.entropy,
        }
    }

    /// The files that are followed; checked before, malformed ones are left out.
    pub(crate) fn patterns(&self) -> Vec<FilePattern> {
        self.files.iter().filter_map(|text| FilePattern::new(text).ok()).collect()
    }
}

impl Default for Insight {
    fn default() -> Self {
        let unique = UniqueRules::default();
        Self {
            pending_blocks: 1 << 20,
            policy: Policy::default(),
            policy_file: None,
            assume: Assume::default(),
            files: Vec::new(),
            encrypting: unique.programs,
            encrypted: unique.extensions,
            entropy: unique.entropy,
        }
    }
}

/// Names less alike than this are not what the user meant.
const ALIKE: f64 = 0.75;

/// Every key there is, by table; the root's is empty.
const KEYS: &[(&str, &[&str])] = &[
    ("", &["process", "trap", "insight"]),
    ("process", &["executable", "command", "parent", "pid", "children"]),
    ("trap", &["engine", "mechanism", "port", "returns"]),
    ("insight", &["pending_blocks", "policy", "assume", "files", "encrypting", "encrypted", "entropy"]),
];

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Config`] with the file's name and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self> {
        let named = |what: String| Error::Config(format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse_in(&text, directory).map_err(|error| named(error.to_string()))
    }

    /// Checks a text. A file that it names is looked for from the current directory.
    ///
    /// # Errors
    /// [`Error::Config`] says what is wrong; an unknown key is named, and the known one nearest to it.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_in(text, Path::new(""))
    }

    fn parse_in(text: &str, directory: &Path) -> Result<Self> {
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
        let mut parsed: Self = table.try_into().map_err(|error: toml::de::Error| config(error.message()))?;
        parsed.check()?;
        if let Some(file) = &parsed.insight.policy_file {
            parsed.insight.policy = load_policy(&directory.join(file))?;
        }
        Ok(parsed)
    }

    fn check(&self) -> Result<()> {
        self.process.iter().try_for_each(|rule| rule.compile().map(drop))?;
        if self.insight.pending_blocks == 0 || self.insight.pending_blocks > 1 << 28 {
            return Err(config("insight.pending_blocks: 1 to 268435456"));
        }
        if !(0.0..=8.0).contains(&self.insight.entropy) {
            return Err(config("insight.entropy: 0 to 8 bits for each byte"));
        }
        self.insight.files.iter().try_for_each(|text| FilePattern::new(text).map(drop))
    }
}

fn load_policy(path: &Path) -> Result<Policy> {
    let named = |what: &dyn fmt::Display| config(&format!("insight.policy: {}: {what}", path.display()));
    let mut text = String::new();
    // One byte more than a policy may have, which is refused then.
    let file = File::open(path).map_err(|error| named(&error))?;
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_string(&mut text).map_err(|error| named(&error))?;
    Policy::parse(&text).map_err(|error| named(&error))
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
        assert_eq!(config.trap.mechanism, MechanismChoice::Auto);
        assert_eq!(config.process, [ProcessRule::executable("writer")]);
    }

    #[test]
    fn one_can_begin_with_nobody() {
        assert_eq!(Config::parse("process = []").unwrap(), Config::default());
        for (text, choice) in [
            ("auto", MechanismChoice::Auto),
            ("port", MechanismChoice::Port),
            ("debug", MechanismChoice::Debug),
        ] {
            let config = Config::parse(&format!("process = []\n[trap]\nmechanism = '{text}'")).unwrap();
            assert_eq!(config.trap.mechanism, choice);
        }
    }

    #[test]
    fn every_key_can_be_set() {
        let text = "[[process]]\nexecutable='a'\nparent=3\n[[process]]\npid=5\ncommand='x *'\nchildren=true\n\
                    [trap]\nengine='entry'\nmechanism='debug'\nport=0xb2\nreturns='all'\n[insight]\npending_blocks=7";
        let config = Config::parse(text).unwrap();
        assert_eq!((config.trap.port, config.trap.returns), (0xb2, Returns::All));
        assert_eq!((config.trap.engine, config.trap.mechanism), (Engine::Entry, MechanismChoice::Debug));
        assert_eq!(config.insight.pending_blocks, 7);
        assert_eq!(config.process[0].parent, Some(crate::process::Parent::Pid(3)));
        assert_eq!((config.process[1].pid, config.process[1].children), (Some(5), true));
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
    fn a_policy_lies_beside_the_file_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("monitor.toml");
        std::fs::write(&file, "process = []\n[insight]\npolicy = 'classes.csv'").unwrap();
        let missing = Config::load(&file).unwrap_err().to_string();
        assert!(missing.contains("insight.policy") && missing.contains("classes.csv"), "{missing}");
        let csv = folder.path().join("classes.csv");
        std::fs::write(&csv, "IO class id,IO class name,Eviction priority,Allocation\n1,metadata,1,9\n")
            .unwrap();
        let wrong = Config::load(&file).unwrap_err().to_string();
        assert!(wrong.contains("line 2"), "{wrong}");
        let text = "IO class id,IO class name,Eviction priority,Allocation\n1,metadata,1,1.00\n";
        std::fs::write(&csv, text).unwrap();
        assert_eq!(Config::load(&file).unwrap().insight.policy, Policy::parse(text).unwrap());
        std::fs::write(&csv, vec![b'#'; MAX_FILE_BYTES + 1]).unwrap();
        assert!(Config::load(&file).is_err());
        assert_eq!(Config::parse("process = []").unwrap().insight.policy, Policy::paper());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "[[process]]\nexecutable = ''",
            "[[process]]\nchildren = true",
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
