//! Every id of the conformance list that the product covers so far, and where it is tested.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Ids that must have a case, or a reason in [`LEFT_OUT`].
const IDS: &[&str] = &[
    // The data path of TCP.
    "tcp_01", "tcp_02", "tcp_03", "tcp_04", "tcp_05", "tcp_06", "tcp_07", "tcp_09", "tcp_10",
    "tcp_11", "tcp_13", "tcp_14", "tcp_15", "tcp_16", "tcp_17", "tcp_19", "tcp_20", "tcp_21",
    "tcp_22", "tcp_23", "tcp_24", "tcp_25", "tcp_27", "tcp_28", "tcp_29", "tcp_30", "tcp_31",
    "tcp_32", // Connecting and trying again.
    "con_01", "con_02", "con_03", "con_04", "con_05", "con_06", "con_08", "con_09", "con_10",
    "con_11", "con_12", "con_14", "con_15", "con_16", "con_17", "con_18", "con_19",
    "con_20", // Back-pressure and limits.
    "res_01", "res_02", "res_04", "res_05", "res_06", "res_07", "res_08", "res_09", "res_10",
    "res_12", "res_13", "res_14", "res_15", "res_16", "res_17", "res_18", "res_19", "res_20",
    "res_21", // Time-outs.
    "tmo_01", "tmo_02", "tmo_04", "tmo_05", "tmo_06", "tmo_07", "tmo_08", "tmo_09", "tmo_10",
    // Health.
    "hlt_01", "hlt_02", "hlt_03", "hlt_04", "hlt_05", "hlt_06", "hlt_07", "hlt_08", "hlt_09",
    "hlt_10", "hlt_12", "hlt_13", "hlt_14", "hlt_15", "hlt_16", "hlt_17", "hlt_19", "hlt_20",
    "hlt_21", "hlt_22", "hlt_23", // Balancing.
    "bal_01", "bal_02", "bal_03", "bal_04", "bal_06", "bal_07", "bal_08", "bal_09", "bal_10",
    "bal_11", "bal_12", "bal_13", "bal_14", "bal_16", // Reload, drain, signals.
    "rld_01", "rld_02", "rld_03", "rld_04", "rld_05", "rld_06", "rld_07", "rld_08", "rld_09",
    "rld_11", "rld_12", "rld_13", "rld_16", "rld_17", "rld_18", "rld_25", "rld_26", "rld_27",
    "rld_28", "rld_33", "rld_34", // Datagrams.
    "udp_01", "udp_02", "udp_03", "udp_04", "udp_05", "udp_06", "udp_08", "udp_09", "udp_10",
    "udp_12", "udp_13", "udp_14", "udp_15", "udp_16", "udp_17", "udp_18", "udp_20", "udp_21",
    "udp_22", "udp_23", "udp_24", "udp_25", "udp_26", "udp_27", "udp_28", "udp_29", "udp_30",
    "udp_31", "udp_32", "udp_33", "udp_34", "udp_35", "udp_36", // The PROXY header.
    "ppx_01", "ppx_02", "ppx_03", "ppx_04", "ppx_05", "ppx_06", "ppx_07", "ppx_08", "ppx_09",
    "ppx_10", "ppx_12", "ppx_14", "ppx_15", "ppx_16", "ppx_17", "ppx_18", "ppx_19", "ppx_20",
    "ppx_21", "ppx_22", "ppx_23", "ppx_24", "ppx_25", // Configuration and command line.
    "cfg_01", "cfg_02", "cfg_03", "cfg_04", "cfg_05", "cfg_06", "cfg_07", "cfg_08", "cfg_10",
    // The admin socket and metrics.
    "adm_01", "adm_03", "adm_04", "adm_05", "adm_06", "adm_09",
    "adm_10", // Security and the environment.
    "sec_01", "sec_03", "sec_07",
];

/// Ids without a case, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "tcp_20",
        "there is no option for TCP Fast Open; a listener without it never sees data in a SYN",
    ),
    (
        "tcp_23",
        "reordering needs a relay on a TUN device; the kernel's TCP hides it from every socket, \
                and loss (tcp_22) makes it reorder as well",
    ),
    (
        "res_10",
        "there is no setting for pipes: their number follows from the limit on open files",
    ),
    (
        "res_14",
        "an allocation that fails ends the process, which the service manager starts again; \
                nothing is tried in between",
    ),
    ("res_18", "there is no limit on bandwidth"),
];

fn case_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["tests/suite", "src"] {
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap_or_default();
                let functions = text
                    .lines()
                    .filter_map(|line| line.trim().strip_prefix("fn "));
                names.extend(functions.map(|line| line.split('(').next().unwrap().to_owned()));
            }
        }
    }
    names
}

#[test]
fn every_id_has_a_case_or_a_reason() {
    let names = case_names();
    let mut wrong = Vec::new();
    for id in IDS {
        let has_case = names.iter().any(|name| name.starts_with(&format!("{id}_")));
        let is_left_out = LEFT_OUT.iter().any(|(other, _)| other == id);
        match (has_case, is_left_out) {
            (false, false) => wrong.push(format!("{id} has neither a case nor a reason")),
            (true, true) => wrong.push(format!("{id} is left out and has a case")),
            _ => {}
        }
    }
    for (id, _) in LEFT_OUT {
        if !IDS.contains(id) {
            wrong.push(format!("{id} is left out of nothing"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
