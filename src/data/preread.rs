//! What a client says first, as far as its listener looks at it: peeked at and left in the socket, so
//! that its backend gets the same bytes. Only a PROXY header is taken out.

use std::cell::OnceCell;
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::kit::Kit;
use super::mailbox::{Barred, Listener, Pool};
use super::request::{Caller, Request};
use crate::lb::balance::client::Digests;
use crate::lb::balance::key::{Part, digest, hash_bytes, said};
use crate::lb::balance::route::route;
use crate::lb::balance::said::{Said, Speaker};
use crate::wire::Stop;
use crate::wire::client_hello::{self, ClientHello};
use crate::wire::http_head::{self, Head};
use crate::wire::proxy_header::parse::{self, Origin, RECEIVED_MAX, Versions};

/// What has become of a look.
pub(super) enum Look {
    /// There is nothing more to look at.
    Done,
    /// More must come.
    Wait,
    /// The client is not let in, and has been told of in the log.
    Barred(Barred),
    /// It has gone.
    Gone,
}

/// Takes the PROXY header out, and who sends it for whom it stands for. `is_ended`: no more will come.
pub(super) fn introduce(
    request: &mut Request,
    listener: &Listener,
    versions: Versions,
    is_ended: bool,
    kit: &mut Kit,
) -> Look {
    let seen = match request.stream.peek(&mut kit.scratch[..RECEIVED_MAX]) {
        Ok(seen) => seen,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Look::Wait,
        Err(_) => return Look::Gone,
    };
    let (origin, length) = match parse::parse(&kit.scratch[..seen], versions) {
        Ok(header) => {
            let hash = |kind| Some((kind, hash_bytes(header.extension(kind)?)));
            request.caller.extensions = wanted(&request.pool, listener).filter_map(hash).collect();
            (header.origin, header.length)
        }
        Err(Stop::Incomplete { .. }) if !is_ended => return Look::Wait,
        Err(Stop::Incomplete { .. }) => {
            let what = &"the stream ends before it does";
            return Look::Barred(bar(request, listener, what, kit));
        }
        Err(Stop::Invalid(wrong)) => return Look::Barred(bar(request, listener, &wrong, kit)),
    };
    // They have been seen, so they are there.
    if !matches!(request.stream.read(&mut kit.scratch[..length]), Ok(read) if read == length) {
        return Look::Gone;
    }
    let caller = &mut request.caller;
    match origin {
        Origin::Client(ends) => {
            caller.client.source = ends.source;
            caller.client.destination = ends.destination;
            caller.is_named = true;
        }
        Origin::Proxy => caller.is_own = true,
        Origin::Unknown => {}
    }
    if let Some(address) = caller.address().map(|address| address.ip())
        && let Err(reason) = request.admission.enter(listener, address, kit.now)
    {
        let name = &listener.plan.name;
        kit.notices.barred(kit.now, name, address, reason);
        return Look::Barred(reason);
    }
    Look::Done
}

/// Tells the log what is wrong with the header of somebody who is not let in.
pub(super) fn bar(
    request: &Request,
    listener: &Listener,
    what: &dyn fmt::Display,
    kit: &mut Kit,
) -> Barred {
    let (reason, address) = (Barred::Unintroduced, request.caller.client.source.ip());
    let name = &listener.plan.name;
    let what: &dyn fmt::Display = &format_args!("its PROXY header: {what}");
    kit.notices
        .barred_for(kit.now, name, address, (reason, what));
    reason
}

/// Types of extensions that the keys of its pools ask for.
fn wanted<'a>(pool: &'a Arc<Pool>, listener: &'a Listener) -> impl Iterator<Item = u8> + 'a {
    let pools = std::iter::once(pool).chain(&listener.routed);
    let parts = pools.flat_map(|pool| pool.plan.keys()).flat_map(said);
    parts.filter_map(|part| match part {
        Part::ProxyTlv(kind) => Some(*kind),
        _ => None,
    })
}

/// Finds the pool of a client by the routes of its listener, and what the pool knows it by. `is_final`:
/// no more will come, or nobody waits for it.
pub(super) fn hear(
    request: &mut Request,
    listener: &Listener,
    is_final: bool,
    kit: &mut Kit,
) -> Look {
    let size = listener.plan.preread.size;
    let seen = match request.stream.peek(&mut kit.scratch[..size]) {
        Ok(seen) => seen,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(_) => return Look::Gone,
    };
    let heard = Heard::new(
        &request.caller,
        &kit.scratch[..seen],
        is_final || seen == size,
    );
    let rules = listener.plan.routes.iter().map(|route| &route.rule);
    let Some(place) = route(rules, &heard) else {
        return Look::Wait;
    };
    let pool = Arc::clone(place.map_or(&request.pool, |place| &listener.routed[place]));
    let balance = digest(&pool.plan.balance.hash_key, &heard);
    let sticky =
        (pool.plan.sticky.as_ref()).map_or(Said::Never, |sticky| digest(&sticky.key, &heard));
    let (Some(balance), Some(sticky)) = (balance.known(), sticky.known()) else {
        return Look::Wait;
    };
    let digests = Digests { balance, sticky };
    if digests == Digests::default() && pool.plan.keys().any(|key| said(key).next().is_some()) {
        listener.counters.unkeyed.fetch_add(1, Relaxed);
    }
    if place.is_some() {
        request.pool = Arc::clone(&pool);
        request.admission.is_routed = true;
    }
    request.caller.client.digests = digests;
    Look::Done
}

/// A client, and what has been heard of it; read as far as somebody asks.
struct Heard<'a> {
    caller: &'a Caller,
    bytes: &'a [u8],
    /// Nothing more will come.
    is_final: bool,
    hello: OnceCell<Result<ClientHello<'a>, Stop<client_hello::Wrong>>>,
    head: OnceCell<Result<Head<'a>, Stop<http_head::Wrong>>>,
}

impl<'a> Heard<'a> {
    const fn new(caller: &'a Caller, bytes: &'a [u8], is_final: bool) -> Self {
        Self {
            caller,
            bytes,
            is_final,
            hello: OnceCell::new(),
            head: OnceCell::new(),
        }
    }

    fn hello(&self) -> Result<&ClientHello<'a>, Stop<client_hello::Wrong>> {
        let parse = || client_hello::parse(self.bytes);
        self.hello.get_or_init(parse).as_ref().map_err(|stop| *stop)
    }

    fn head(&self) -> Result<&Head<'a>, Stop<http_head::Wrong>> {
        let parse = || http_head::parse(self.bytes);
        self.head.get_or_init(parse).as_ref().map_err(|stop| *stop)
    }

    fn said<T, Wrong>(&self, found: Result<Option<T>, Stop<Wrong>>) -> Said<T> {
        match found {
            Ok(Some(this)) => Said::This(this),
            Err(Stop::Incomplete { .. }) if !self.is_final => Said::NotYet,
            Ok(None) | Err(_) => Said::Never,
        }
    }
}

impl Speaker for Heard<'_> {
    fn source(&self) -> Option<IpAddr> {
        self.caller.address().map(|address| address.ip())
    }

    fn sni(&self) -> Said<&str> {
        self.said(self.hello().map(ClientHello::server_name))
    }

    fn alpn(&self) -> Said<Vec<Vec<u8>>> {
        let list = |hello: &ClientHello<'_>| {
            let offered = hello.protocols().map(|name| name.bytes().to_vec());
            Some(offered.collect())
        };
        self.said(self.hello().map(list))
    }

    fn http_host(&self) -> Said<&str> {
        self.said(self.head().and_then(Head::host))
    }

    fn http_path(&self) -> Said<&[u8]> {
        self.said(self.head().map(|head| Some(head.path())))
    }

    fn http_header(&self, name: &str) -> Said<&[u8]> {
        self.said(self.head().and_then(|head| head.field(name)))
    }

    fn first_bytes(&self, count: usize) -> Said<&[u8]> {
        match self.bytes.get(..count) {
            Some(first) => Said::This(first),
            None if !self.is_final => Said::NotYet,
            None if self.bytes.is_empty() => Said::Never,
            None => Said::This(self.bytes),
        }
    }

    fn extension(&self, kind: u8) -> Option<u64> {
        let mut extensions = self.caller.extensions.iter();
        extensions
            .find(|(found, _)| *found == kind)
            .map(|(_, hash)| *hash)
    }
}
