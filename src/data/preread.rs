//! What a client says first, as far as its listener looks at it: peeked at and left in the socket, so
//! that its backend gets the same bytes. Only a PROXY header is taken out.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;

use super::kit::Kit;
use super::mailbox::{Barred, Listener};
use super::request::Request;
use crate::lb::balance::route::{Known, Rule, Said, route};
use crate::wire::proxy_header::parse::{self, Origin, RECEIVED_MAX, Versions};
use crate::wire::{Stop, client_hello, http_head};

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
        Ok(header) => (header.origin, header.length),
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

/// Finds the pool of a client by the routes of its listener. `is_final`: no more will come, or nobody
/// waits for it.
pub(super) fn find_pool(
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
    let bytes = &kit.scratch[..seen];
    let rules = || listener.plan.routes.iter().map(|route| &route.rule);
    let asks_tls = rules().any(Rule::asks_tls);
    let asks_http = rules().any(Rule::asks_http);
    let hello = asks_tls.then(|| client_hello::parse(bytes));
    let head = asks_http.then(|| http_head::parse(bytes));
    let known = Known {
        source: request.caller.address().map(|address| address.ip()),
        sni: said(&hello, |hello| Ok(hello.server_name())),
        alpn: said(&hello, |hello| {
            let offered = hello.protocols().map(|name| name.bytes().to_vec());
            Ok(Some(offered.collect()))
        }),
        http_host: said(&head, http_head::Head::host),
        http_path: said(&head, |head| Ok(Some(head.path()))),
    };
    match route(rules(), &known, is_final || seen == size) {
        None => return Look::Wait,
        Some(Some(place)) => {
            request.pool = Arc::clone(&listener.routed[place]);
            request.admission.is_routed = true;
        }
        Some(None) => {}
    }
    Look::Done
}

/// What has been `read` tells of one thing; `None` = nobody wants to know.
fn said<'a, Read, T, Wrong>(
    read: &'a Option<Result<Read, Stop<Wrong>>>,
    tell: impl FnOnce(&'a Read) -> Result<Option<T>, Stop<Wrong>>,
) -> Said<T> {
    let told = match read {
        Some(Ok(read)) => tell(read),
        Some(Err(Stop::Incomplete { .. })) => return Said::NotYet,
        Some(Err(Stop::Invalid(_))) | None => return Said::Never,
    };
    match told {
        Ok(Some(this)) => Said::This(this),
        Err(Stop::Incomplete { .. }) => Said::NotYet,
        Ok(None) | Err(Stop::Invalid(_)) => Said::Never,
    }
}
