//! The service manager: readiness, reloads, the watchdog, and sockets it has bound for us.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::control::handle::Event;
use crate::control::supervisor::Observer;
use crate::sys::inherited;
use crate::sys::socket::Listening;

/// Tells the service manager, if there is one, what happens.
pub(super) fn observer() -> Observer {
    Arc::new(|event| {
        let told = match event {
            Event::Ready => {
                sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("serving")])
            }
            Event::Reloading => NotifyState::monotonic_usec_now()
                .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
            Event::Reloaded(outcome) => {
                let line = outcome.replace('\n', "; ");
                sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&line)])
            }
            Event::Stopping => {
                sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("draining")])
            }
            Event::Http(_) => return,
            Event::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        };
        if let Err(error) = told {
            log::debug!("the service manager was not told of {event:?}: {error}");
        }
    })
}

/// Whether a service manager waits for what [`observer`] says.
pub(super) fn waits() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// How often the service manager wants to hear that the process lives: twice in the time it waits.
pub(super) fn alive_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|within| within / 2)
}

/// The sockets the service manager has bound.
pub(super) fn inherited() -> io::Result<Vec<Listening>> {
    inherited::take_over(sd_notify::listen_fds()?)
}
