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
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child, start + limit).map_err(failed(command))?;
    if status.is_none() {
        // Killing what has just ended by itself is no error.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    let Some(status) = status else {
        let said = last_lines(&[stdout, stderr].concat(), 20);
        return Err(Error::TooSlow { program: line(command), limit, output: said });
    };
    Ok(Output { status, stdout, stderr })
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

fn reader(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read is what counts; the exit status decides about success.
        let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
        bytes
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
    fn tools_are_found_or_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
