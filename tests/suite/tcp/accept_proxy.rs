//! Listeners behind another proxy, which says by a PROXY header for whom it comes.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::proxy_protocol::{DATAGRAMS, SIGNATURE, STREAMS, v1, v2, v2_local};
use crate::harness::stream::{is_reset, is_silent_for};
use crate::harness::{
    Axis, Config, End, Family, Listening, Payload, Proxy, connect, on_every_axis, read_all, until,
};

const REFUSED: &str = "refused: its PROXY header: ";

/// Addresses of somebody far away.
fn far(family: Family) -> (SocketAddr, SocketAddr) {
    let [source, destination] = match family {
        Family::V4 => ["192.0.2.7:51000", "198.51.100.1:443"],
        Family::V6 => ["[2001:db8::7]:51000", "[2001:db8:1::1]:443"],
    };
    (source.parse().unwrap(), destination.parse().unwrap())
}

/// A listener that wants this version, before a backend that is told what it says.
fn config(axis: Axis, version: &str, backend: &Listening) -> Config {
    Config::of(axis, &[backend.address])
        .listener(&format!("accept_proxy = \"{version}\""))
        .pool("send_proxy = \"v2\"")
}

/// Fails unless the backend gets exactly this and an end.
#[track_caller]
fn gets(backend: &Listening, expected: &[u8]) {
    let mut server = backend.accept();
    let (bytes, end) = read_all(&mut server);
    assert_eq!(
        bytes.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
    assert_eq!(end, End::Fin);
}

/// Says something and has finished.
#[track_caller]
fn say(front: SocketAddr, pieces: &[&[u8]]) -> TcpStream {
    let mut client = connect(front);
    for piece in pieces {
        client.write_all(piece).unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
    client
}

/// Fails unless somebody who says this is reset.
#[track_caller]
fn is_refused(front: SocketAddr, bytes: &[u8]) {
    let mut client = connect(front);
    match client.write_all(bytes) {
        Ok(()) => {}
        Err(error) => assert!(is_reset(&error), "{error}"),
    }
    let what = bytes.escape_ascii();
    assert_eq!(read_all(&mut client), (vec![], End::Reset), "{what}");
}

fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// Version 2 with extensions behind the addresses.
fn v2_with(family: Family, extensions: &[u8]) -> Vec<u8> {
    let (source, destination) = far(family);
    lengthen(&v2(STREAMS, source, destination), extensions)
}

/// A binary header with so much more in it.
fn lengthen(header: &[u8], more: &[u8]) -> Vec<u8> {
    let mut bytes = [header, more].concat();
    let length = u16::try_from(bytes.len() - 16).unwrap();
    bytes[14..16].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// The checksum of Castagnoli, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    })
}

#[test]
fn ppx_01_the_addresses_of_version_1_are_believed() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        for version in ["v1", "any"] {
            let proxy = Proxy::start(&config(axis, version, &backend));
            for family in [Family::V4, Family::V6] {
                let (source, destination) = far(family);
                let payload = Payload::new(3).bytes(100_000);
                let header = v1(source, destination);
                let expected = [v2(STREAMS, source, destination), payload.clone()].concat();
                std::thread::scope(|threads| {
                    threads.spawn(|| drop(say(proxy.front(), &[&header, &payload])));
                    gets(&backend, &expected);
                });
            }
            let totals = proxy.finish();
            assert_eq!(totals.front("refused"), 0);
        }
    });
}

#[test]
fn ppx_02_unknown_keeps_the_real_addresses() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&config(axis, "v1", &backend));
        for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ::1 what ever\r\n"] {
            let client = say(proxy.front(), &[line.as_bytes(), b"hello"]);
            let real = v2(STREAMS, client.local_addr().unwrap(), proxy.front());
            gets(&backend, &[&real[..], b"hello"].concat());
        }
        proxy.finish();
    });
}

#[test]
fn ppx_03_a_line_has_107_bytes_and_no_more() {
    let backend = Listening::start(Family::V4);
    let mut proxy = Proxy::start(&config(Axis::PLAIN, "v1", &backend));
    proxy.expect(REFUSED);
    let line = |length: usize| {
        let filler = "x".repeat(length - "PROXY UNKNOWN \r\n".len());
        format!("PROXY UNKNOWN {filler}\r\n").into_bytes()
    };
    let client = say(proxy.front(), &[&line(107), b"hello"]);
    let real = v2(STREAMS, client.local_addr().unwrap(), proxy.front());
    gets(&backend, &[&real[..], b"hello"].concat());
    is_refused(proxy.front(), &line(108));
    // It is not waited for the end of a line that is too long.
    is_refused(proxy.front(), &line(109)[..107]);
    assert!(backend.try_accept().is_none());
    proxy.finish();
}

#[test]
fn ppx_04_a_malformed_line_is_refused_and_nothing_of_it_goes_on() {
    let backend = Listening::start(Family::V4);
    let mut proxy = Proxy::start(&config(Axis::PLAIN, "any", &backend));
    proxy.expect(REFUSED);
    let wrong = [
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
        "PROXY TCP4 2001:db8::1 198.51.100.1 1 2\r\n",
        "PROXY TCP5 192.0.2.7 198.51.100.1 1 2\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 1 2\r\n",
        "proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
    ];
    for line in wrong {
        is_refused(proxy.front(), line.as_bytes());
    }
    let endless = "PROXY TCP4 192.0.2.7 ".to_owned() + &"1".repeat(107);
    is_refused(proxy.front(), endless.as_bytes());
    assert!(backend.try_accept().is_none());
    let totals = proxy.finish();
    assert_eq!(totals.front("refused proxy header:"), 13);
}

#[test]
fn ppx_05_a_header_may_come_in_pieces() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&config(axis, "any", &backend));
        let (source, destination) = far(axis.family);
        let told = v2(STREAMS, source, destination);
        for header in [v1(source, destination), told.clone()] {
            let single: Vec<&[u8]> = header.chunks(1).collect();
            drop(say(proxy.front(), &single));
            gets(&backend, &told);
            for place in 1..header.len() {
                let (start, end) = header.split_at(place);
                drop(say(proxy.front(), &[start, &[end, b"hello"].concat()]));
                gets(&backend, &[&told[..], b"hello"].concat());
            }
        }
        proxy.finish();
    });
}

#[test]
fn ppx_15_each_piece_is_waited_for() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&config(axis, "v2", &backend));
        let (source, destination) = far(axis.family);
        let header = v2(STREAMS, source, destination);
        let mut client = connect(proxy.front());
        for piece in header.chunks(5) {
            assert!(backend.try_accept().is_none());
            client.write_all(piece).unwrap();
            let last = std::ptr::eq(piece.as_ptr_range().end, header.as_ptr_range().end);
            if !last {
                is_silent_for(&mut client, Duration::from_millis(5));
            }
        }
        let mut server = backend.accept();
        let mut got = vec![0; header.len()];
        server.read_exact(&mut got).unwrap();
        assert_eq!(got, header);
        // The backend may speak first.
        server.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        drop((client, server));
        proxy.finish();
    });
}

#[test]
fn ppx_06_extensions_are_skipped() {
    let backend = Listening::start(Family::V4);
    let proxy = Proxy::start(&config(Axis::PLAIN, "v2", &backend));
    let many: Vec<u8> = (0..50)
        .flat_map(|n| extension(0xe0 + n % 16, &[n; 200]))
        .collect();
    for family in [Family::V4, Family::V6] {
        let (source, destination) = far(family);
        let told = v2(STREAMS, source, destination);
        for extensions in [&[][..], &extension(4, b""), &extension(0xea, b"vpc"), &many] {
            drop(say(
                proxy.front(),
                &[&v2_with(family, extensions), b"hello"],
            ));
            gets(&backend, &[&told[..], b"hello"].concat());
        }
        // Somebody who reached the other proxy by datagrams is the same client.
        drop(say(proxy.front(), &[&v2(DATAGRAMS, source, destination)]));
        gets(&backend, &told);
    }
    proxy.finish();
}

#[test]
fn ppx_07_a_connection_of_the_proxy_itself_stays_one() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&config(axis, "v2", &backend));
        let with_extension = lengthen(&v2_local(), &extension(3, &[0xfd, 0x16, 0xee, 0x60]));
        for header in [v2_local(), with_extension] {
            drop(say(proxy.front(), &[&header, b"check"]));
            gets(&backend, &[&v2_local()[..], b"check"].concat());
        }
        proxy.finish();
    });
}

#[test]
fn ppx_08_a_connection_of_the_proxy_itself_is_nobodys_in_version_1() {
    let backend = Listening::start(Family::V4);
    let proxy = Proxy::start(&config(Axis::PLAIN, "any", &backend).pool("send_proxy = \"v1\""));
    drop(say(proxy.front(), &[&v2_local(), b"check"]));
    gets(&backend, b"PROXY UNKNOWN\r\ncheck");
    proxy.finish();
}

/// Fails unless each of these binary headers is refused.
#[track_caller]
fn are_refused(wrong: &[Vec<u8>]) {
    let backend = Listening::start(Family::V4);
    let mut proxy = Proxy::start(&config(Axis::PLAIN, "v2", &backend));
    proxy.expect(REFUSED);
    for header in wrong {
        is_refused(proxy.front(), header);
    }
    assert!(backend.try_accept().is_none());
    let totals = proxy.finish();
    assert_eq!(totals.front("refused proxy header:"), wrong.len() as u64);
}

/// Version 2 with another byte somewhere.
fn with(family: Family, place: usize, value: u8) -> Vec<u8> {
    let mut header = v2_with(family, &[]);
    header[place] = value;
    header
}

#[test]
fn ppx_09_a_binary_header_must_have_room_for_its_addresses() {
    are_refused(&[with(Family::V4, 15, 0x0b), with(Family::V6, 15, 0x23)]);
}

#[test]
fn ppx_10_an_extension_must_end_within_the_header() {
    let mut beyond = extension(4, b"12");
    beyond[2] = 3;
    are_refused(&[v2_with(Family::V4, &beyond), v2_with(Family::V4, &[4, 0])]);
}

#[test]
fn ppx_12_unknown_versions_commands_and_families_are_refused() {
    let wrong = [(12, 0x29), (12, 0x91), (13, 0x91), (13, 0x19)];
    are_refused(&wrong.map(|(place, value)| with(Family::V4, place, value)));
}

#[test]
fn ppx_14_a_huge_header_is_refused_by_its_length() {
    let backend = Listening::start(Family::V4);
    let mut proxy = Proxy::start(&config(Axis::PLAIN, "v2", &backend));
    proxy.expect(REFUSED);
    let mut header = v2_with(Family::V4, &[]);
    header[14..16].copy_from_slice(&[0xff, 0xff]);
    is_refused(proxy.front(), &header[..16]);
    // The longest that is read.
    let filler = vec![0; 16 * 1024 - 16 - 12 - 3];
    drop(say(
        proxy.front(),
        &[&v2_with(Family::V4, &extension(4, &filler))],
    ));
    let (source, destination) = far(Family::V4);
    gets(&backend, &v2(STREAMS, source, destination));
    proxy.finish();
}

#[test]
fn tmo_08_a_header_that_never_completes_is_not_waited_for() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let config = config(axis, "any", &backend).listener("preread = { timeout = \"300ms\" }");
        let mut proxy = Proxy::start(&config);
        proxy.expect(REFUSED);
        let quiet = proxy.open_descriptors();
        let start = Instant::now();
        let mut silent = connect(proxy.front());
        let mut slow = connect(proxy.front());
        slow.write_all(&SIGNATURE[..5]).unwrap();
        for client in [&mut silent, &mut slow] {
            assert_eq!(read_all(client), (vec![], End::Reset));
        }
        assert!(start.elapsed() >= Duration::from_millis(250));
        // One that ends is not waited for at all.
        let mut ended = say(proxy.front(), &[b"PROXY "]);
        assert_eq!(read_all(&mut ended), (vec![], End::Reset));
        proxy.wait_open(quiet);
        let totals = proxy.finish();
        assert_eq!(totals.front("refused proxy header:"), 3);
    });
}

#[test]
fn ppx_16_a_checksum_must_hold() {
    let backend = Listening::start(Family::V4);
    let mut proxy = Proxy::start(&config(Axis::PLAIN, "v2", &backend));
    proxy.expect(REFUSED);
    let more = [extension(3, &[0; 4]), extension(4, b"more")].concat();
    let mut header = v2_with(Family::V4, &more);
    let checksum = crc32c(&header).to_be_bytes();
    header[31..35].copy_from_slice(&checksum);
    drop(say(proxy.front(), &[&header]));
    let (source, destination) = far(Family::V4);
    gets(&backend, &v2(STREAMS, source, destination));
    for place in [16, 31, 41] {
        let mut wrong = header.clone();
        wrong[place] ^= 1;
        is_refused(proxy.front(), &wrong);
    }
    assert!(backend.try_accept().is_none());
    proxy.finish();
}

#[test]
fn ppx_17_a_header_is_required_and_of_the_version_that_is_wanted() {
    let backend = Listening::start(Family::V4);
    let (source, destination) = far(Family::V4);
    let [one, two] = [v1(source, destination), v2(STREAMS, source, destination)];
    for (version, wrong) in [
        ("v1", &two[..]),
        ("v2", &one),
        ("any", b"GET / HTTP/1.1\r\n\r\n"),
    ] {
        let mut proxy = Proxy::start(&config(Axis::PLAIN, version, &backend));
        proxy.expect(REFUSED);
        is_refused(proxy.front(), wrong);
        is_refused(proxy.front(), b"X");
        assert!(backend.try_accept().is_none());
        proxy.finish();
    }
}

#[test]
fn ppx_18_without_the_setting_a_header_is_like_any_other_byte() {
    let backend = Listening::start(Family::V4);
    let proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
    let (source, destination) = far(Family::V4);
    for header in [v1(source, destination), v2(STREAMS, source, destination)] {
        drop(say(proxy.front(), &[&header]));
        gets(&backend, &header);
    }
    proxy.finish();
}

#[test]
fn ppx_19_only_trusted_sources_are_believed() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let (source, destination) = far(axis.family);
        let header = v2(STREAMS, source, destination);
        for (trusted, is_believed) in [(axis.family.ip(), true), (source.ip(), false)] {
            let config =
                config(axis, "v2", &backend).listener(&format!("trusted = [\"{trusted}\"]"));
            let mut proxy = Proxy::start(&config);
            if is_believed {
                drop(say(proxy.front(), &[&header]));
                gets(&backend, &header);
            } else {
                let real = axis.family.ip();
                proxy.expect(&format!("client {real} refused: it is not in `trusted`"));
                crate::harness::refused(proxy.front());
                assert!(backend.try_accept().is_none());
            }
            let totals = proxy.finish();
            assert_eq!(totals.front("refused"), u64::from(!is_believed));
        }
    });
}

#[test]
fn who_is_announced_is_who_limits_and_networks_are_for() {
    let backend = Listening::start(Family::V4);
    let (_, destination) = far(Family::V4);
    let header = |last| {
        v2(
            STREAMS,
            (Ipv4Addr::new(192, 0, 2, last), 1).into(),
            destination,
        )
    };
    let config = config(Axis::PLAIN, "v2", &backend)
        .listener("deny = [\"192.0.2.66\"]")
        .listener("max_connections_per_source = 1");
    let mut proxy = Proxy::start(&config);
    proxy.expect("max_connections_per_source is reached");
    let mut held = connect(proxy.front());
    held.write_all(&header(1)).unwrap();
    let mut server = backend.accept();
    server.read_exact(&mut vec![0; header(1).len()]).unwrap();
    is_refused(proxy.front(), &header(66));
    is_refused(proxy.front(), &header(1));
    drop(say(proxy.front(), &[&header(2)]));
    gets(&backend, &header(2));
    drop((held, server));
    let totals = proxy.finish();
    assert_eq!(totals.front("refused denied:"), 1);
    assert_eq!(totals.front("refused source limit:"), 1);
}

#[test]
fn an_announced_client_finds_the_backend_of_its_address() {
    let backends = [(); 8].map(|()| Listening::start(Family::V4));
    let addresses = backends.each_ref().map(|one| one.address);
    let config = Config::of(Axis::PLAIN, &addresses)
        .listener("accept_proxy = \"any\"")
        .pool("hash_key = [\"source_ip\"]");
    let proxy = Proxy::start(&config);
    let (_, destination) = far(Family::V4);
    let mut served = std::collections::HashMap::<IpAddr, usize>::new();
    for n in 0..60 {
        let source = Ipv4Addr::new(192, 0, 2, n % 20);
        let mut client = connect(proxy.front());
        let header = v1((source, 1000 + u16::from(n)).into(), destination);
        client.write_all(&header).unwrap();
        let mut place = None;
        until("a connection at a backend", || {
            place = backends.iter().position(|one| one.try_accept().is_some());
            place.is_some()
        });
        let first = served
            .entry(source.into())
            .or_insert_with(|| place.unwrap());
        assert_eq!(*first, place.unwrap());
    }
    let used: std::collections::HashSet<_> = served.values().collect();
    assert!(used.len() > 3, "20 clients and {used:?}");
    proxy.finish();
}

#[test]
fn a_header_is_read_to_its_end_whatever_is_reloaded_meanwhile() {
    on_every_axis(|axis| {
        let [first, second] = [(); 2].map(|()| Listening::start(axis.family));
        let (source, destination) = far(axis.family);
        let header = v2(STREAMS, source, destination);
        let with = |pool: &str, denied: &str| {
            let spare = format!(
                "[[listener]]\nname = \"spare\"\nbind = \"127.0.0.1:0\"\npool = \"{}\"\n\
                 [pool.other]\nhealth = {{ type = \"none\" }}\nsend_proxy = \"v2\"\n\
                 [[pool.other.backend]]\naddress = \"{}\"\n",
                if pool == "pool" { "other" } else { "pool" },
                second.address
            );
            let config = config(axis, "v2", &first).listener(&format!("deny = [{denied}]"));
            let text = config.more(&spare).text();
            text.replacen("\"pool\"", &format!("\"{pool}\""), 1)
        };
        let before = with("pool", &format!("\"{}\"", source.ip()));
        let mut proxy = Proxy::start(&config(axis, "v2", &first));
        proxy.expect("refused");
        proxy.write(before.as_bytes());
        proxy.reload_file().unwrap();
        proxy.rebase();
        let mut denied = connect(proxy.front());
        denied.write_all(&header[..20]).unwrap();
        is_silent_for(&mut denied, Duration::from_millis(20));
        proxy.write(with("other", &format!("\"{}\"", source.ip())).as_bytes());
        proxy.reload_file().unwrap();
        let mut welcome = connect(proxy.front());
        let own = v2(STREAMS, destination, source);
        welcome.write_all(&own[..20]).unwrap();
        is_silent_for(&mut welcome, Duration::from_millis(20));
        proxy.write(with("pool", "").as_bytes());
        proxy.reload_file().unwrap();
        drop(denied.write_all(&header[20..]));
        assert_eq!(read_all(&mut denied), (vec![], End::Reset));
        welcome.write_all(&own[20..]).unwrap();
        welcome.shutdown(Shutdown::Write).unwrap();
        gets(&first, &own);
        assert!(second.try_accept().is_none());
        drop(welcome);
        proxy.finish();
    });
}
