//! Probes by programs.

use std::fs;
use std::path::Path;

use super::{DOWN_FOR_GOOD, often, probed};
use crate::harness::proxy::Folder;
use crate::harness::{Axis, Config, Family, Proxy, Served, served, until};

/// Probes by a script of the shell, which is allowed to run.
fn script(config: Config, script: &str) -> Config {
    config.global("exec_probes = true").health(&format!(
        "command = [\"/bin/sh\", \"-c\", '''{script}''', \"name\"]"
    ))
}

#[test]
fn hlt_23_no_program_runs_unless_the_file_says_so_twice() {
    let folder = Folder::new();
    let ran = folder.path().join("ran");
    let backend = Served::echo(Family::V4);
    // Without a sandbox, which would refuse what comes after a start without programs.
    let plain = Config::of(Axis::PLAIN, &[backend.address]).global("sandbox = \"off\"");
    let command = format!("touch {}", ran.display());
    let allowed = probed(Axis::PLAIN, "exec", &[&backend]).global("sandbox = \"off\"");
    let allowed = script(allowed, &command);
    let mut proxy = Proxy::start(&plain);
    proxy.expect("reload failed");
    let refused = allowed.clone().global("exec_probes = false");
    let answer = proxy.reload(&refused).unwrap_err();
    assert!(
        answer.contains("set exec_probes = true in [global]"),
        "{answer}"
    );
    let quick = allowed.health("interval = \"100ms\"");
    let quick = quick.health("timeout = \"100ms\"");
    // Allowed, and not asked for.
    proxy.reload(&plain.global("exec_probes = true")).unwrap();
    served(proxy.front());
    assert!(!ran.exists());
    proxy.reload(&quick).unwrap();
    until("it runs", || ran.exists());
    proxy.finish();
}

#[test]
fn hlt_03_a_program_says_why_a_backend_is_not_well() {
    let backends = [(); 4].map(|()| Served::echo(Family::V4));
    let all: Vec<&Served> = backends.iter().collect();
    let config = probed(Axis::PLAIN, "exec", &all).health(DOWN_FOR_GOOD);
    // The last one sleeps with a child, which must not outlive it.
    let sleeper = format!("sleep 1{:05}", std::process::id() % 100_000);
    let config = script(
        config,
        &format!(
            "case $EVENKEEL_BACKEND in a) exit 0;; b) exit 7;; c) kill -9 $$;; \
             d) {sleeper} & wait;; esac"
        ),
    );
    let mut proxy = Proxy::start(&config);
    proxy.expect("is down: ");
    proxy.log.wait_down([
        ("b", "/bin/sh: exit status: 7"),
        ("c", "/bin/sh: signal: 9 (SIGKILL)"),
        ("d", "no answer within 1s"),
    ]);
    assert_eq!(proxy.log.count("is down"), 3);
    until("those that slept are dead", || !is_running(&sleeper));
    until("all of ours are waited for", || {
        children(proxy.id()).is_empty()
    });

    let gone = often(Config::of(Axis::PLAIN, &[backends[0].address]), "exec")
        .global("exec_probes = true")
        .health("command = [\"/nonexistent/check\"]");
    proxy.reload(&gone).unwrap();
    proxy.log.wait_text(
        "backend \"pool/a\" is down: /nonexistent/check cannot be run: No such file or directory",
    );
    proxy.finish();
}

/// The processes that process `id` has started and not waited for.
fn children(id: u32) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap();
    let all =
        processes.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    // After the name, in brackets: the state, and who started it.
    let is_child = |stat: &String| {
        let (_, after) = stat.rsplit_once(") ").unwrap();
        after.split(' ').nth(1) == Some(&id.to_string())
    };
    all.filter(is_child).collect()
}

/// Whether a process with these arguments runs.
fn is_running(command: &str) -> bool {
    let wanted = command.replace(' ', "\0") + "\0";
    let processes = fs::read_dir("/proc").unwrap();
    let commands = processes.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    commands.into_iter().any(|line| line == wanted.as_bytes())
}

/// What the program is given: nothing but what is told.
#[test]
fn hlt_06_a_program_is_told_which_backend_it_looks_at() {
    for (family, ip) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
        let folder = Folder::new();
        let backend = Served::echo(family);
        let axis = Axis::plain(family);
        let told = folder.path().join("told");
        let config = script(
            probed(axis, "exec", &[&backend]).health("initial = \"down\""),
            &format!(
                "{{ env; pwd; echo $0; ls -l /proc/self/fd; cat; }} > {0}.new; mv {0}.new {0}",
                told.display()
            ),
        );
        let proxy = Proxy::start_with(&config, |mut command| {
            command.env("EVENKEEL_SECRET", "x");
            command
        });
        proxy.log.wait_text("backend \"pool/a\" is up");
        let told = fs::read_to_string(&told).unwrap();
        let lines: Vec<&str> = told.lines().collect();
        for line in [
            "EVENKEEL_POOL=pool".to_owned(),
            "EVENKEEL_BACKEND=a".to_owned(),
            format!("EVENKEEL_HOST={ip}"),
            format!("EVENKEEL_ADDRESS={ip}"),
            format!("EVENKEEL_PORT={}", backend.address.port()),
            "/".to_owned(),
            "name".to_owned(),
        ] {
            assert!(lines.contains(&line.as_str()), "{line} in {told}");
        }
        assert!(!told.contains("SECRET"), "{told}");
        // Of the descriptors that it has, none is of a kind that we open.
        assert!(told.contains(" -> /dev/null"), "{told}");
        assert!(
            !told.contains("socket:") && !told.contains("anon_inode:"),
            "{told}"
        );
        assert_eq!(backend.served(), 0, "nobody connects but the program");
        proxy.finish();
    }
}

#[test]
fn hlt_19_a_reload_ends_the_programs_of_probes_that_go() {
    let folder = Folder::new();
    let started = folder.path().join("started");
    let backend = Served::echo(Family::V4);
    let sleeper = format!("sleep 2{:05}", std::process::id() % 100_000);
    let config = probed(Axis::PLAIN, "exec", &[&backend])
        .health("interval = \"1d\"")
        .health("fast_interval = \"1d\"")
        .health("timeout = \"1d\"");
    // The first probe comes at once: a failed connect asks for it.
    let config = script(config, &format!("touch {}; {sleeper}", started.display()));
    let mut backend = backend;
    backend.kill();
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    proxy.expect("client refused");
    proxy.expect("reload failed");
    crate::harness::refused(proxy.front());
    until("the program runs", || {
        Path::exists(&started) && is_running(&sleeper)
    });
    proxy
        .reload(&config.health("type = \"none\"").health("x = 1"))
        .unwrap_err();
    assert!(is_running(&sleeper), "nothing has changed");
    proxy
        .reload(&Config::of(Axis::PLAIN, &[backend.address]))
        .unwrap();
    until("the program is dead", || !is_running(&sleeper));
    proxy.finish();
}
