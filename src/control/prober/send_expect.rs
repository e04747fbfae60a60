//! A dialog on a connection: bytes that are sent, and answers that must be the right ones.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connection::Connection;
use crate::config::plan::{ANSWER_MAX, Expected, Step};

/// Goes through `steps` by `stream`.
pub(super) async fn probe(mut stream: Connection, steps: &[Step]) -> io::Result<()> {
    let mut answer = Vec::new();
    for step in steps {
        if !step.send.is_empty() {
            answer.clear();
            stream.write_all(&step.send).await?;
            stream.flush().await?;
        }
        await_answer(&mut stream, &mut answer, &step.expect).await?;
    }
    Ok(())
}

/// Reads on until `answer` tells, and takes out of it what was expected.
async fn await_answer(
    stream: &mut Connection,
    answer: &mut Vec<u8>,
    expected: &Expected,
) -> io::Result<()> {
    loop {
        match expected.judge(answer) {
            Some(true) => break,
            Some(false) => return Err(io::Error::other("another answer than the expected one")),
            None => {}
        }
        // Never full, or it would have been judged: what is expected is no longer than a datagram.
        let mut chunk = [0; 4096];
        let room = (ANSWER_MAX - answer.len()).min(chunk.len());
        let count = stream.read(&mut chunk[..room]).await?;
        answer.extend_from_slice(&chunk[..count]);
        if count == 0 {
            let what = format!("closed after {} bytes of an answer", answer.len());
            return Err(io::Error::other(what));
        }
    }
    match expected {
        Expected::Start(start) => drop(answer.drain(..start.len())),
        Expected::Match(_) => answer.clear(),
    }
    Ok(())
}
