//! Bodies of answers: bytes that are there, in pieces, or events without an end. Each piece that the
//! connection takes shows that it goes on.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{self, Bytes, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::watch::Receiver;

use super::patience::Patience;

/// The body of an answer.
pub(super) struct Body {
    content: Content,
    patience: Patience,
}

enum Content {
    /// What is left of it, and the right to hold that much.
    Whole(
        Bytes,
        #[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>,
    ),
    /// What comes next.
    Events(NextEvent),
}

type NextEvent = Pin<Box<dyn Future<Output = Option<(Bytes, Receiver<Bytes>)>>>>;

impl Body {
    pub(super) fn whole(bytes: impl Into<Bytes>, patience: Patience) -> Self {
        Self {
            content: Content::Whole(bytes.into(), None),
            patience,
        }
    }

    /// One that is large, so that few may be held at a time.
    pub(super) fn large(bytes: String, permit: OwnedSemaphorePermit, patience: Patience) -> Self {
        Self {
            content: Content::Whole(bytes.into(), Some(permit)),
            patience,
        }
    }

    pub(super) fn events(events: Receiver<Bytes>, patience: Patience) -> Self {
        Self {
            content: Content::Events(Box::pin(next(events))),
            patience,
        }
    }
}

/// The newest event, as soon as it is another one: whoever is slow misses some.
async fn next(mut events: Receiver<Bytes>) -> Option<(Bytes, Receiver<Bytes>)> {
    events.changed().await.ok()?;
    let event = events.borrow_and_update().clone();
    Some((event, events))
}

impl body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut self.content {
            Content::Whole(left, _) if left.is_empty() => return Poll::Ready(None),
            Content::Whole(left, _) => left.split_to(left.len().min(PIECE)),
            Content::Events(event) => match ready!(event.as_mut().poll(context)) {
                None => return Poll::Ready(None),
                Some((piece, events)) => {
                    self.content = Content::Events(Box::pin(next(events)));
                    piece
                }
            },
        };
        self.patience.renew();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(left, _) if left.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(left, _) => SizeHint::with_exact(left.len() as u64),
            Content::Events(_) => SizeHint::default(),
        }
    }
}

/// Bytes handed over at once.
const PIECE: usize = 64 * 1024;
