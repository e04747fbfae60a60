//! Writes what the fuzzers begin with: `seeds FOLDER` makes a folder for each target.
//! The configurations of the repository are added by scripts/fuzz.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use evenkeel::wire::grpc::check_request;
use evenkeel::wire::proxy_header::{Ends, Header, Transport};
use rcgen::{CertificateParams, KeyPair};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

fn main() {
    let folder = std::env::args().nth(1).expect("the folder to write to");
    for (target, seeds) in [
        ("proxy_header", proxy_headers()),
        ("client_hello", client_hellos()),
        ("http_head", http_heads()),
        ("quic", quic()),
        ("grpc", grpc()),
        ("certificate", certificates()),
    ] {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder).expect("a folder to write to");
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).expect("a file to write to");
        }
    }
}

fn proxy_headers() -> Vec<Vec<u8>> {
    let ends = |source: &str, destination: &str| {
        Some(Ends {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
        })
    };
    let v4 = ends("192.0.2.1:4660", "198.51.100.2:443");
    let v6 = ends("[2001:db8::1]:65535", "[2001:db8::ffff:2]:0");
    let mixed = ends("[2001:db8::1]:1", "192.0.2.1:80");
    let mut seeds = Vec::new();
    for ends in [None, v4, v6, mixed] {
        seeds.push(Header::v1(ends).as_bytes().to_vec());
        for transport in [Transport::Stream, Transport::Datagram] {
            seeds.push(Header::v2(transport, ends).as_bytes().to_vec());
        }
    }
    // A checksum, an endpoint's id, and padding; addresses of Unix sockets; a health check.
    let with = |command: u8, family: u8, rest: &[u8]| {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [
            b"\r\n\r\n\0\r\nQUIT\n",
            &[command, family][..],
            &length,
            rest,
        ]
        .concat()
    };
    let mut cloud =
        b"\xac\x1f\x07q\xac\x1f\x0a\x1f\xc8\xf2\0P\x03\0\x04\xe8\xd6\x89\x2d\xea\0\x17\x01\
                      vpce-08d2bf15fac5001c9\x04\0\x24"
            .to_vec();
    cloud.resize(84, 0);
    seeds.push(with(0x21, 0x11, &cloud));
    seeds.push(with(
        0x21,
        0x31,
        &[&[b'/'; 216][..], b"\xe0\0\x01k"].concat(),
    ));
    seeds.push(with(0x20, 0x00, b"\0\0\x01\xff"));
    seeds.push(with(0x21, 0x00, b""));
    seeds.push(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\nGET / HTTP/1.1\r\n".to_vec());
    seeds.push(b"PROXY TCP6 ::ffff:192.0.2.1 1:2:3:4:5:6:7:8 1 2\r\n".to_vec());
    seeds
}

fn client_hellos() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (host, protocols, fragment) in [
        ("a.example", &["h2", "http/1.1"][..], None),
        ("api.long-name.example", &["h2"], Some(64)),
        ("192.0.2.1", &[], None),
    ] {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config
            .with_safe_default_protocol_versions()
            .expect("versions");
        let config = config.with_root_certificates(RootCertStore::empty());
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| (*name).into()).collect();
        config.max_fragment_size = fragment;
        let host = host.to_owned().try_into().expect("a name");
        let mut connection = ClientConnection::new(Arc::new(config), host).expect("a client");
        let mut bytes = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut bytes).expect("memory");
        }
        seeds.push(bytes);
    }
    seeds
}

fn http_heads() -> Vec<Vec<u8>> {
    [
        "GET / HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer x\r\n\r\n",
        "POST http://b.example:8080/v1/chat?x=1#y HTTP/1.0\r\nhost:[::1]:80\r\n\r\nbody",
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
        "OPTIONS * HTTP/1.1\nA:\nauthorization:\t \n\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    .map(|head| head.as_bytes().to_vec())
    .to_vec()
}

fn quic() -> Vec<Vec<u8>> {
    vec![
        b"\x41\x07\xc4\x60\x5e\x45\x04\xcc\x4fpayload".to_vec(),
        b"\xc3\0\0\0\x01\x08\x07\xc4\x60\x5e\x45\x04\xcc\x4f\0payload".to_vec(),
        b"00fF".to_vec(),
    ]
}

fn grpc() -> Vec<Vec<u8>> {
    vec![
        check_request("a.Service"),
        b"\0\0\0\0\x02\x08\x01".to_vec(),
        b"\0\0\0\0\x06\x12\x02ab\x08\x01".to_vec(),
        b"\0\0\0\0\x0e\x09aaaaaaaa\x15bbbb".to_vec(),
    ]
}

fn certificates() -> Vec<Vec<u8>> {
    let make = |year| {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 2, 29);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        certificate.der().to_vec()
    };
    vec![make(2028), make(2052)]
}
