//! What probes do, in two plans.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{Differing, text_or_empty};
use crate::config::plan::{Health, Http, Probe, ProbeKind};
use crate::config::units::show_bytes;

/// How probes differ.
pub(super) fn compare(old: &Health, new: &Health, found: &mut Differing) {
    found.plain("health.type", &word(old), &word(new));
    let (Health::Probed(old), Health::Probed(new)) = (old, new) else {
        return;
    };
    let Probe {
        kind,
        interval,
        fast_interval,
        down_interval,
        timeout,
        rise,
        fall,
        port,
        initial_up,
    } = old;
    kind_settings(kind, &new.kind, found);
    found.time("health.interval", interval, &new.interval);
    found.time("health.fast_interval", fast_interval, &new.fast_interval);
    found.time("health.down_interval", down_interval, &new.down_interval);
    found.time("health.timeout", timeout, &new.timeout);
    found.plain("health.rise", rise, &new.rise);
    found.plain("health.fall", fall, &new.fall);
    found.plain("health.port", port, &new.port);
    found.compare("health.initial", initial_up, &new.initial_up, |up| {
        if *up {
            "up".to_owned()
        } else {
            "down".to_owned()
        }
    });
}

fn word(health: &Health) -> &'static str {
    match health {
        Health::None => "none",
        Health::Probed(probe) => match probe.kind {
            ProbeKind::Tcp => "tcp",
            ProbeKind::Udp { .. } => "udp",
            ProbeKind::Http(_) => "http",
        },
    }
}

/// How probes of the same kind differ; another kind is told by its name alone.
fn kind_settings(old: &ProbeKind, new: &ProbeKind, found: &mut Differing) {
    match (old, new) {
        (
            ProbeKind::Udp { send, expect },
            ProbeKind::Udp {
                send: new_send,
                expect: new_expect,
            },
        ) => {
            let bytes = |bytes: &Arc<[u8]>| show_bytes(bytes);
            found.compare("health.send", send, new_send, bytes);
            found.compare("health.expect_bytes", expect, new_expect, bytes);
        }
        (ProbeKind::Http(old), ProbeKind::Http(new)) => http_settings(old, new, found),
        (ProbeKind::Tcp | ProbeKind::Udp { .. } | ProbeKind::Http(_), _) => {}
    }
}

fn http_settings(old: &Http, new: &Http, found: &mut Differing) {
    let Http {
        path,
        host,
        statuses,
        body,
    } = old;
    found.plain("health.path", path, &new.path);
    found.compare("health.host", host, &new.host, text_or_empty);
    found.compare("health.expect", statuses, &new.statuses, |statuses| {
        let one = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("\"{first}-{last}\""),
        };
        format!(
            "[{}]",
            statuses.iter().map(one).collect::<Vec<_>>().join(", ")
        )
    });
    found.compare("health.body", body, &new.body, text_or_empty);
}
