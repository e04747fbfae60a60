//! What probes do, and what traffic says of backends, in two plans.

use std::ops::RangeInclusive;
use std::path::Path;

use super::{Differing, text_or_empty};
use crate::config::plan::{Expected, Health, Http, Probe, ProbeKind, Step, Tls};
use crate::config::units::show_bytes;
use crate::lb::health::outlier;

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
        address,
        port,
        initial_up,
        progress_is_alive,
    } = old;
    kind_settings(kind, &new.kind, found);
    found.time("health.interval", interval, &new.interval);
    found.time("health.fast_interval", fast_interval, &new.fast_interval);
    found.time("health.down_interval", down_interval, &new.down_interval);
    found.time("health.timeout", timeout, &new.timeout);
    found.plain("health.rise", rise, &new.rise);
    found.plain("health.fall", fall, &new.fall);
    found.compare("health.address", address, &new.address, text_or_empty);
    found.plain("health.port", port, &new.port);
    found.compare("health.initial", initial_up, &new.initial_up, |up| {
        if *up {
            "up".to_owned()
        } else {
            "down".to_owned()
        }
    });
    found.plain(
        "health.progress_is_alive",
        progress_is_alive,
        &new.progress_is_alive,
    );
}

/// How the ejection of backends differs.
pub(super) fn compare_outlier(
    old: &outlier::Settings,
    new: &outlier::Settings,
    found: &mut Differing,
) {
    let outlier::Settings {
        consecutive_failures,
        eject_time,
        max_ejected,
    } = old;
    let failures = &new.consecutive_failures;
    found.plain(
        "outlier.consecutive_failures",
        consecutive_failures,
        failures,
    );
    found.time("outlier.eject_time", eject_time, &new.eject_time);
    found.plain("outlier.max_ejected", max_ejected, &new.max_ejected);
}

fn word(health: &Health) -> &'static str {
    match health {
        Health::None => "none",
        Health::Probed(probe) => match &probe.kind {
            ProbeKind::Tcp => "tcp",
            ProbeKind::SendExpect(_) => "send_expect",
            ProbeKind::Udp(_) => "udp",
            ProbeKind::Http(http) if http.tls.is_some() => "https",
            ProbeKind::Http(_) => "http",
            ProbeKind::Grpc(_) => "grpc",
            ProbeKind::Tls(_) => "tls",
            ProbeKind::Exec(_) => "exec",
        },
    }
}

/// How probes of the same kind differ; another kind is told by its name alone.
fn kind_settings(old: &ProbeKind, new: &ProbeKind, found: &mut Differing) {
    match (old, new) {
        (ProbeKind::Udp(old), ProbeKind::Udp(new)) => step_settings(old, new, found),
        (ProbeKind::SendExpect(old), ProbeKind::SendExpect(new)) => match (&**old, &**new) {
            ([old], [new]) => step_settings(old, new, found),
            _ => found.compare("health.steps", old, new, |steps| {
                format!(
                    "[{}]",
                    steps.iter().map(show_step).collect::<Vec<_>>().join(", ")
                )
            }),
        },
        (ProbeKind::Http(old), ProbeKind::Http(new)) => http_settings(old, new, found),
        (ProbeKind::Grpc(old), ProbeKind::Grpc(new)) => {
            found.compare("health.grpc_service", old, new, |service| {
                format!("{service:?}")
            });
        }
        (ProbeKind::Exec(old), ProbeKind::Exec(new)) => {
            found.compare("health.command", old, new, |command| format!("{command:?}"));
        }
        (ProbeKind::Tls(old), ProbeKind::Tls(new)) => tls_settings(old, new, found),
        _ => {}
    }
}

fn step_settings(old: &Step, new: &Step, found: &mut Differing) {
    let Step { send, expect } = old;
    found.compare("health.send", send, &new.send, |bytes| show_bytes(bytes));
    found.compare("health.expect_bytes", expect, &new.expect, show_expected);
}

fn show_step(step: &Step) -> String {
    let (send, expect) = (show_bytes(&step.send), show_expected(&step.expect));
    format!("{{ send = {send}, expect_bytes = {expect} }}")
}

fn show_expected(expected: &Expected) -> String {
    match expected {
        Expected::Start(bytes) => show_bytes(bytes),
        Expected::Match(pattern) => format!("regex:{pattern}"),
    }
}

fn http_settings(old: &Http, new: &Http, found: &mut Differing) {
    let Http {
        path,
        host,
        statuses,
        body,
        tls,
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
    if let (Some(tls), Some(new)) = (tls, &new.tls) {
        tls_settings(tls, new, found);
    }
}

fn tls_settings(old: &Tls, new: &Tls, found: &mut Differing) {
    let Tls {
        server_name,
        verify,
        ca,
    } = old;
    let name = &new.server_name;
    found.compare("health.tls_server_name", server_name, name, text_or_empty);
    found.plain("health.tls_verify", verify, &new.verify);
    found.compare("health.tls_ca", ca, &new.ca, |ca| {
        format!("{:?}", ca.as_deref().unwrap_or_else(|| Path::new("")))
    });
}
