//! What is set of the process, as it is written.

use std::path::Path;

use super::name;
use crate::config::address;
use crate::config::error::{Problems, Wrong};
use crate::config::keys::{self, quoted};
use crate::config::plan::{
    AccessLog, AdminSocket, Global, HttpAddress, LogFormat, Output, Sandbox, Splice,
};
use crate::config::reader::Reader;

pub(super) fn global(reader: &Reader<'_>, problems: &Problems) -> Global {
    let account = |key| {
        let read = |text: &str| {
            if text.is_empty() {
                Ok(None)
            } else {
                name(text).map(Some)
            }
        };
        reader.parsed(key, read).and_then(|found| found.value)
    };
    Global {
        workers: reader.auto_or("workers"),
        max_connections: reader.auto_or("max_connections"),
        drain_timeout: reader.duration("drain_timeout").value,
        user: account("user"),
        group: account("group"),
        splice: match reader.word("splice").value {
            "always" => Splice::Always,
            "off" => Splice::Off,
            _ => Splice::Auto,
        },
        exec_probes: reader.flag("exec_probes"),
        sandbox: match reader.word("sandbox").value {
            "files" => Sandbox::Files,
            "strict" => Sandbox::Strict,
            "off" => Sandbox::Off,
            _ => Sandbox::Auto,
        },
        admin_socket: admin_socket(reader),
        access_log: access_log(&reader.table("access_log", &keys::ACCESS_LOG), problems),
        http: http(reader),
    }
}

fn admin_socket(reader: &Reader<'_>) -> AdminSocket {
    let path = |text: &str| match text {
        "" => Ok(AdminSocket::Off),
        path => address::unix_path(text, path, "/PATH").map(AdminSocket::At),
    };
    match reader.parsed("admin_socket", path) {
        Some(written) if written.given => written.value,
        _ => AdminSocket::Default,
    }
}

fn http(reader: &Reader<'_>) -> Option<HttpAddress> {
    let parse = |text: &str| match text {
        "" => Ok(None),
        text => address::ip_and_port(text).map(Some),
    };
    let written = reader.parsed("http", parse)?;
    Some(HttpAddress {
        address: written.value?,
        is_default: !written.given,
    })
}

fn access_log(reader: &Reader<'_>, problems: &Problems) -> Option<AccessLog> {
    let output = |text: &str| match text {
        "" => Ok(None),
        "-" => Ok(Some(Output::Stdout)),
        path if Path::new(path).is_absolute() && !path.contains(char::is_control) => {
            Ok(Some(Output::File(path.into())))
        }
        other => Err(Wrong::new(
            format!("{} is no absolute path", quoted(other)),
            "write \"-\" or an absolute path",
        )),
    };
    let written = reader.word("format");
    let format = match written.value {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    };
    let path = reader.parsed("path", output)?;
    if written.given && reader.place("path") == reader.at() {
        let cure = "write path = \"-\" or an absolute path";
        problems.value(written.at, Wrong::new("`format` without `path`", cure));
    }
    let output = path.value?;
    Some(AccessLog { output, format })
}
