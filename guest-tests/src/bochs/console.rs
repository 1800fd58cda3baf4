//! What comes back from the machine: files that Bochs writes its serial ports to, and the marks among the messages.
//!
//! The first port is the kernel's console. The init in the machine speaks through the kernel's log, whose lines are
//! never torn apart by other output. The command has the other two ports for itself.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use crate::error::{Error, Result};

/// Before every word of the machine's init to us.
pub(super) const MARK: &str = "sky-lab: ";
/// The init's word when the command starts.
pub(super) const STARTED: &str = "started";
/// The init's word when the command has ended; its status follows.
pub(super) const EXIT: &str = "exit ";
/// The init's word when it cannot go on; the problem follows.
pub(super) const FAILED: &str = "failed: ";
/// The kernel's last words.
const PANIC: &str = "Kernel panic - not syncing";

/// As much of the console as anybody wants to read, and the longest line that is looked at.
const KEPT: usize = 64 << 10;

/// What a line of the console says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The command starts.
    Started,
    /// The command ended with this status.
    Exit(u8),
    /// There is nothing to wait for any more, and why.
    Failed(String),
}

/// The machine's console so far.
#[derive(Debug, Default)]
pub(super) struct Console {
    text: Vec<u8>,
    /// Where the line begins that is not complete yet.
    line: usize,
}

impl Console {
    /// Takes what arrived, and tells what its complete lines say.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in bytes {
            self.text.push(*byte);
            if *byte == b'\n' {
                events.extend(event(&String::from_utf8_lossy(&self.text[self.line..])));
                self.line = self.text.len();
                self.forget();
            }
        }
        self.forget();
        events
    }

    /// The end of what the console showed.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Drops the older half of a text that has grown too long.
    fn forget(&mut self) {
        if self.text.len() > KEPT {
            let drop = self.text.len() - KEPT / 2;
            self.text.drain(..drop);
            self.line = self.line.saturating_sub(drop);
        }
    }
}

/// What a line says, if it is for us. Other output may stand before it in the same line.
fn event(line: &str) -> Option<Event> {
    // The trace behind these words may be longer than what is shown of the console.
    if let Some(at) = line.find(PANIC) {
        return Some(Event::Failed(format!("died: {}", line[at..].trim_end())));
    }
    let word = line.split_once(MARK)?.1.trim_end();
    if word == STARTED {
        Some(Event::Started)
    } else if let Some(status) = word.strip_prefix(EXIT) {
        status.parse().ok().map(Event::Exit)
    } else {
        word.strip_prefix(FAILED).map(|problem| Event::Failed(format!("is of no use: {problem}")))
    }
}

/// Reads a file that grows, and that need not exist yet.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    file: Option<File>,
}

impl Tail {
    pub(super) fn new(path: PathBuf) -> Tail {
        Tail { path, file: None }
    }

    /// What was added since the last time.
    pub(super) fn read(&mut self) -> Result<Vec<u8>> {
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(Error::file("open", &self.path)(error)),
            }
        }
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut bytes).map_err(Error::file("read", &self.path))?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// Taken from a real run, where the mark cut another line in two.
    const REAL: &str = "[    2.689912] Failed to access perfctr msr (MSR c4 is 0)\r\n\
        serial8250: ttyS2 at I/O 0x3e8 (irq = 4, [   39.236545] sky-lab: started\r\nbase_baud = 115200)\r\n\
        [   42.649111] sky-lab: exit 3\r\n[   42.686283] reboot: Power down\r\n";

    #[test]
    fn marks_are_found_among_messages() {
        let events = Console::default().push(REAL.as_bytes());
        assert_eq!(events, [Event::Started, Event::Exit(3)]);
    }

    #[test]
    fn a_status_counts_only_when_its_line_is_complete() {
        let mut console = Console::default();
        assert_eq!(console.push(b"sky-lab: exit 1"), []);
        assert_eq!(console.push(b"39\r"), []);
        assert_eq!(console.push(b"\n"), [Event::Exit(139)]);
    }

    #[test]
    fn what_is_no_status_is_no_event() {
        for line in ["sky-lab: exit", "sky-lab: exit 256", "sky-lab: exit -1", "sky-lab: startled", "exit 0"]
        {
            assert_eq!(event(line), None, "{line}");
        }
    }

    #[test]
    fn a_panic_and_a_failure_end_the_wait() {
        let words = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(1,0)";
        let panic = event(&format!("[    1.0] {words}\r\n"));
        assert_eq!(panic, Some(Event::Failed(format!("died: {words}"))));
        let failure = event("[    1.0] sky-lab: failed: there is no /dev/kvm\r");
        assert_eq!(failure, Some(Event::Failed("is of no use: there is no /dev/kvm".into())));
    }

    #[test]
    fn a_console_that_never_ends_is_not_kept() {
        let mut console = Console::default();
        for _ in 0..100 {
            console.push(&[b'x'; 5000]);
            assert!(console.text().len() <= KEPT);
        }
        assert_eq!(console.push(b"\nsky-lab: exit 0\n"), [Event::Exit(0)]);
        assert!(console.text().ends_with(b"exit 0\n"));
    }

    #[test]
    fn a_file_is_followed_from_before_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port");
        let mut tail = Tail::new(path.clone());
        assert_eq!(tail.read().unwrap(), b"");
        let mut file = File::create(&path).unwrap();
        for part in ["one", "two\n", ""] {
            file.write_all(part.as_bytes()).unwrap();
            assert_eq!(tail.read().unwrap(), part.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn pieces_say_what_the_whole_says(cuts in prop::collection::vec(0..REAL.len(), 0..8)) {
            let mut cuts = cuts;
            cuts.extend([0, REAL.len()]);
            cuts.sort_unstable();
            let mut console = Console::default();
            let mut events = Vec::new();
            for pair in cuts.windows(2) {
                events.extend(console.push(&REAL.as_bytes()[pair[0]..pair[1]]));
            }
            prop_assert_eq!(events, [Event::Started, Event::Exit(3)]);
            prop_assert_eq!(console.text(), REAL.as_bytes());
        }

        #[test]
        fn any_bytes_are_taken(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let mut console = Console::default();
            for piece in &pieces {
                console.push(piece);
            }
            prop_assert_eq!(console.text(), pieces.concat());
        }
    }
}
