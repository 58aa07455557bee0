//! One request and its answer, as a future among the others of its connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::HeaderMap;

use crate::turns::Task;
use crate::{BODY_MAX, Fate, Reply, Settings};

pub(crate) struct Exchange {
    task: Option<Task>,
    stage: Stage,
    expired: bool,
    waker: Option<Waker>,
    started: Instant,
    /// Of the request's body.
    bytes: usize,
}

enum Stage {
    Waiting(ResponseFuture),
    Reading { status: u16, headers: HeaderMap, stream: RecvStream, body: Body },
}

/// Most bodies are one frame, which needs no copy.
enum Body {
    One(Bytes),
    More(BytesMut),
}

pub(crate) struct Done {
    pub task: Task,
    pub started: Instant,
    pub bytes: usize,
    pub end: End,
}

pub(crate) enum End {
    Reply(Reply),
    /// Proved unread by the provider.
    Unread,
    /// The provider was silent for too long.
    Silent,
    /// The connection is gone.
    Lost,
}

impl Exchange {
    pub fn new(task: Task, response: ResponseFuture, bytes: usize, started: Instant) -> Self {
        Self { task: Some(task), stage: Stage::Waiting(response), expired: false, waker: None, started, bytes }
    }

    /// Ends it when its time is over; whoever polls it next finds that out. True when it was never answered.
    pub fn expire(&mut self, now: Instant, settings: &Settings) -> bool {
        let (limit, silent) = match self.stage {
            Stage::Waiting(_) => (settings.answer(), true),
            Stage::Reading { .. } => (settings.call(), false),
        };
        if self.expired || now.duration_since(self.started) < limit {
            return false;
        }
        self.expired = true;
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
        silent
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// What becomes of it when its connection ends under it.
    pub fn abandon(mut self) -> Option<Done> {
        let end = match &mut self.stage {
            Stage::Waiting(_) => End::Lost,
            Stage::Reading { status, headers, body, .. } => End::Reply(answered(*status, headers, body)),
        };
        self.done(end)
    }

    fn done(&mut self, end: End) -> Option<Done> {
        self.task.take().map(|task| Done { task, started: self.started, bytes: self.bytes, end })
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match &mut self.stage {
                Stage::Waiting(_) if self.expired => return Poll::Ready(End::Silent),
                Stage::Waiting(response) => match ready!(Pin::new(response).poll(cx)) {
                    Ok(response) => {
                        let (parts, stream) = response.into_parts();
                        let body = Body::One(Bytes::new());
                        let status = parts.status.as_u16();
                        self.stage = Stage::Reading { status, headers: parts.headers, stream, body };
                    }
                    Err(error) => return Poll::Ready(unanswered(&error)),
                },
                Stage::Reading { status, headers, stream, body } => {
                    let ended = self.expired || stream.is_end_stream() || body.len() >= BODY_MAX;
                    // The verdict is in the status; a body that breaks off explains it at best.
                    let part = if ended { None } else { ready!(stream.poll_data(cx)).and_then(Result::ok) };
                    let Some(part) = part else {
                        return Poll::Ready(End::Reply(answered(*status, headers, body)));
                    };
                    let _ = stream.flow_control().release_capacity(part.len());
                    body.push(part);
                }
            }
        }
    }
}

impl Future for Exchange {
    type Output = Option<Done>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Done>> {
        if self.waker.is_none() {
            self.waker = Some(cx.waker().clone());
        }
        let end = ready!(self.step(cx));
        Poll::Ready(self.done(end))
    }
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Self::One(bytes) => bytes.len(),
            Self::More(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, part: Bytes) {
        match self {
            Self::One(bytes) if bytes.is_empty() => *bytes = part,
            Self::One(bytes) => {
                let mut more = BytesMut::from(&bytes[..]);
                more.extend_from_slice(&part);
                *self = Self::More(more);
            }
            Self::More(bytes) => bytes.extend_from_slice(&part),
        }
    }

    fn take(&mut self) -> Bytes {
        let mut whole = match std::mem::replace(self, Self::One(Bytes::new())) {
            Self::One(bytes) => bytes,
            Self::More(bytes) => bytes.freeze(),
        };
        whole.truncate(BODY_MAX);
        whole
    }
}

fn answered(status: u16, headers: &mut HeaderMap, body: &mut Body) -> Reply {
    Reply { fate: Fate::Answered, status, headers: std::mem::take(headers), body: body.take(), detail: "".into() }
}

fn unanswered(error: &h2::Error) -> End {
    if error.is_go_away() && error.is_remote() {
        // A stream gets this error only when it is above the last one of the GOAWAY.
        return End::Unread;
    }
    if error.is_reset() {
        if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
            return End::Unread;
        }
        return End::Reply(Reply::without(Fate::Unknown, "reset"));
    }
    End::Lost
}
