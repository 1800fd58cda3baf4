//! Goes through the steps, in as many processes and threads as they ask for.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::thread;

use super::kernel::{call, perform, word};
use super::model::{FIRST_FD, Model};
use super::record::{Disk, Record};
use super::step::{Begin, Step};

/// What the program is told.
#[derive(Clone, Debug)]
struct Options {
    /// The directory with the files, which has a directory `d`, and the small file system at `s`.
    dir: PathBuf,
    /// The disk that records go to.
    disk: PathBuf,
    seed: u64,
    steps: u64,
    /// The step that began the execution of this program, if that was one.
    from: Option<u64>,
}

const USAGE: &str = "usage: writer operations DIR DISK SEED STEPS";

impl Options {
    fn parse(args: &[String]) -> Option<Options> {
        let (dir, disk, seed, steps, from) = match args {
            [dir, disk, seed, steps] => (dir, disk, seed, steps, None),
            [dir, disk, seed, steps, from] => (dir, disk, seed, steps, Some(from.parse().ok()?)),
            _ => return None,
        };
        let (dir, disk) = (dir.into(), disk.into());
        Some(Options { dir, disk, seed: seed.parse().ok()?, steps: steps.parse().ok()?, from })
    }
}

/// The program, with its arguments behind the first. It prints how many steps it made.
///
/// # Errors
/// What it needs for itself fails. That a step does not do what it should is no error here.
pub fn play(args: &[String]) -> io::Result<()> {
    let options = Options::parse(args).ok_or_else(|| io::Error::other(USAGE))?;
    if options.from.is_none() {
        // Whoever started it may have left descriptors open.
        call(libc::SYS_close_range, [word(FIRST_FD), u64::from(u32::MAX), 0, 0, 0, 0]);
    }
    std::env::set_current_dir(&options.dir)?;
    // SAFETY: from now on, a limit of the file's size is an error and no more.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut play = Play { model: Model::new(options.seed), disk: Disk::open(&options.disk)?, at: 0, options };
    if let Some(from) = play.options.from {
        while play.at < from {
            play.follow()?;
        }
        play.note(&Step::Exec, (0, String::from("-")))?;
    }
    // A child that has executed the program is not who began.
    let is_first = play.model.depth() == 1;
    play.go()?;
    if is_first {
        println!("OPERATIONS={}", play.at);
    }
    Ok(())
}

struct Play {
    model: Model,
    disk: Disk,
    options: Options,
    at: u64,
}

impl Play {
    fn next(&self) -> Option<Step> {
        (self.at < self.options.steps).then(|| self.model.choose(self.at))
    }

    /// Makes steps until this task is to end.
    fn go(&mut self) -> io::Result<()> {
        while let Some(step) = self.next() {
            match step {
                Step::End => return Ok(()),
                Step::Exec => return self.exec(),
                Step::Begin(Begin::Fork) => self.fork(&step)?,
                Step::Begin(Begin::Thread) => {
                    self.note(&step, (0, String::from("-")))?;
                    thread::scope(|scope| scope.spawn(|| self.go()).join())
                        .map_err(|_| io::Error::other("a thread panicked"))??;
                    self.ended()?;
                }
                step => {
                    let told = perform(&self.model, &self.options.dir, self.at, &step)?;
                    self.note(&step, told)?;
                }
            }
        }
        Ok(())
    }

    /// A step has been made.
    fn note(&mut self, step: &Step, (result, sum): (i64, String)) -> io::Result<()> {
        self.model.apply(self.at, step, result);
        self.disk.write(self.at, &Record::told(&self.model, step, result, sum))?;
        self.at += 1;
        Ok(())
    }

    /// Somebody else has made the next step.
    fn follow(&mut self) -> io::Result<()> {
        let result = self.disk.result(self.at)?;
        self.model.apply(self.at, &self.model.choose(self.at), result);
        self.at += 1;
        Ok(())
    }

    /// What this task had begun has ended, unless the steps have.
    fn ended(&mut self) -> io::Result<()> {
        match self.next() {
            Some(step) => self.note(&step, (0, String::from("-"))),
            None => Ok(()),
        }
    }

    fn fork(&mut self, step: &Step) -> io::Result<()> {
        let depth = self.model.depth();
        // SAFETY: the child is the only thread of its process, and uses nothing that another may have locked but the
        // allocator, which the C library sees to.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let done = self.note(step, (0, String::from("-"))).and_then(|()| self.go());
            if let Err(error) = &done {
                eprintln!("a child: {error}");
            }
            // SAFETY: nothing of the parent's is to be cleared up.
            unsafe { libc::_exit(i32::from(done.is_err())) };
        }
        let mut status = 0;
        // SAFETY: the status is ours to write.
        if child < 0 || unsafe { libc::waitpid(child, &raw mut status, 0) } != child || status != 0 {
            return Err(io::Error::other(format!("a child ended with {status:#x}")));
        }
        self.follow()?;
        while self.next().is_some_and(|next| next != Step::End || self.model.depth() > depth + 1) {
            self.follow()?;
        }
        self.ended()
    }

    /// Only returns if it fails.
    fn exec(&self) -> io::Result<()> {
        let Options { dir, disk, seed, steps, .. } = &self.options;
        let words = [
            b"writer".to_vec(),
            b"operations".to_vec(),
            dir.as_os_str().as_bytes().to_vec(),
            disk.as_os_str().as_bytes().to_vec(),
            seed.to_string().into_bytes(),
            steps.to_string().into_bytes(),
            self.at.to_string().into_bytes(),
        ];
        let words: Vec<CString> = words.into_iter().map(CString::new).collect::<Result<_, _>>()?;
        let mut args: Vec<u64> = words.iter().map(|word| word.as_ptr().expose_provenance() as u64).collect();
        args.push(0);
        let nothing = [0_u64];
        let address = |list: &[u64]| list.as_ptr().expose_provenance() as u64;
        let path = c"/proc/self/exe".as_ptr().expose_provenance() as u64;
        let error = call(libc::SYS_execve, [path, address(&args), address(&nothing), word(0), 0, 0]);
        Err(io::Error::from_raw_os_error(i32::try_from(-error).unwrap_or(0)))
    }
}
