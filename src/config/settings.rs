//! Compares the settings of one thing in two plans. Each function takes its struct apart by name,
//! so that a field added to the plan does not compile until it is compared here.

mod health;

use std::time::Duration;

use super::diff::Setting;
use super::key_part;
use super::keys::quoted;
use super::plan::{
    Backend, Discover, Global, Listener, LogFormat, OnDown, Pool, Preread, Queue, Refuse, Route,
    Sandbox, SendProxy, Source, Splice, Sticky, Udp,
};
use super::units::show;
use crate::lb::admission::queue;
use crate::lb::admission::source::Limits;
use crate::lb::backend::Counts;
use crate::lb::balance::pick;
use crate::lb::balance::route::Rule;
use crate::lb::traffic::flow::{Answers, Rules};
use crate::lb::traffic::phase;
use crate::wire::proxy_header::parse::Versions;

/// Collects the settings that differ.
#[derive(Default)]
struct Differing(Vec<Setting>);

impl Differing {
    fn compare<T: PartialEq>(
        &mut self,
        key: &'static str,
        old: &T,
        new: &T,
        show: impl Fn(&T) -> String,
    ) {
        if old != new {
            self.0.push(Setting {
                key,
                from: show(old),
                to: show(new),
            });
        }
    }

    fn plain<T: PartialEq + ToString>(&mut self, key: &'static str, old: &T, new: &T) {
        self.compare(key, old, new, T::to_string);
    }

    fn time(&mut self, key: &'static str, old: &Duration, new: &Duration) {
        self.compare(key, old, new, |duration| show(*duration));
    }
}

pub(super) fn global(old: &Global, new: &Global) -> Vec<Setting> {
    let Global {
        workers,
        max_connections,
        drain_timeout,
        user,
        group,
        splice,
        admin_socket,
        exec_probes,
        sandbox,
        access_log,
        http,
    } = old;
    let mut found = Differing::default();
    found.compare("workers", workers, &new.workers, number_or_auto);
    found.compare(
        "max_connections",
        max_connections,
        &new.max_connections,
        number_or_auto,
    );
    found.time("drain_timeout", drain_timeout, &new.drain_timeout);
    found.compare("user", user, &new.user, text_or_empty);
    found.compare("group", group, &new.group, text_or_empty);
    found.compare("splice", splice, &new.splice, |splice| {
        splice_word(*splice).to_owned()
    });
    found.plain("admin_socket", admin_socket, &new.admin_socket);
    found.plain("exec_probes", exec_probes, &new.exec_probes);
    found.compare("sandbox", sandbox, &new.sandbox, |sandbox| {
        sandbox_word(*sandbox).to_owned()
    });
    found.compare("access_log", access_log, &new.access_log, |log| match log {
        None => "none".to_owned(),
        Some(log) => format!("{} ({})", log.output, log_format_word(log.format)),
    });
    found.compare("http", http, &new.http, |http| {
        text_or_empty(&http.map(|http| http.address))
    });
    found.0
}

pub(super) fn listener(old: &Listener, new: &Listener) -> Vec<Setting> {
    let Listener {
        name: _,
        bind,
        pool,
        max_connections,
        per_source: Limits { open, pace },
        allow,
        deny,
        accept_proxy,
        trusted,
        preread: Preread { timeout, size },
        routes,
    } = old;
    let mut found = Differing::default();
    found.compare("bind", bind, &new.bind, |binds| list(binds));
    found.plain("pool", pool, &new.pool);
    found.plain("max_connections", max_connections, &new.max_connections);
    let limits = &new.per_source;
    found.plain("max_connections_per_source", open, &limits.open);
    found.compare(
        "connection_rate_per_source",
        pace,
        &limits.pace,
        text_or_empty,
    );
    found.compare("allow", allow, &new.allow, |networks| list(networks));
    found.compare("deny", deny, &new.deny, |networks| list(networks));
    found.compare(
        "accept_proxy",
        accept_proxy,
        &new.accept_proxy,
        |versions| {
            let word = match versions {
                None => "off",
                Some(Versions::V1) => "v1",
                Some(Versions::V2) => "v2",
                Some(Versions::Any) => "any",
            };
            word.to_owned()
        },
    );
    found.compare("trusted", trusted, &new.trusted, |networks| list(networks));
    found.time("preread.timeout", timeout, &new.preread.timeout);
    found.plain("preread.size", size, &new.preread.size);
    found.compare("route", routes, &new.routes, |routes| {
        let words: Vec<_> = routes.iter().map(route_words).collect();
        list(&words)
    });
    found.0
}

fn route_words(route: &Route) -> String {
    let Rule {
        source,
        sni,
        alpn,
        http_host,
        http_path,
        http_header,
    } = &route.rule;
    let parts = [
        ("source", (!source.is_empty()).then(|| list(source))),
        ("sni", (!sni.is_empty()).then(|| list(sni))),
        ("alpn", (!alpn.is_empty()).then(|| list(alpn))),
        (
            "http_host",
            (!http_host.is_empty()).then(|| list(http_host)),
        ),
        (
            "http_path",
            (!http_path.is_empty()).then(|| list(http_path)),
        ),
        (
            "http_header",
            (!http_header.is_empty()).then(|| list(http_header)),
        ),
    ];
    let said = parts
        .into_iter()
        .filter_map(|(key, said)| Some(format!("{key} {} ", said?)));
    format!("{}→ {}", said.collect::<String>(), route.pool)
}

pub(super) fn pool(old: &Pool, new: &Pool) -> Vec<Setting> {
    let Pool {
        name: _,
        balance,
        connect_timeout,
        retries,
        idle_timeout,
        half_close_timeout,
        phase,
        lifetime,
        on_down,
        refuse,
        queue,
        sticky,
        discover,
        send_proxy,
        source,
        health,
        udp,
        backends,
    } = old;
    let mut found = Differing::default();
    balance_settings(balance, &new.balance, &mut found);
    found.time("connect_timeout", connect_timeout, &new.connect_timeout);
    found.plain("retries", retries, &new.retries);
    found.time("idle_timeout", idle_timeout, &new.idle_timeout);
    found.time(
        "half_close_timeout",
        half_close_timeout,
        &new.half_close_timeout,
    );
    let phase::Rules { linger, min_bytes } = phase;
    found.time("busy_linger", linger, &new.phase.linger);
    found.plain("busy_min_bytes", min_bytes, &new.phase.min_bytes);
    found.compare(
        "max_lifetime",
        &lifetime.most,
        &new.lifetime.most,
        time_or_none,
    );
    let jitter = &new.lifetime.jitter;
    found.compare(
        "max_lifetime_jitter",
        &lifetime.jitter,
        jitter,
        time_or_none,
    );
    found.compare("on_down", on_down, &new.on_down, on_down_word);
    found.compare("refuse", refuse, &new.refuse, |refuse| match refuse {
        Refuse::Reset => "reset".to_owned(),
        Refuse::Close => "close".to_owned(),
        Refuse::Bytes(bytes) => format!("bytes:{}", quoted(&String::from_utf8_lossy(bytes))),
    });
    queue_settings(queue, &new.queue, &mut found);
    sticky_settings(sticky, &new.sticky, &mut found);
    discover_settings(discover, &new.discover, &mut found);
    let send_proxy_word = |send_proxy: &SendProxy| match send_proxy {
        SendProxy::Off => "off".to_owned(),
        SendProxy::V1 => "v1".to_owned(),
        SendProxy::V2 => "v2".to_owned(),
    };
    found.compare("send_proxy", send_proxy, &new.send_proxy, send_proxy_word);
    found.compare("source", source, &new.source, source_word);
    health::compare(health, &new.health, &mut found);
    udp_settings(udp, &new.udp, &mut found);
    order(backends, &new.backends, &mut found);
    found.0
}

pub(super) fn backend(old: &Backend, new: &Backend) -> Vec<Setting> {
    let Backend {
        name: _,
        address,
        weight,
        max_connections,
        backup,
        server_id,
    } = old;
    let mut found = Differing::default();
    found.plain("address", address, &new.address);
    found.plain("weight", weight, &new.weight);
    found.plain("max_connections", max_connections, &new.max_connections);
    found.plain("backup", backup, &new.backup);
    found.compare("server_id", server_id, &new.server_id, text_or_empty);
    found.0
}

fn balance_settings(old: &pick::Settings, new: &pick::Settings, found: &mut Differing) {
    let pick::Settings {
        policy,
        hash_key,
        load_factor,
        fail_open,
        panic_threshold,
        counts,
        soft_connections,
        slow_start,
        outlier,
    } = old;
    found.compare("balance", policy, &new.policy, |policy| {
        policy.name().to_owned()
    });
    found.compare("hash_key", hash_key, &new.hash_key, |parts| {
        list(&parts.iter().map(key_part::word).collect::<Vec<_>>())
    });
    found.plain("load_factor", load_factor, &new.load_factor);
    found.plain("fail_open", fail_open, &new.fail_open);
    let threshold = &new.panic_threshold;
    found.plain("panic_threshold", panic_threshold, threshold);
    found.compare("limit_counts", counts, &new.counts, |counts| {
        match counts {
            Counts::Open => "open",
            Counts::Busy => "busy",
        }
        .to_owned()
    });
    let soft = &new.soft_connections;
    found.plain("soft_connections", soft_connections, soft);
    found.time("slow_start", slow_start, &new.slow_start);
    health::compare_outlier(outlier, &new.outlier, found);
}

fn sticky_settings(old: &Option<Sticky>, new: &Option<Sticky>, found: &mut Differing) {
    found.compare("sticky", old, new, |sticky| match sticky {
        None => "off".to_owned(),
        Some(Sticky {
            key,
            ttl,
            max_entries,
        }) => {
            let key: Vec<_> = key.iter().map(key_part::word).collect();
            format!("{} for {}, {max_entries} at most", list(&key), show(*ttl))
        }
    });
}

fn discover_settings(old: &Discover, new: &Discover, found: &mut Differing) {
    let Discover {
        origins,
        keeps_last,
        max_connections: _, // said of each backend that has it
    } = old;
    found.compare("discover", origins, &new.origins, |origins| list(origins));
    found.plain("discover.keep_last", keeps_last, &new.keeps_last);
}

fn queue_settings(old: &Queue, new: &Queue, found: &mut Differing) {
    let Queue {
        limits:
            queue::Limits {
                all,
                per_source,
                is_fair,
            },
        timeout,
        abort_on_close,
    } = old;
    found.plain("queue.limit", all, &new.limits.all);
    found.plain("queue.per_source", per_source, &new.limits.per_source);
    found.plain("queue.fair", is_fair, &new.limits.is_fair);
    found.time("queue.timeout", timeout, &new.timeout);
    found.plain("queue.abort_on_close", abort_on_close, &new.abort_on_close);
}

fn udp_settings(old: &Udp, new: &Udp, found: &mut Differing) {
    let Udp {
        rules:
            Rules {
                idle,
                answers,
                requests,
                amplification,
            },
        max_flows,
        new_flows_per_second,
        quic_server_id_length,
    } = old;
    found.time("udp.idle_timeout", idle, &new.rules.idle);
    found.compare(
        "udp.responses",
        answers,
        &new.rules.answers,
        |answers| match answers {
            Answers::None => "none".to_owned(),
            Answers::Any => "any".to_owned(),
            Answers::Each(number) => number.to_string(),
        },
    );
    found.plain("udp.requests", requests, &new.rules.requests);
    let limit = &new.rules.amplification;
    found.plain("udp.amplification_limit", amplification, limit);
    found.plain("udp.max_flows", max_flows, &new.max_flows);
    let rate = &new.new_flows_per_second;
    found.plain("udp.new_flows_per_second", new_flows_per_second, rate);
    let length = &new.quic_server_id_length;
    found.plain("udp.quic_server_id_length", quic_server_id_length, length);
}

/// The order of the backends that stay; `first` chooses by it.
fn order(old: &[Backend], new: &[Backend], found: &mut Differing) {
    let names = |backends: &[Backend], others: &[Backend]| -> Vec<String> {
        let others: std::collections::HashSet<&str> =
            others.iter().map(|backend| backend.name.as_str()).collect();
        let both = backends
            .iter()
            .filter(|backend| others.contains(backend.name.as_str()));
        both.map(|backend| backend.name.clone()).collect()
    };
    found.compare("order", &names(old, new), &names(new, old), |names| {
        list(names)
    });
}

fn list<T: ToString>(values: &[T]) -> String {
    // A list of thousands says no more in a log line than its beginning.
    const SHOWN: usize = 8;
    let mut texts: Vec<_> = values.iter().take(SHOWN).map(T::to_string).collect();
    if values.len() > SHOWN {
        texts.push("…".to_owned());
    }
    format!("[{}]", texts.join(", "))
}

fn time_or_none(time: &Duration) -> String {
    if time.is_zero() {
        "\"\"".to_owned()
    } else {
        show(*time)
    }
}

fn number_or_auto<T: ToString>(number: &Option<T>) -> String {
    number
        .as_ref()
        .map_or_else(|| "auto".to_owned(), T::to_string)
}

fn text_or_empty<T: ToString>(text: &Option<T>) -> String {
    text.as_ref()
        .map_or_else(|| "\"\"".to_owned(), T::to_string)
}

fn splice_word(splice: Splice) -> &'static str {
    match splice {
        Splice::Auto => "auto",
        Splice::Always => "always",
        Splice::Off => "off",
    }
}

fn sandbox_word(sandbox: Sandbox) -> &'static str {
    match sandbox {
        Sandbox::Auto => "auto",
        Sandbox::Files => "files",
        Sandbox::Strict => "strict",
        Sandbox::Off => "off",
    }
}

fn log_format_word(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

fn source_word(source: &Source) -> String {
    match source {
        Source::Any => "\"\"".to_owned(),
        Source::Address(address) => address.to_string(),
        Source::Client => "client".to_owned(),
    }
}

fn on_down_word(on_down: &OnDown) -> String {
    match on_down {
        OnDown::Keep => "keep".to_owned(),
        OnDown::Reset => "reset".to_owned(),
        OnDown::Drain(time) => format!("drain:{}", show(*time)),
    }
}
