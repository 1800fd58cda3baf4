//! Every function of the crate `iwrite` once, with classes 1, 2, ..., on the file that the argument names.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use hint::{Errno, IoVec, IoVecMut};

fn main() -> io::Result<()> {
    let path = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: every_call FILE"))?;
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    let fd = file.as_raw_fd();
    let (mut one, mut two) = ([0; 3], [0; 3]);
    assert_eq!(hint::iwrite(fd, b"abc", 1), Ok(3));
    assert_eq!(hint::ipwrite(fd, b"def", 3, 2), Ok(3));
    assert_eq!(hint::iwritev(fd, &[IoVec::new(b"ghi")], 3), Ok(3));
    assert_eq!(hint::ipwritev(fd, &[IoVec::new(b"jkl")], 6, 4), Ok(3));
    assert_eq!(hint::ifsync(fd, 5), Ok(()));
    assert_eq!(hint::iread(fd, &mut one, 6), Ok(3));
    assert_eq!(hint::ipread(fd, &mut one, 0, 7), Ok(3));
    assert_eq!(&one, b"abc");
    assert_eq!(hint::ipreadv(fd, &mut [IoVecMut::new(&mut two)], 6, 8), Ok(3));
    assert_eq!(&two, b"jkl");
    assert_eq!(hint::ireadv(fd, &mut [IoVecMut::new(&mut two)], u32::MAX), Ok(0));
    assert_eq!(hint::iwrite(-1, b"x", 1), Err(Errno(libc::EBADF)));
    Ok(())
}
