//! Datagrams in batches: several in one system call, and trains of equal datagrams in one buffer
//! (UDP_GRO in, UDP_SEGMENT out), with the addresses and the congestion mark they came with.
#![expect(
    unsafe_code,
    reason = "recvmmsg with control messages, which no wrapper can repeat"
)]

use std::fmt;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{self as calls, ControlMessage, MsgFlags, SockaddrStorage, sendmsg, sendto};

/// Room for one batch, used again for each.
pub struct Batch {
    buffer: Box<[u8]>,
    names: Box<[MaybeUninit<libc::sockaddr_storage>; SLOTS]>,
    controls: Box<[Control; SLOTS]>,
    received: [Meta; SLOTS],
}

/// A datagram, or a train of datagrams of one size of which the last may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// The address of ours that it was sent to, where the socket tells.
    pub to: Option<IpAddr>,
    /// The payload.
    pub train: Train<'a>,
    /// More was sent than fits: this is not what the sender sent.
    pub is_cut: bool,
}

/// One or more datagrams in a row.
#[derive(Clone, Copy, Debug)]
pub struct Train<'a> {
    /// All of them.
    pub bytes: &'a [u8],
    /// Bytes of each but the last; at least as many as there are bytes for a datagram alone.
    pub segment: usize,
    /// Explicit congestion notification (RFC 3168): the mark they came with, 0 = none.
    pub ecn: u8,
}

impl<'a> Train<'a> {
    /// How many datagrams it is.
    pub fn count(&self) -> u32 {
        let count = self.bytes.len().div_ceil(self.segment.max(1)).max(1);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Each datagram alone.
    pub fn singles(self) -> impl Iterator<Item = Train<'a>> {
        let alone = move |bytes| Train {
            bytes,
            segment: usize::MAX,
            ..self
        };
        let is_empty = self.bytes.is_empty();
        let chunks = self.bytes.chunks(self.segment.max(1)).map(alone);
        chunks.chain(is_empty.then(|| alone(&[])))
    }

    fn is_single(&self) -> bool {
        self.bytes.len() <= self.segment
    }
}

#[derive(Clone, Copy)]
struct Meta {
    from: SocketAddr,
    to: Option<IpAddr>,
    length: usize,
    segment: usize,
    ecn: u8,
    is_cut: bool,
}

impl Meta {
    const NONE: Self = Self {
        from: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
        to: None,
        length: 0,
        segment: usize::MAX,
        ecn: 0,
        is_cut: false,
    };
}

/// Room for the control messages of one datagram, aligned as their headers are.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

impl Batch {
    /// Room for [`SLOTS`] datagrams or trains of any size; the kernel gives the memory as it is used.
    pub fn new() -> Self {
        Self {
            buffer: vec![0; SLOTS * SLOT_BYTES].into_boxed_slice(),
            names: Box::new([const { MaybeUninit::uninit() }; SLOTS]),
            controls: Box::new([Control([0; CONTROL_BYTES]); SLOTS]),
            received: [Meta::NONE; SLOTS],
        }
    }

    /// Receives what is waiting, as far as there is room: fewer than [`SLOTS`] means that the socket
    /// is empty. Errors: `WouldBlock` when nothing was waiting, and what the network has reported
    /// about a connected socket, which the kernel forgets with this call.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut vectors = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; SLOTS];
        // SAFETY: a mmsghdr is numbers and pointers only, and all of them may be zero.
        let mut headers: [libc::mmsghdr; SLOTS] = unsafe { std::mem::zeroed() };
        let slots = self.buffer.chunks_exact_mut(SLOT_BYTES);
        let rooms = self.names.iter_mut().zip(self.controls.iter_mut());
        for (((header, vector), slot), (name, control)) in
            headers.iter_mut().zip(&mut vectors).zip(slots).zip(rooms)
        {
            vector.iov_base = slot.as_mut_ptr().cast();
            vector.iov_len = slot.len();
            let header = &mut header.msg_hdr;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_namelen = NAME_BYTES;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES;
        }
        let slots = u32::try_from(SLOTS).expect("a small constant");
        let no_time = std::ptr::null_mut();
        // SAFETY: each header points to a buffer, a name and control room of its own that outlive the
        // call, with their true lengths; the descriptor is open while it is borrowed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                slots,
                libc::MSG_DONTWAIT,
                no_time,
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (meta, header) in self.received.iter_mut().zip(&headers[..count]) {
            *meta = read_meta(header);
        }
        Ok(count)
    }

    /// The `nth` of those that were received last.
    pub fn get(&self, nth: usize) -> Received<'_> {
        let meta = &self.received[nth];
        let start = nth * SLOT_BYTES;
        Received {
            from: meta.from,
            to: meta.to,
            train: Train {
                bytes: &self.buffer[start..start + meta.length],
                segment: meta.segment,
                ecn: meta.ecn,
            },
            is_cut: meta.is_cut,
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

/// What the kernel has written about one datagram.
fn read_meta(message: &libc::mmsghdr) -> Meta {
    let header = &message.msg_hdr;
    let mut meta = Meta {
        from: read_name(header),
        length: (message.msg_len as usize).min(SLOT_BYTES),
        is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        ..Meta::NONE
    };
    // SAFETY: the header describes control room that the kernel has filled and that is still there.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a header that lies wholly in that room.
    while let Some(found) = unsafe { control.as_ref() } {
        read_control(found, &mut meta);
        // SAFETY: as for CMSG_FIRSTHDR; `control` is a header in this room.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    meta
}

fn read_control(control: &libc::cmsghdr, meta: &mut Meta) {
    match (control.cmsg_level, control.cmsg_type) {
        (libc::SOL_UDP, libc::UDP_GRO) => {
            let size: libc::c_int = data(control);
            meta.segment = usize::try_from(size)
                .ok()
                .filter(|size| *size > 0)
                .unwrap_or(usize::MAX);
        }
        (libc::IPPROTO_IP, libc::IP_TOS) => {
            let tos: u8 = data(control);
            meta.ecn = tos & ECN_MASK;
        }
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            let class: libc::c_int = data(control);
            meta.ecn = u8::try_from(class & libc::c_int::from(ECN_MASK)).unwrap_or(0);
        }
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let info: libc::in_pktinfo = data(control);
            // What it was sent to, or for a broadcast our address there, from which to answer it.
            meta.to = Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr)).into());
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let info: libc::in6_pktinfo = data(control);
            meta.to = Some(IpAddr::from(Ipv6Addr::from(info.ipi6_addr.s6_addr)).to_canonical());
        }
        _ => {}
    }
}

/// Plain numbers that the kernel puts into control messages.
trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for libc::c_int {}
impl Plain for libc::in_pktinfo {}
impl Plain for libc::in6_pktinfo {}

/// The content of a control message of a type that says it is a `T`.
fn data<T: Plain>(control: &libc::cmsghdr) -> T {
    // SAFETY: CMSG_DATA computes an address just behind the header, inside the message.
    let content = unsafe { libc::CMSG_DATA(control) };
    // SAFETY: the kernel writes whole values of this type behind such a header; they are plain
    // numbers, and nothing is said of their alignment.
    unsafe { content.cast::<T>().read_unaligned() }
}

/// The sender of a datagram.
fn read_name(header: &libc::msghdr) -> SocketAddr {
    let name = header.msg_name.cast::<libc::sockaddr_storage>();
    let length = header.msg_namelen as usize;
    if length >= size_of::<libc::sockaddr_in6>() {
        // SAFETY: the kernel has written an IPv6 address of this length to `msg_name`.
        let name = unsafe { name.cast::<libc::sockaddr_in6>().read() };
        let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
        let port = u16::from_be(name.sin6_port);
        return SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into();
    }
    if length >= size_of::<libc::sockaddr_in>() {
        // SAFETY: the kernel has written an IPv4 address of this length to `msg_name`.
        let name = unsafe { name.cast::<libc::sockaddr_in>().read() };
        let ip = Ipv4Addr::from_bits(u32::from_be(name.sin_addr.s_addr));
        return SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into();
    }
    Meta::NONE.from
}

/// How a train went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// As it was.
    Whole,
    /// As single datagrams: the path takes no trains of this kind.
    Singly,
    /// The same, and this socket takes no trains at all: send singles from now on.
    WithoutTrains,
}

/// A train of which not all went out.
#[derive(Debug)]
pub struct Unsent<'a> {
    /// What did not go: the end of it, or all.
    pub rest: Train<'a>,
    /// Why its first datagram did not.
    pub error: io::Error,
}

/// Where datagrams go.
#[derive(Clone, Copy, Debug)]
pub enum Towards {
    /// Where the socket is connected to.
    Connected {
        /// Over IPv4.
        is_v4: bool,
    },
    /// To a client of a listening socket.
    Client {
        /// From this address of ours, the one that the client sent to.
        from: Option<IpAddr>,
        /// The client.
        to: SocketAddr,
    },
}

/// Sends a train; `trains` says whether this socket takes them whole.
pub fn send<'a>(
    socket: BorrowedFd<'_>,
    train: Train<'a>,
    trains: bool,
    towards: Towards,
) -> Result<Sent, Unsent<'a>> {
    let unsent = |error, rest| Unsent { rest, error };
    if train.is_single() {
        let sent = send_headed(socket, &[], train, towards);
        return sent
            .map(|()| Sent::Whole)
            .map_err(|error| unsent(error, train));
    }
    let mut sent = if trains {
        Sent::Singly
    } else {
        Sent::WithoutTrains
    };
    if trains {
        match send_one(socket, &[], train, towards) {
            Ok(()) => return Ok(Sent::Whole),
            Err(error) => match error.raw_os_error() {
                // No checksum offload on the way out.
                Some(libc::EIO) => sent = Sent::WithoutTrains,
                // A segment does not fit the path's largest packet: it goes out in fragments.
                Some(libc::EINVAL | libc::EMSGSIZE) => {}
                _ => return Err(unsent(error, train)),
            },
        }
    }
    let mut bytes = 0;
    for single in train.singles() {
        if let Err(error) = send_headed(socket, &[], single, towards) {
            let rest = &train.bytes[bytes..];
            return Err(unsent(
                error,
                Train {
                    bytes: rest,
                    ..train
                },
            ));
        }
        bytes += single.bytes.len();
    }
    Ok(sent)
}

/// Sends a datagram with `header` before its own bytes. It must be one: the kernel cuts a train into
/// equal segments, and has no header to give to each.
///
/// That an earlier datagram was too large for a network on its way is told in place of sending this
/// one, which then is sent again. The kernel has noted the size, and sends what is larger in fragments.
pub fn send_headed(
    socket: BorrowedFd<'_>,
    header: &[u8],
    single: Train<'_>,
    towards: Towards,
) -> io::Result<()> {
    debug_assert!(single.is_single());
    match send_one(socket, header, single, towards) {
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
            send_one(socket, header, single, towards)
        }
        sent => sent,
    }
}

fn send_one(
    socket: BorrowedFd<'_>,
    header: &[u8],
    train: Train<'_>,
    towards: Towards,
) -> io::Result<()> {
    let segment = u16::try_from(train.segment).unwrap_or(0);
    let (from, to, is_v4) = match towards {
        Towards::Connected { is_v4 } => (None, None, is_v4),
        Towards::Client { from, to } => (from, Some(to), to.ip().to_canonical().is_ipv4()),
    };
    let (tos, class) = (train.ecn, i32::from(train.ecn));
    let (v4, v6) = (source_v4(from), source_v6(from, to));
    let mut controls = [ControlMessage::Ipv4Tos(&tos); 3];
    let mut count = 0;
    let mut add = |control| {
        controls[count] = control;
        count += 1;
    };
    if !train.is_single() {
        add(ControlMessage::UdpGsoSegments(&segment));
    }
    if train.ecn != 0 {
        add(if is_v4 {
            ControlMessage::Ipv4Tos(&tos)
        } else {
            ControlMessage::Ipv6TClass(&class)
        });
    }
    match (&v4, &v6) {
        (_, Some(info)) => add(ControlMessage::Ipv6PacketInfo(info)),
        (Some(info), None) => add(ControlMessage::Ipv4PacketInfo(info)),
        (None, None) => {}
    }
    let address = to.map(SockaddrStorage::from);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    if count == 0 && header.is_empty() {
        // Most datagrams: without headers for the kernel to fetch one by one.
        let socket = socket.as_raw_fd();
        match &address {
            Some(address) => sendto(socket, train.bytes, address, flags)?,
            None => calls::send(socket, train.bytes, flags)?,
        };
        return Ok(());
    }
    let vectors = [io::IoSlice::new(header), io::IoSlice::new(train.bytes)];
    let used = usize::from(header.is_empty());
    sendmsg(
        socket.as_raw_fd(),
        &vectors[used..],
        &controls[..count],
        flags,
        address.as_ref(),
    )?;
    Ok(())
}

/// The source of an answer on an IPv4 socket.
fn source_v4(from: Option<IpAddr>) -> Option<libc::in_pktinfo> {
    let Some(IpAddr::V4(from)) = from else {
        return None;
    };
    Some(libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr {
            s_addr: from.to_bits().to_be(),
        },
        ipi_addr: libc::in_addr { s_addr: 0 },
    })
}

/// The source of an answer on an IPv6 socket, be it to an IPv4 client.
fn source_v6(from: Option<IpAddr>, to: Option<SocketAddr>) -> Option<libc::in6_pktinfo> {
    let from = match (from?, to?) {
        (IpAddr::V6(from), _) => from,
        (IpAddr::V4(from), SocketAddr::V6(_)) => from.to_ipv6_mapped(),
        (IpAddr::V4(_), SocketAddr::V4(_)) => return None,
    };
    Some(libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr {
            s6_addr: from.octets(),
        },
        ipi6_ifindex: 0,
    })
}

/// Datagrams or trains received in one system call at most.
pub const SLOTS: usize = 16;

/// The longest payload of a datagram that goes over IPv4.
pub const MAX_DATAGRAM: usize = 65_507;

/// The largest datagram or train.
const SLOT_BYTES: usize = 64 * 1024;

/// Room for a segment size, a mark and a destination, each with its header.
const CONTROL_BYTES: usize = 128;

const NAME_BYTES: libc::socklen_t = 128;
const _: () = assert!(size_of::<libc::sockaddr_storage>() == 128);

/// The two low bits of a type of service or traffic class.
const ECN_MASK: u8 = 0b11;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    use super::super::datagram::{connect_udp, listen_udp};
    use super::super::source::Source;
    use super::*;

    const V4: Towards = Towards::Connected { is_v4: true };

    fn receive(batch: &mut Batch, socket: &UdpSocket) -> usize {
        for _ in 0..1_000 {
            match batch.receive(socket.as_fd()) {
                Ok(count) => return count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("nothing came");
    }

    #[test]
    fn a_train_stays_whole_with_its_short_end_its_mark_and_its_addresses() {
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let listener = listen_udp(SocketAddr::new(ip, 0), true).unwrap();
            let client = connect_udp(listener.local_addr().unwrap(), Source::Any).unwrap();
            let bytes: Vec<u8> = (0..3_250u32).map(|n| n.to_le_bytes()[0]).collect();
            let train = Train {
                bytes: &bytes,
                segment: 1_000,
                ecn: 1,
            };
            assert_eq!(train.count(), 4);
            let towards = Towards::Connected {
                is_v4: ip.is_ipv4(),
            };
            assert_eq!(
                send(client.as_fd(), train, true, towards).unwrap(),
                Sent::Whole
            );

            let mut batch = Batch::new();
            assert_eq!(receive(&mut batch, &listener), 1);
            let got = batch.get(0);
            assert_eq!((got.train.bytes, got.train.segment), (&*bytes, 1_000));
            assert_eq!((got.from, got.to), (client.local_addr().unwrap(), Some(ip)));
            assert_eq!((got.train.ecn, got.is_cut), (1, false));

            let back = Towards::Client {
                from: got.to,
                to: got.from,
            };
            send(listener.as_fd(), got.train, false, back).unwrap();
            let mut answers = Batch::new();
            let mut sizes = Vec::new();
            while sizes.len() < 4 {
                let count = receive(&mut answers, &client);
                sizes.extend((0..count).map(|nth| answers.get(nth).train.bytes.len()));
            }
            assert_eq!(sizes, [1_000, 1_000, 1_000, 250]);
        }
    }

    #[test]
    fn an_empty_datagram_and_the_largest_one_are_datagrams() {
        let listener = listen_udp(([127, 0, 0, 1], 0).into(), false).unwrap();
        let client = connect_udp(listener.local_addr().unwrap(), Source::Any).unwrap();
        let largest = vec![7; 65_507];
        for bytes in [&[][..], &largest] {
            let alone = Train {
                bytes,
                segment: usize::MAX,
                ecn: 0,
            };
            assert_eq!((alone.count(), alone.singles().count()), (1, 1));
            send(client.as_fd(), alone, true, V4).unwrap();
            let mut batch = Batch::new();
            assert_eq!(receive(&mut batch, &listener), 1);
            assert_eq!(batch.get(0).train.bytes, bytes);
        }
    }

    #[test]
    fn a_dual_socket_answers_an_ipv4_client_from_the_address_it_asked() {
        let listener = listen_udp("[::]:0".parse().unwrap(), false).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = connect_udp(([127, 0, 0, 2], port).into(), Source::Any).unwrap();
        client.send(b"question").unwrap();
        let mut batch = Batch::new();
        assert_eq!(receive(&mut batch, &listener), 1);
        let got = batch.get(0);
        assert_eq!(got.to, Some([127, 0, 0, 2].into()));
        let back = Towards::Client {
            from: got.to,
            to: got.from,
        };
        send(listener.as_fd(), got.train, true, back).unwrap();
        let mut answer = Batch::new();
        assert_eq!(
            receive(&mut answer, &client),
            1,
            "a connected socket hears only 127.0.0.2"
        );
    }
}
