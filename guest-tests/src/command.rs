//! Running the system's tools: quietly, with their words in the error when they fail, and never for ever.

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result, last_lines};

/// Runs to the end and returns standard output; a failure carries the end of what was printed.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Spawn { program: name(command), source })?;
    check(command, output)
}

/// Runs with a file as standard input and another as standard output.
pub fn filter(command: &mut Command, input: File, output: File) -> Result<()> {
    let output = command
        .stdin(input)
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(Child::wait_with_output)
        .map_err(|source| Error::Spawn { program: name(command), source })?;
    check(command, output).map(drop)
}

fn check(command: &Command, output: Output) -> Result<Vec<u8>> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut said = output.stdout;
    said.extend_from_slice(&output.stderr);
    Err(Error::Failed { program: line(command), status: output.status, output: last_lines(&said, 20) })
}

/// Runs with a time limit. The program is killed when it passes.
pub fn run_with_timeout(command: &mut Command, limit: Duration) -> Result<Output> {
    run_and_watch(command, limit, b"").map(|(output, _)| output)
}

/// Runs with a time limit, and tells after what time `marker` appeared on standard output.
pub fn run_and_watch(
    command: &mut Command,
    limit: Duration,
    marker: &[u8],
) -> Result<(Output, Option<Duration>)> {
    let failed = |command: &Command| {
        let program = name(command);
        move |source| Error::Spawn { program, source }
    };
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed(command))?;
    let stdout = reader(child.stdout.take(), marker.to_vec());
    let stderr = reader(child.stderr.take(), Vec::new());
    let status = wait(&mut child, start + limit).map_err(failed(command))?;
    if status.is_none() {
        // Killing what has just ended by itself is no error.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, seen) = stdout.join().unwrap_or_default();
    let (stderr, _) = stderr.join().unwrap_or_default();
    let Some(status) = status else {
        let said = last_lines(&[stdout, stderr].concat(), 20);
        return Err(Error::TooSlow { program: line(command), limit, output: said });
    };
    Ok((Output { status, stdout, stderr }, seen.map(|at| at.duration_since(start))))
}

/// Waits for the child until the deadline.
pub fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn reader(
    stream: Option<impl Read + Send + 'static>,
    marker: Vec<u8>,
) -> thread::JoinHandle<(Vec<u8>, Option<Instant>)> {
    thread::spawn(move || {
        let (mut bytes, mut seen) = (Vec::new(), None);
        let Some(mut stream) = stream else { return (bytes, seen) };
        let mut piece = [0; 4096];
        // What could be read is what counts; the exit status decides about success.
        while let Ok(count) = stream.read(&mut piece)
            && count > 0
        {
            // The marker may lie across two pieces.
            let from = bytes.len().saturating_sub(marker.len());
            bytes.extend_from_slice(&piece[..count]);
            if seen.is_none()
                && !marker.is_empty()
                && bytes[from..].windows(marker.len()).any(|w| w == marker)
            {
                seen = Some(Instant::now());
            }
        }
        (bytes, seen)
    })
}

/// Whether `program` is on the search path, or in the directories that only root has there.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let mut line = name(command);
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_words() {
        let error =
            run(Command::new("sh").args(["-c", "echo no such luck >&2; exit 4"])).unwrap_err().to_string();
        assert!(error.contains("no such luck") && error.contains("exit status: 4"), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let start = Instant::now();
        let error =
            run_with_timeout(Command::new("sleep").arg("60"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("sleep 60 did not end within 100ms"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_marker_is_seen_when_it_appears() {
        let script = "echo begin; sleep 0.2; printf 'mar'; sleep 0.1; echo ker; sleep 0.2";
        let (output, seen) =
            run_and_watch(Command::new("sh").args(["-c", script]), Duration::from_secs(60), b"marker")
                .unwrap();
        assert_eq!(output.stdout, b"begin\nmarker\n");
        assert!(seen.unwrap() >= Duration::from_millis(300), "{seen:?}");
        let none = run_and_watch(&mut Command::new("true"), Duration::from_secs(60), b"marker").unwrap().1;
        assert_eq!(none, None);
    }

    #[test]
    fn tools_are_found_or_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
