//! Wakes whoever reads outcomes: one ring for all that has gathered since the last look.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// A pair of sockets: an event loop watches the one, a thread that has something writes a byte into the other.
#[derive(Debug)]
pub struct Bell {
    reader: UnixStream,
    writer: UnixStream,
    rung: AtomicBool,
}

impl Bell {
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader, writer, rung: AtomicBool::new(false) })
    }

    /// Readable when it was rung.
    pub fn fileno(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// Only the first ring since the last [`Bell::still`] costs a system call.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // A full socket has a byte to be read, and that is all that is wanted.
            let _ = (&self.writer).write(&[1]);
        }
    }

    /// To be called before looking: what comes after the look rings again.
    pub fn still(&self) {
        self.rung.store(false, Ordering::Release);
        let mut some = [0; 64];
        loop {
            match (&self.reader).read(&mut some) {
                Ok(n) if n == some.len() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(bell: &Bell) -> usize {
        let mut some = [0; 64];
        (&bell.reader).read(&mut some).unwrap_or(0)
    }

    #[test]
    fn rings_once_until_it_was_heard() {
        let bell = Bell::new().unwrap();
        assert_eq!(rings(&bell), 0);
        bell.ring();
        bell.ring();
        assert_eq!(rings(&bell), 1);
        bell.ring();
        assert_eq!(rings(&bell), 0);
        bell.still();
        bell.ring();
        assert_eq!(rings(&bell), 1);
    }
}
