//! Finished things for one reader that sleeps on a file descriptor, such as an event loop.
//!
//! The bell rings when the queue turns non-empty, so a reader that takes everything is woken once for a batch. A pair of
//! sockets rather than an eventfd: the standard library has it, and one byte for a batch costs the same.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

pub struct Bell<T> {
    finished: Mutex<Vec<T>>,
    rope: UnixStream,
    clapper: UnixStream,
}

impl<T> Bell<T> {
    pub fn new() -> io::Result<Self> {
        let (rope, clapper) = UnixStream::pair()?;
        rope.set_nonblocking(true)?;
        clapper.set_nonblocking(true)?;
        Ok(Self { finished: Mutex::default(), rope, clapper })
    }

    /// Readable while something is there to be taken.
    pub fn fileno(&self) -> RawFd {
        self.clapper.as_raw_fd()
    }

    pub fn push(&self, things: impl IntoIterator<Item = T>) {
        let mut finished = self.finished.lock().expect("no holder panics");
        let was_empty = finished.is_empty();
        finished.extend(things);
        if was_empty && !finished.is_empty() {
            // Full means that it has been rung often enough.
            let _ = (&self.rope).write(&[1]);
        }
    }

    pub fn take(&self) -> Vec<T> {
        let mut finished = self.finished.lock().expect("no holder panics");
        let mut heard = [0; 64];
        while matches!((&self.clapper).read(&mut heard), Ok(n) if n == heard.len()) {}
        std::mem::take(&mut *finished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(bell: &Bell<u32>) -> bool {
        let mut byte = [0];
        (&bell.clapper).read(&mut byte).is_ok()
    }

    #[test]
    fn it_rings_once_for_a_batch() {
        let bell = Bell::new().unwrap();
        bell.push([1, 2]);
        bell.push([3]);
        assert!(rings(&bell));
        assert!(!rings(&bell));
        assert_eq!(bell.take(), [1, 2, 3]);
        bell.push([]);
        assert!(!rings(&bell));
        bell.push([4]);
        assert_eq!(bell.take(), [4]);
        assert!(!rings(&bell), "what was taken is not announced");
    }
}
