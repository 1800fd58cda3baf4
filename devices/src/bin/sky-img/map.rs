//! `sky-img map`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde::Serialize;
use sky_devices::block::{Error, ErrorKind, Operation};
use sky_devices::image::{BackingPolicy, ExtentKind, Image, Located};

use crate::arguments::{Source, open};
use crate::failure::{Outcome, Result};
use crate::output::Output;

/// Bytes that are mapped at a time, so that a large map is printed as it is found.
const WINDOW: u64 = 1 << 30;

/// Show which parts of a disk hold data
///
/// Without --with-backing a part that the image does not hold is "backing". With it, such parts are looked up in the
/// images below, and the depth says which one answers: 0 is the image itself, 1 its backing image.
/// The JSON has the keys of `qemu-img map --output=json`.
#[derive(Debug, Args)]
pub(crate) struct Map {
    #[command(flatten)]
    source: Source,
    /// The image
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Line {
    start: u64,
    length: u64,
    depth: usize,
    present: bool,
    zero: bool,
    data: bool,
    kind: ExtentKind,
}

impl Map {
    pub(crate) fn run(&self, output: Output, stop: &AtomicBool) -> Result<Outcome> {
        let mut spec = self.source.spec(&self.file)?.read_only();
        if !self.source.with_backing {
            spec.backing = BackingPolicy::Leave;
        }
        let image = open(&spec)?;
        let mut printer = Printer::new(output, image.chain().map(|image| image.path().to_owned()).collect());
        let mut offset = 0;
        while offset < image.size() {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, Operation::Read).into());
            }
            let length = (image.size() - offset).min(WINDOW);
            for line in self.lines(&image, offset, length)? {
                printer.add(line);
            }
            offset += length;
        }
        printer.end();
        Ok(Outcome::DONE)
    }

    fn lines(&self, image: &Image, offset: u64, length: u64) -> Result<Vec<Line>> {
        if self.source.with_backing {
            return Ok(image.locate(offset, length)?.into_iter().map(located).collect());
        }
        let line = |extent: sky_devices::image::Extent| Line {
            start: extent.offset,
            length: extent.length,
            depth: 0,
            present: extent.kind != ExtentKind::Backing,
            zero: extent.kind == ExtentKind::Zero,
            data: extent.kind == ExtentKind::Data,
            kind: extent.kind,
        };
        Ok(image.map(offset, length)?.into_iter().map(line).collect())
    }
}

fn located(located: Located) -> Line {
    let Located { offset, length, depth, zero } = located;
    let kind = if zero { ExtentKind::Zero } else { ExtentKind::Data };
    Line { start: offset, length, depth, present: true, zero, data: !zero, kind }
}

/// Prints extents as they come, with equal neighbours joined.
struct Printer {
    output: Output,
    files: Vec<PathBuf>,
    held: Option<Line>,
    printed: bool,
}

impl Printer {
    fn new(output: Output, files: Vec<PathBuf>) -> Self {
        if output.is_json() {
            put("[");
        } else {
            put(&format!("{:<18} {:<18} {:<8} Image\n", "Offset", "Length", "Kind"));
        }
        Self { output, files, held: None, printed: false }
    }

    fn add(&mut self, line: Line) {
        match &mut self.held {
            Some(held)
                if Line { start: 0, length: 0, ..*held } == Line { start: 0, length: 0, ..line }
                    && held.start + held.length == line.start =>
            {
                held.length += line.length;
            }
            _ => {
                self.release();
                self.held = Some(line);
            }
        }
    }

    fn release(&mut self) {
        let Some(line) = self.held.take() else { return };
        if self.output.is_json() {
            let separator = if self.printed { ",\n " } else { "" };
            put(&format!("{separator}{}", serde_json::json!(line)));
        } else {
            let kind = match line.kind {
                ExtentKind::Data => "data",
                ExtentKind::Zero => "zero",
                ExtentKind::Backing => "backing",
            };
            let file = self.files.get(line.depth).map(|file| file.display().to_string()).unwrap_or_default();
            put(&format!("{:<#18x} {:<#18x} {kind:<8} {file}\n", line.start, line.length));
        }
        self.printed = true;
    }

    fn end(&mut self) {
        self.release();
        if self.output.is_json() {
            put("]\n");
        }
    }
}

/// A reader that went away, such as `head`, is no failure of ours.
fn put(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
