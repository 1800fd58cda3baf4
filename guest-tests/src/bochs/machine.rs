//! Bochs itself: its configuration, the terminal that it wants, its start and its end.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::{self, JoinHandle};

use crate::error::{Error, Result};
use crate::packages;

/// The CD, in the machine's directory.
pub(super) const CD: &str = "cd.iso";
/// The serial ports' files there: messages, standard output, standard error.
pub(super) const PORTS: [&str; 3] = ["console.log", "stdout", "stderr"];
const LOG: &str = "bochs.log";
const CONFIGURATION: &str = "bochsrc";
const DEBUGGER: &str = "debugger";

/// Instructions that make a second of the machine's time; about what a host's processor emulates in a real one. The
/// clock follows nothing else, so that time limits in the machine hold however busy the host is.
const INSTRUCTIONS_PER_SECOND: u32 = 50_000_000;
const MEMORY_MIB: u32 = 1024;

/// How much of Bochs's terminal is kept.
const KEPT: usize = 2048;

/// Debian builds Bochs with its debugger, which waits for commands at the start and after a triple fault.
const DEBUGGER_COMMANDS: &str = "c\nquit\n";

/// Without a sound card, Bochs's thread for the speaker overruns a buffer on some hosts and aborts: hence the dummies.
fn configuration() -> String {
    let [console, stdout, stderr] = PORTS;
    let (bios, vga_bios) = (packages::BOCHS_BIOS, packages::BOCHS_VGA_BIOS);
    format!(
        "config_interface: textconfig
display_library: term
cpu: model=corei7_haswell_4770, count=1, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0
clock: sync=none
megs: {MEMORY_MIB}
romimage: file={bios}
vgaromimage: file={vga_bios}
ata0-master: type=cdrom, path={CD}, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={console}
com2: enabled=1, mode=file, dev={stdout}
com3: enabled=1, mode=file, dev={stderr}
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
log: {LOG}
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"
    )
}

/// A running Bochs. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Machine {
    bochs: Child,
    /// Reads the terminal until its end, and has the last of it then.
    screen: Option<JoinHandle<Vec<u8>>>,
}

impl Machine {
    /// Starts Bochs in `dir`, where the CD lies and the serial ports' files appear.
    pub(super) fn start(dir: &Path) -> Result<Machine> {
        for (name, text) in [(CONFIGURATION, configuration()), (DEBUGGER, DEBUGGER_COMMANDS.to_string())] {
            let path = dir.join(name);
            fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        let program = packages::bochs()?.bochs;
        let failed = |source| Error::Spawn { program: "bochs".into(), source };
        let (screen, terminal) = terminal().map_err(failed)?;
        let mut command = Command::new(program);
        command.current_dir(dir).args(["-q", "-rc", DEBUGGER, "-f", CONFIGURATION]).env("TERM", "linux");
        command.stdin(terminal.try_clone().map_err(failed)?);
        command.stdout(terminal.try_clone().map_err(failed)?).stderr(terminal);
        // SAFETY: the function makes two system calls and touches no memory, as is demanded between fork and exec.
        unsafe { command.pre_exec(own_terminal) };
        let bochs = command.spawn().map_err(failed)?;
        // The command holds the terminal open; only Bochs shall.
        drop(command);
        Ok(Machine { bochs, screen: Some(thread::spawn(move || read_to_end(screen))) })
    }

    /// Whether Bochs has ended, by itself or because the machine switched itself off.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        let status = self.bochs.try_wait();
        Ok(status.map_err(|source| Error::Spawn { program: "bochs".into(), source })?.is_some())
    }

    /// Ends it at once. Gives the last of what it wrote to its terminal, which is where it says why it cannot start.
    pub(super) fn stop(mut self) -> Vec<u8> {
        self.end();
        let screen = self.screen.take();
        screen.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.bochs.kill();
        let _ = self.bochs.wait();
    }

    /// Something else in the place of Bochs.
    #[cfg(test)]
    pub(super) fn fake(bochs: Child) -> Machine {
        Machine { bochs, screen: None }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// What Bochs gave up for, as it says in its log.
pub(super) fn panics(dir: &Path) -> Vec<String> {
    let log = fs::read(dir.join(LOG)).unwrap_or_default();
    panics_in(&String::from_utf8_lossy(&log))
}

fn panics_in(log: &str) -> Vec<String> {
    log.lines()
        .filter_map(|line| line.split_once(">>PANIC<< "))
        .map(|(_, why)| format!("Bochs: {why}"))
        .collect()
}

/// A new pseudo-terminal: what Bochs draws, and where it draws it.
///
/// Both are closed in programs that we start. When we end, however that happens, Bochs is hung up on, and ends, too.
fn terminal() -> io::Result<(File, OwnedFd)> {
    let screen = File::options().read(true).write(true).open("/dev/ptmx")?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which the pointer leads to.
    done(unsafe { libc::ioctl(screen.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    // That of a text screen.
    let size = libc::winsize { ws_row: 25, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which the pointer leads to.
    done(unsafe { libc::ioctl(screen.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags and returns a new descriptor.
    let terminal = unsafe { libc::ioctl(screen.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    done(terminal)?;
    // SAFETY: the kernel has just returned this descriptor to us and nobody else has it.
    Ok((screen, unsafe { OwnedFd::from_raw_fd(terminal) }))
}

/// For the new process: a session of its own, with its standard input as its terminal.
fn own_terminal() -> io::Result<()> {
    // SAFETY: setsid has no preconditions.
    done(unsafe { libc::setsid() })?;
    // SAFETY: TIOCSCTTY takes a number.
    done(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) })
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads until the terminal's last user has gone: Bochs would wait for ever behind a full one. Gives the last of it.
fn read_to_end(mut screen: File) -> Vec<u8> {
    let (mut kept, mut bytes) = (Vec::new(), [0; 4096]);
    while let Ok(count) = screen.read(&mut bytes)
        && count > 0
    {
        kept.extend_from_slice(&bytes[..count]);
        kept.drain(..kept.len().saturating_sub(KEPT));
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn the_configuration_says_what_was_found_necessary() {
        let text = configuration();
        let options: HashMap<&str, &str> = text.lines().map(|line| line.split_once(": ").unwrap()).collect();
        assert_eq!(options.len(), text.lines().count(), "an option twice");
        for word in ["model=corei7_haswell_4770", "count=1", "reset_on_triple_fault=0"] {
            assert!(options["cpu"].split(", ").any(|option| option == word), "{word}");
        }
        assert_eq!(options["display_library"], "term");
        assert!(options["com2"].ends_with("dev=stdout"));
        // Bochs separates options by commas and knows no way to write one in a value.
        assert!(PORTS.iter().chain([&CD, &LOG]).all(|name| !name.contains([',', ' ', '/'])));
    }

    #[test]
    fn the_reason_of_a_panic_is_found() {
        let log = "00000000000i[CPU0  ] cpu\n\
            02767044160p[CPU0  ] >>PANIC<< exception(): 3rd (13) exception with no resolution\n";
        assert_eq!(panics_in(log), ["Bochs: exception(): 3rd (13) exception with no resolution"]);
        assert!(panics_in("").is_empty());
    }

    #[test]
    fn the_last_words_on_a_terminal_are_kept() {
        let (screen, terminal) = terminal().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "yes | head -n 5000; echo the end"]).stdout(terminal);
        let mut child = command.spawn().unwrap();
        drop(command);
        let kept = read_to_end(screen);
        assert!(child.wait().unwrap().success());
        assert_eq!(kept.len(), KEPT);
        assert!(kept.ends_with(b"y\r\nthe end\r\n"), "{}", String::from_utf8_lossy(&kept));
    }

    #[test]
    fn a_terminal_is_one_and_hangs_up() {
        let (screen, terminal) = terminal().unwrap();
        let mut command = Command::new("sh");
        // `tty` asks the terminal's name, `stty size` its size; the shell would outlive a terminal that stays open.
        command.args(["-c", "tty <&0 && stty size; exec sleep 600"]);
        command.stdin(terminal.try_clone().unwrap()).stdout(Stdio::piped()).stderr(terminal);
        // SAFETY: as above.
        unsafe { command.pre_exec(own_terminal) };
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut said = [0; 64];
        let mut text = String::new();
        let mut stdout = child.stdout.take().unwrap();
        while !text.contains("25 80\n") {
            let count = stdout.read(&mut said).unwrap();
            assert!(count > 0, "{text}");
            text += std::str::from_utf8(&said[..count]).unwrap();
        }
        assert!(text.starts_with("/dev/pts/"), "{text}");
        drop(screen);
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGHUP));
    }
}
