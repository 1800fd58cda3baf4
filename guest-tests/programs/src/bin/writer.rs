//! Guest program: writes files with known contents, in several ways, and says what it wrote.
//!
//! `writer DIR [SEED [FILES [BLOCKS]]]`
//! `writer forms DIR`: one file for each form of writing there is
//! `writer mapped FILE BLOCKS`: through a shared mapping, and nothing more until standard input ends
//! `writer operations DIR DISK SEED STEPS`: random operations on files, written down on a disk

use std::io;
use std::path::Path;

use guest_programs::workload::Files;
use guest_programs::{forms, operations};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, dir] = &args[..]
        && first == "forms"
    {
        return forms::write(Path::new(dir));
    }
    if let [first, file, blocks] = &args[..]
        && first == "mapped"
    {
        return forms::leave_mapped(Path::new(file), blocks.parse().map_err(io::Error::other)?);
    }
    if let [first, rest @ ..] = &args[..]
        && first == "operations"
    {
        return operations::play(rest);
    }
    let (dir, numbers) =
        args.split_first().ok_or_else(|| io::Error::other("usage: writer DIR [SEED [FILES [BLOCKS]]]"))?;
    let files = Files::parse("w", numbers)?;
    files.write(Path::new(dir))?;
    println!("WRITER_FILES={}\nWRITER_CHECKSUM={}", files.files, files.checksum());
    Ok(())
}
