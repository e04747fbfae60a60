//! Probes: what their settings mean together.

use std::sync::Arc;
use std::time::Duration;

use crate::config::error::{Problems, Wrong};
use crate::config::keys::quoted;
use crate::config::model::{self, HealthKind};
use crate::config::plan::{Address, Health, Http, Probe, ProbeKind, Tls};
use crate::config::reader::Written;
use crate::config::units::show;

pub(super) fn check(pool: &model::Pool, exec_probes: bool, problems: &Problems) {
    let health = &pool.health;
    check_exec(health, exec_probes, problems);
    check_address(pool, problems);
    check_times(health, problems);
    check_kind(health, problems);
    check_steps(health, problems);
    if !health.tls_verify.value && !health.tls_ca.value.is_empty() {
        let what = "`tls_ca` is used only to verify certificates";
        let cure = "remove it, or set tls_verify to true";
        problems.value(health.tls_ca.at, Wrong::new(what, cure));
    }
}

/// A probe ends before the next begins, and a changing state is looked at no less often.
fn check_times(health: &model::Health, problems: &Problems) {
    let interval = &health.interval;
    for (key, duration) in [
        ("timeout", &health.timeout),
        ("fast_interval", &health.fast_interval),
    ] {
        if duration.given && duration.value > interval.value {
            let default = if interval.given { "" } else { " (the default)" };
            let (ours, theirs) = (show(duration.value), show(interval.value));
            let what = format!("`{key}` {ours} is longer than `interval` {theirs}{default}");
            problems.value(
                duration.at,
                Wrong::new(what, format!("set it to at most {theirs}")),
            );
        }
    }
}

/// Another address has a port, and another port an address: a Unix socket has neither.
fn check_address(pool: &model::Pool, problems: &Problems) {
    let address = &pool.health.address;
    let mut backends = pool.backends.iter().filter_map(|it| it.address.as_ref());
    let Some(unix) = backends.find(|address| matches!(address.value, Address::Unix(_))) else {
        return;
    };
    match (address.value, pool.health.port) {
        (Some(_), 0) => {
            let what = format!("`address` has no port to probe for {}", unix.value);
            problems.value(address.at, Wrong::new(what, "write the port as well"));
        }
        (None, 1..) => {
            let what = format!("{} has no address with another `port` to probe", unix.value);
            let cure = "write `address` in the pool's health as well";
            problems.value(unix.at, Wrong::new(what, cure));
        }
        (None, 0) | (Some(_), 1..) => {}
    }
}

/// Nothing is written that the probes do not use.
fn check_kind(health: &model::Health, problems: &Problems) {
    for special in health.special() {
        if health
            .kind
            .is_none_or(|kind| !special.kinds.contains(&kind))
        {
            let words: Vec<_> = special.kinds.iter().map(|kind| kind.word()).collect();
            let what = format!(
                "`{}` is used only by probes of type {}",
                special.key,
                words.join(", ")
            );
            let cure = format!("remove it, or set type to {:?}", words[0]);
            problems.value(special.at, Wrong::new(what, cure));
        }
    }
}

/// A dialog is written once, and ends with an answer.
fn check_steps(health: &model::Health, problems: &Problems) {
    let model::Health {
        send,
        expect_bytes,
        steps,
        ..
    } = health;
    if health.kind != Some(HealthKind::SendExpect) {
        return;
    }
    for (key, at) in [
        ("send", send.given.then_some(send.at)),
        (
            "expect_bytes",
            expect_bytes.given.then_some(expect_bytes.at),
        ),
    ] {
        if let (Some(at), true) = (at, steps.given) {
            let what = format!("`{key}` is written beside `steps`");
            problems.value(at, Wrong::new(what, "make it a step of its own"));
        }
    }
    let last = (steps.value.last()).map_or(&expect_bytes.value, |step| &step.expect);
    if last.is_nothing() {
        let at = if steps.given {
            steps.at
        } else {
            expect_bytes.at
        };
        let what = "nothing is expected in the end";
        problems.missing(
            at,
            Wrong::new(what, "add expect_bytes = …, or use type \"tcp\""),
        );
    }
}

/// Programs are run only where the file says so twice, and by their whole path.
fn check_exec(health: &model::Health, exec_probes: bool, problems: &Problems) {
    if health.kind != Some(HealthKind::Exec) {
        return;
    }
    if !exec_probes {
        let what = "probes of type exec run programs, which is not allowed";
        let cure = "set exec_probes = true in [global], or use another type";
        problems.value(health.at, Wrong::new(what, cure));
    }
    let program = health.command.as_ref().map(|command| command.value.first());
    match program {
        None => {
            let what = "`command` is missing for probes of type exec";
            problems.missing(health.at, Wrong::new(what, "add command = [\"/PATH\", …]"));
        }
        Some(Some(program)) if !program.value.starts_with('/') => {
            let what = format!("{} is no whole path", quoted(&program.value));
            problems.value(program.at, Wrong::new(what, "begin it with /"));
        }
        Some(_) => {}
    }
}

/// A server of datagrams alone need not listen for a TCP probe.
pub(super) fn plan(health: model::Health, is_udp_only: bool) -> Health {
    let kind = match health.kind {
        None if is_udp_only => return Health::None,
        Some(HealthKind::None) => return Health::None,
        None | Some(HealthKind::Tcp) => ProbeKind::Tcp,
        Some(HealthKind::SendExpect) => ProbeKind::SendExpect(match health.steps.value {
            steps if steps.is_empty() => {
                Arc::new([model::step_of(health.send, health.expect_bytes)])
            }
            steps => steps.into(),
        }),
        Some(HealthKind::Exec) => {
            let command = health.command.map(|command| command.value);
            let words = command.into_iter().flatten().map(|word| word.value);
            ProbeKind::Exec(words.collect())
        }
        Some(HealthKind::Udp) => ProbeKind::Udp(model::step_of(health.send, health.expect_bytes)),
        Some(HealthKind::Http) => ProbeKind::Http(Arc::new(plan_http(&health, None))),
        Some(HealthKind::Https) => {
            ProbeKind::Http(Arc::new(plan_http(&health, Some(plan_tls(&health)))))
        }
        Some(HealthKind::Grpc) => ProbeKind::Grpc(health.grpc_service.value.into()),
        Some(HealthKind::Tls) => ProbeKind::Tls(Arc::new(plan_tls(&health))),
    };
    let interval = health.interval.value;
    let capped = |duration: &Written<Duration>| duration.value.min(interval);
    Health::Probed(Probe {
        kind,
        interval,
        fast_interval: capped(&health.fast_interval),
        down_interval: health.down_interval,
        timeout: capped(&health.timeout),
        rise: health.rise,
        fall: health.fall,
        address: health.address.value,
        port: health.port,
        initial_up: health.initial_up,
        progress_is_alive: health.progress_is_alive,
    })
}

fn plan_http(health: &model::Health, tls: Option<Tls>) -> Http {
    Http {
        path: health.path.value.clone(),
        host: given(&health.host),
        statuses: health.expect.value.clone(),
        body: health.body.value.clone(),
        tls,
    }
}

fn plan_tls(health: &model::Health) -> Tls {
    Tls {
        server_name: given(&health.tls_server_name),
        verify: health.tls_verify.value,
        ca: given(&health.tls_ca).map(Into::into),
    }
}

/// What is written, unless it is empty.
fn given(written: &Written<String>) -> Option<String> {
    Some(written.value.clone()).filter(|text| !text.is_empty())
}
