//! Which processes are to be monitored: the rules, and what they look at.

use std::fmt;

use glob::Pattern;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One rule. All of its conditions must hold; one rule that holds is enough.
///
/// Patterns are those of a shell: `*`, `?`, `[a-z]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ProcessRule {
    /// Pattern for the executable: its file name, or with a slash in it, its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// Pattern for the command line, its arguments separated by blanks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Process id in the guest's initial namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Also every process that it starts, and so on, whatever those execute.
    #[serde(default)]
    pub children: bool,
}

/// The parent of a process.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Parent {
    /// Its process id.
    Pid(u32),
    /// Pattern for the file name of its executable.
    Executable(String),
}

/// What a rule may ask of a process. Each fact is only looked up when a rule needs it.
pub(crate) trait Facts {
    fn pid(&self) -> u32;
    /// File name of its executable.
    fn executable(&self) -> &str;
    /// Path of its executable; none if it cannot be told.
    fn path(&mut self) -> Option<&str>;
    fn command(&mut self) -> Option<&str>;
    fn parent_pid(&mut self) -> Option<u32>;
    fn parent_executable(&mut self) -> Option<&str>;
}

impl ProcessRule {
    /// For processes whose executable has this name, or matches this pattern.
    #[must_use]
    pub fn executable(pattern: &str) -> Self {
        Self { executable: Some(pattern.to_owned()), ..Self::default() }
    }

    /// Prepares the rule for use.
    ///
    /// # Errors
    /// [`Error::Config`]: there is no condition, or a pattern is malformed.
    pub(crate) fn compile(&self) -> Result<Rule> {
        let pattern = |key: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) if text.is_empty() => Err(Error::Config(format!("process.{key} is empty"))),
            Some(text) => Pattern::new(text)
                .map(Some)
                .map_err(|error| Error::Config(format!("process.{key} = {text:?}: {error}"))),
        };
        let parent_name = match &self.parent {
            Some(Parent::Executable(text)) => Some(text.clone()),
            _ => None,
        };
        let rule = Rule {
            executable: pattern("executable", &self.executable)?,
            command: pattern("command", &self.command)?,
            parent: pattern("parent", &parent_name)?,
            source: self.clone(),
        };
        if rule.executable.is_none() && rule.command.is_none() && self.parent.is_none() && self.pid.is_none()
        {
            return Err(Error::Config("a [[process]] needs executable, command, parent or pid".into()));
        }
        Ok(rule)
    }
}

/// As a user would say it.
impl fmt::Display for ProcessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.executable.as_ref().map(|pattern| format!("executable {pattern}")));
        parts.extend(self.command.as_ref().map(|pattern| format!("command {pattern:?}")));
        parts.extend(self.parent.as_ref().map(|parent| match parent {
            Parent::Pid(pid) => format!("parent {pid}"),
            Parent::Executable(pattern) => format!("parent {pattern}"),
        }));
        parts.extend(self.pid.map(|pid| format!("pid {pid}")));
        if self.children {
            parts.push("with children".to_owned());
        }
        f.write_str(&parts.join(", "))
    }
}

/// A rule with its patterns ready.
#[derive(Debug)]
pub(crate) struct Rule {
    executable: Option<Pattern>,
    command: Option<Pattern>,
    parent: Option<Pattern>,
    pub(crate) source: ProcessRule,
}

impl Rule {
    /// Whether a process is to be monitored.
    pub(crate) fn holds(&self, facts: &mut dyn Facts) -> bool {
        let executable = |facts: &mut dyn Facts| match &self.executable {
            None => true,
            Some(pattern) if pattern.as_str().contains('/') => {
                facts.path().is_some_and(|path| pattern.matches(path))
            }
            Some(pattern) => pattern.matches(facts.executable()),
        };
        self.source.pid.is_none_or(|pid| pid == facts.pid())
            && executable(facts)
            && match self.source.parent {
                Some(Parent::Pid(pid)) => facts.parent_pid() == Some(pid),
                _ => true,
            }
            && self
                .parent
                .as_ref()
                .is_none_or(|pattern| facts.parent_executable().is_some_and(|parent| pattern.matches(parent)))
            && self
                .command
                .as_ref()
                .is_none_or(|pattern| facts.command().is_some_and(|command| pattern.matches(command)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known;

    impl Facts for Known {
        fn pid(&self) -> u32 {
            42
        }

        fn executable(&self) -> &str {
            "python3.11"
        }

        fn path(&mut self) -> Option<&str> {
            Some("/usr/bin/python3.11")
        }

        fn command(&mut self) -> Option<&str> {
            Some("python3 train.py --epochs 3")
        }

        fn parent_pid(&mut self) -> Option<u32> {
            Some(7)
        }

        fn parent_executable(&mut self) -> Option<&str> {
            None
        }
    }

    fn holds(rule: &str) -> bool {
        let rule: ProcessRule = toml::from_str(rule).unwrap();
        rule.compile().unwrap().holds(&mut Known)
    }

    #[test]
    fn every_condition_must_hold() {
        assert!(holds("executable = 'python3*'"));
        assert!(holds("executable = '/usr/*/python3.*'"));
        assert!(!holds("executable = '/usr/local/*'"));
        assert!(!holds("executable = 'python'"));
        assert!(holds("command = '*train.py*'") && !holds("command = 'train.py'"));
        assert!(holds("pid = 42") && !holds("pid = 43"));
        assert!(holds("parent = 7") && !holds("parent = 8"));
        assert!(!holds("parent = 'sh'"), "what cannot be told does not match");
        assert!(!holds("executable = 'python3*'\npid = 43"));
        assert!(holds("executable = 'python3*'\npid = 42\nparent = 7\ncommand = '*'"));
    }

    #[test]
    fn rules_without_sense_are_refused() {
        for text in ["", "children = true", "executable = ''", "executable = 'a[b'"] {
            let rule: ProcessRule = toml::from_str(text).unwrap();
            assert!(matches!(rule.compile(), Err(Error::Config(_))), "{text:?}");
        }
        assert!(toml::from_str::<ProcessRule>("executable = 'x'\nchild = true").is_err());
    }

    #[test]
    fn a_rule_is_said_as_it_was_written() {
        let rule: ProcessRule = toml::from_str("executable = 'sh'\nparent = 1\nchildren = true").unwrap();
        assert_eq!(rule.to_string(), "executable sh, parent 1, with children");
    }
}
