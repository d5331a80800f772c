//! Results count as held until what was made of them is written: a client that does not read holds no more than its
//! share for long before others are refused, and memory stays bounded.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http_body_util::BodyExt;
use prost::bytes::Bytes;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{
    Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use twofold_client::handle::{Handle, Held};

use super::status::error_status;

/// A response of a stream, and what is held for it.
pub(super) type Item<T> = (Result<T, Status>, Option<Held>);

/// Responses of a stream. What is held for one is given back when the next is asked for, which is when it is written but
/// for the connection's own buffers.
#[derive(Debug)]
pub struct Unwritten<T> {
    responses: ReceiverStream<Item<T>>,
    written: Option<Held>,
}

impl<T> Unwritten<T> {
    pub(super) fn new(responses: ReceiverStream<Item<T>>) -> Unwritten<T> {
        Unwritten { responses, written: None }
    }
}

impl<T> Stream for Unwritten<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.written = None;
        Pin::new(&mut self.responses).poll_next(context).map(|item| {
            let (response, held) = item?;
            self.written = held;
            Some(response)
        })
    }
}

/// What is held for a response that is no stream, on its way to [`Counted`].
#[derive(Clone, Debug)]
struct OnItsWay(Arc<Held>);

/// Bytes of a body, which the connection drops when they are written; the body itself is gone long before.
struct Owned {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// This response, for which something is held until it is written.
pub(super) fn response<T>(message: T, held: Option<Held>) -> Response<T> {
    let mut response = Response::new(message);
    if let Some(held) = held {
        response.extensions_mut().insert(OnItsWay(Arc::new(held)));
    }
    response
}

/// A service of which the responses' bytes keep what is held for them. While too many calls are not answered it refuses
/// others, unread.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    service: S,
    handle: Handle,
    /// Calls of the thread that are not answered.
    open: Arc<AtomicUsize>,
}

impl<S> Counted<S> {
    /// The service of the thread that has this handle.
    pub fn new(service: S, handle: Handle) -> Counted<S> {
        Counted { service, handle, open: Arc::default() }
    }
}

/// A call that is not answered, until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S: NamedService> NamedService for Counted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Counted<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let open_call = Open(self.open.clone());
        if let Err(error) = self.handle.check_calls(open) {
            return Box::pin(async { Ok(error_status(error).into_http()) });
        }
        let response = self.service.call(request);
        Box::pin(async {
            let _open_call = open_call;
            let mut response = response.await?;
            let held = response.extensions_mut().remove::<OnItsWay>().map(|held| held.0);
            Ok(match held {
                Some(held) => response.map(|body| {
                    let own = move |bytes| Bytes::from_owner(Owned { bytes, _held: held.clone() });
                    Body::new(body.map_frame(move |frame| frame.map_data(&own)))
                }),
                None => response,
            })
        })
    }
}
