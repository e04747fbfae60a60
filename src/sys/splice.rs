//! Pipes and splice: bytes from socket to socket without passing through user memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};

/// A non-blocking pipe.
#[derive(Debug)]
pub struct Pipe {
    output: File,
    input: OwnedFd,
}

impl Pipe {
    /// A new pipe of 1 MiB, or of what the kernel allows this user.
    pub fn new() -> io::Result<Self> {
        let (output, input) = io_pipe()?;
        // An unprivileged user over fs.pipe-user-pages-soft keeps small pipes: slower, not wrong.
        let _size = fcntl(&input, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok(Self {
            output: File::from(output),
            input,
        })
    }

    /// Moves at most `limit` bytes from a socket into the pipe; 0 = the socket's stream has ended.
    pub fn fill(&self, socket: impl AsFd, limit: usize) -> io::Result<usize> {
        Ok(splice(socket, None, &self.input, None, limit, FLAGS)?)
    }

    /// Moves at most `count` bytes from the pipe into a socket. Ask for all that the pipe holds:
    /// for less, the kernel marks the segment as unfinished and may hold it back.
    pub fn empty(&self, socket: impl AsFd, count: usize) -> io::Result<usize> {
        Ok(splice(&self.output, None, socket, None, count, FLAGS)?)
    }

    /// Takes exactly `count` bytes out of the pipe, which must hold them.
    pub fn take(&mut self, count: usize) -> io::Result<Box<[u8]>> {
        let mut bytes = vec![0; count].into_boxed_slice();
        self.output.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn io_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (output, input) = io::pipe()?;
    for end in [output.as_fd(), input.as_fd()] {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok((output.into(), input.into()))
}

/// Asked of the kernel per pipe: 256 slots. On a network card a slot holds one segment only, so
/// the default of 16 would end a splice after 23 KB.
const PIPE_BYTES: i32 = 1024 * 1024;

const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK);

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_pass_through_in_order_and_can_be_taken_back() {
        let (mut writer, source) = UnixStream::pair().unwrap();
        let (sink, mut reader) = UnixStream::pair().unwrap();
        let mut pipe = Pipe::new().unwrap();
        writer.write_all(b"one two").unwrap();
        assert_eq!(pipe.fill(&source, 4).unwrap(), 4);
        assert_eq!(pipe.empty(&sink, 4).unwrap(), 4);
        assert_eq!(pipe.fill(&source, 100).unwrap(), 3);
        assert_eq!(&*pipe.take(3).unwrap(), b"two");
        let mut got = [0; 4];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"one ");
        drop(writer);
        assert_eq!(pipe.fill(&source, 100).unwrap(), 0);
    }
}
