//! The configuration file: TOML with the same keys as the command line.
//!
//! ```toml
//! kernel = "vmlinuz"
//! cpus = 2
//! memory = "1G"
//!
//! [[disk]]
//! path = "root.selfie"
//! format = "selfie"
//! readonly = true
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use sky::trace::TraceFormat;
use toml::{Table, Value};

use super::{ConfigError, DiskSpec, Options, Result, keys, parse_size};

const KNOWN: &[&str] = &[
    "kernel",
    "initrd",
    "cmdline",
    "cpus",
    "memory",
    "disk",
    "monitor",
    "trace",
    "trace_format",
    "block_log",
    "control",
    "stats",
    "report_every",
];

impl Options {
    /// Reads a configuration file. Paths in it are relative to the current directory, like those of the command line.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has a key or value that makes no sense.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.to_owned(), reason: error.to_string() })?;
        Self::from_toml(&text, path)
    }

    fn from_toml(text: &str, path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let table: Table = toml::from_str(text)
            .map_err(|error| ConfigError::Syntax { path: path.to_owned(), reason: error.to_string() })?;
        let mut options = Self::default();
        for (key, value) in table {
            match key.as_str() {
                "kernel" => options.kernel = Some(PathBuf::from(string("kernel", value, &place)?)),
                "initrd" => options.initrd = Some(PathBuf::from(string("initrd", value, &place)?)),
                "monitor" => options.monitor = Some(PathBuf::from(string("monitor", value, &place)?)),
                "trace" => options.trace = Some(PathBuf::from(string("trace", value, &place)?)),
                "trace_format" => options.trace_format = Some(trace_format(&value, &place)?),
                "block_log" => options.block_log = Some(PathBuf::from(string("block_log", value, &place)?)),
                "control" => options.control = Some(PathBuf::from(string("control", value, &place)?)),
                "stats" => options.stats = Some(PathBuf::from(string("stats", value, &place)?)),
                "report_every" => {
                    options.report_every = Some(
                        number(&value)
                            .ok_or_else(|| wrong("report_every", &value, &place, "a number of seconds"))?,
                    );
                }
                "cmdline" => options.cmdline = Some(string("cmdline", value, &place)?),
                "cpus" => {
                    options.cpus =
                        Some(number(&value).ok_or_else(|| wrong("cpus", &value, &place, "a number"))?)
                }
                "memory" => options.memory = Some(memory(&value, &place)?),
                "disk" => options.disks = disks(value, &place)?,
                _ => return Err(keys::unknown(&key, &place, KNOWN)),
            }
        }
        Ok(options)
    }
}

fn wrong(key: &'static str, value: &Value, place: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), place: place.to_owned(), expected }
}

fn string(key: &'static str, value: Value, place: &str) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong(key, &other, place, "a string in quotes")),
    }
}

fn trace_format(value: &Value, place: &str) -> Result<TraceFormat> {
    let format = value.as_str().and_then(|text| text.parse().ok());
    format.ok_or_else(|| wrong("trace_format", value, place, "\"strace\" or \"json\""))
}

fn number(value: &Value) -> Option<u32> {
    value.as_integer().and_then(|number| u32::try_from(number).ok())
}

fn memory(value: &Value, place: &str) -> Result<u64> {
    match value {
        Value::String(text) => parse_size(text),
        Value::Integer(bytes) => u64::try_from(*bytes).map_err(|_| wrong("memory", value, place, "a size")),
        _ => Err(wrong("memory", value, place, "a size such as \"512M\"")),
    }
}

fn disks(value: Value, place: &str) -> Result<Vec<DiskSpec>> {
    const EXPECTED: &str = "one [[disk]] table per disk, or a list of strings as for --disk";
    let Value::Array(entries) = value else {
        return Err(wrong("disk", &value, place, EXPECTED));
    };
    let place = format!("a disk of {place}");
    entries
        .into_iter()
        .map(|entry| match entry {
            Value::String(text) => text.parse(),
            Value::Table(table) => DiskSpec::from_pairs(
                table.into_iter().map(|(key, value)| match value {
                    Value::String(text) => (key, text),
                    other => (key, other.to_string()),
                }),
                &place,
            ),
            other => Err(wrong("disk", &other, &place, EXPECTED)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        Options::from_toml(text, Path::new("vm.toml"))
    }

    #[test]
    fn a_whole_file() {
        let options = parse(
            "kernel = 'vmlinuz'\ncpus = 2\nmemory = '1G'\nmonitor = 'm.toml'\n\
             trace = '-'\ntrace_format = 'json'\ncontrol = 'c.sock'\n\
             [[disk]]\npath = 'a.img'\nformat = 'selfie'\nreadonly = true\nqueues = 2\n[[disk]]\npath = 'b.img'\n",
        )
        .unwrap();
        assert_eq!(options.kernel, Some("vmlinuz".into()));
        assert_eq!((options.cpus, options.memory), (Some(2), Some(1 << 30)));
        assert_eq!((options.trace, options.trace_format), (Some("-".into()), Some(TraceFormat::Json)));
        assert_eq!(options.control, Some("c.sock".into()));
        assert_eq!(options.disks.len(), 2);
        assert!(options.disks[0].image.read_only && options.disks[0].queues == 2);
        assert_eq!([0, 1].map(|disk| options.disks[disk].image.format.name()), ["selfie", "raw"]);
    }

    #[test]
    fn disks_may_be_written_as_on_the_command_line() {
        let options = parse("disk = ['path=a.img,readonly=on', 'path=b.img']").unwrap();
        assert!(options.disks[0].image.read_only && !options.disks[1].image.read_only);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            ("kernal = 'x'", "unknown key `kernal` in vm.toml (did you mean `kernel`?)"),
            ("cpus = 'two'", "`\"two\"` is no value for key `cpus` in vm.toml: a number"),
            ("cpus = -1", "`-1` is no value for key `cpus` in vm.toml: a number"),
            (
                "trace_format = 'xml'",
                "`\"xml\"` is no value for key `trace_format` in vm.toml: \"strace\" or \"json\"",
            ),
            ("kernel = 5", "`5` is no value for key `kernel` in vm.toml: a string in quotes"),
            ("[[disk]]\npat = 'x'", "unknown key `pat` in a disk of vm.toml (did you mean `path`?)"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
        assert!(matches!(parse("kernel = "), Err(ConfigError::Syntax { .. })));
        assert!(matches!(parse("memory = 'lots'"), Err(ConfigError::Size { .. })));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Options::from_file(Path::new("/nonexistent/vm.toml")).unwrap_err();
        assert!(error.to_string().starts_with("cannot read configuration file /nonexistent/vm.toml: "));
    }
}
