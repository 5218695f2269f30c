//! The maps of steering, and what is read of them for one packet.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_tuple, tcphdr, xdp_md};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use core::ffi::c_void;
use pgx_abi::{
    BUCKET_SLOTS, BUCKETS, BucketWord, FLOWS_MAX, FLOWS_NEW_PER_S_MAX, FlowKey, HOPS_MAX,
    HeadingNote, Inflow, LinkAddress, SERVER_SLOTS, SERVICES_MAX, ServerWord, ServiceKey,
    ServiceWord, TABLES_MAX, TableWord, bucket_slot, server_slot,
};
use pgx_rules::{Bytes as _, Choice, Heading, Kind, Mac, Ports, Segment, Server, hash};

use crate::frame::Frame;

#[unsafe(export_name = pgx_abi::name!(steer_tables))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static TABLES: Array<u64> = Array::with_max_entries(TABLES_MAX, 0);

#[unsafe(export_name = pgx_abi::name!(steer_buckets))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static BUCKET_WORDS: Array<u64> = Array::with_max_entries(BUCKET_SLOTS, 0);

#[unsafe(export_name = pgx_abi::name!(steer_servers))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static SERVERS: Array<u64> = Array::with_max_entries(SERVER_SLOTS, 0);

#[unsafe(export_name = pgx_abi::name!(steer_services))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static SERVICES: HashMap<ServiceKey, u64> = HashMap::with_max_entries(SERVICES_MAX, 0);

#[unsafe(export_name = pgx_abi::name!(steer_hops))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static HOPS: HashMap<LinkAddress, u64> = HashMap::with_max_entries(HOPS_MAX, 0);

#[unsafe(export_name = pgx_abi::name!(steer_flows))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static FLOWS: LruHashMap<FlowKey, u32> = LruHashMap::with_max_entries(FLOWS_MAX, 0);

#[unsafe(export_name = pgx_abi::name!(steer_inflow))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static INFLOW: PerCpuArray<Inflow> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(export_name = pgx_abi::name!(steer_note))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static NOTE: PerCpuArray<HeadingNote> = PerCpuArray::with_max_entries(1, 0);

/// `BPF_TCP_LISTEN` of `linux/bpf.h`: a listener is no flow's socket.
const LISTEN: u32 = 10;
/// `BPF_F_CURRENT_NETNS`: that of the interface.
const OWN_NAMESPACE: u64 = u64::MAX;
const NS_PER_S: u64 = 1_000_000_000;

/// What the tables say of a flow.
pub(crate) enum Row {
    /// Who owns it, by the table of that epoch; nobody, by none.
    Choice(Choice, u32),
    /// The table was written anew meanwhile, twice.
    Torn,
}

#[inline(always)]
fn word(map: &Array<u64>, slot: u32) -> u64 {
    map.get_ptr(slot).map_or(0, |word| {
        // SAFETY: the kernel gave us the address of a slot, which holds an aligned `u64` for as
        // long as the map exists; any bytes are a valid one. User space changes it in one piece.
        unsafe { word.read_volatile() }
    })
}

/// Notes where the packet is heading, and reads it back. What the verifier knows of it is gone by
/// that, and with it the difference between the hundreds of ways by which headers are walked: it
/// follows what comes next once instead of once for each.
#[inline(always)]
pub(crate) fn noted(heading: &Heading) -> Option<Heading> {
    let (kind, segment) = match heading.kind {
        Kind::Error => (ERROR, None),
        Kind::Opening(segment) => (OPENING, Some(segment)),
        Kind::Going(segment) => (GOING, Some(segment)),
        Kind::Ending(segment) => (ENDING, Some(segment)),
    };
    let note = HeadingNote {
        flow: heading.flow,
        ip: u16::try_from(heading.ip).ok()?,
        at: u16::try_from(segment.map_or(0, |segment| segment.at)).ok()?,
        kind,
        is_cut: u8::from(segment.is_some_and(|segment| segment.is_cut)),
    };
    // SAFETY: the kernel gave us this CPU's slot of the map, which holds a note for as long as the
    // map exists. XDP runs to its end on one CPU with softirqs off, so nobody else has it now.
    unsafe { *NOTE.get_ptr_mut(0)? = note };
    // SAFETY: as above. The address is asked for again, so that the compiler forgets as well.
    let HeadingNote { flow, ip, at, kind, is_cut } = unsafe { *NOTE.get_ptr(0)? };
    // No walk gets that far (`limits` in the rules); the verifier wants a bound below 64 KiB.
    let (ip, at) = (usize::from(ip & 0x3f), usize::from(at & 0x7fff));
    let ports = Ports { source: flow.client_port, destination: flow.port };
    // The end is not asked for from here on.
    let segment = Segment { ports, ip, at, end: at, is_cut: is_cut != 0 };
    let kind = match kind {
        OPENING => Kind::Opening(segment),
        GOING => Kind::Going(segment),
        ENDING => Kind::Ending(segment),
        _ => Kind::Error,
    };
    Some(Heading { flow, kind, ip })
}

const ERROR: u8 = 0;
const OPENING: u8 = 1;
const GOING: u8 = 2;
const ENDING: u8 = 3;

/// What is served at the flow's destination.
#[inline(always)]
pub(crate) fn service(flow: &FlowKey) -> Option<ServiceWord> {
    let key = ServiceKey { address: flow.vip, port: flow.port };
    // SAFETY: the kernel gave us the address of an entry, which holds an aligned `u64` until the
    // program ends, whatever user space does with it meanwhile.
    SERVICES.get_ptr(&key).map(|word| ServiceWord(unsafe { word.read_volatile() }))
}

/// Whose the flow is.
#[inline(always)]
pub(crate) fn row(service: ServiceWord, flow: &FlowKey) -> Row {
    let table = service.table();
    let bucket = hash(flow) % BUCKETS;
    for _ in 0..2 {
        let header = TableWord(word(&TABLES, table));
        if header.swaps() == 0 {
            return Row::Choice(Choice::default(), 0);
        }
        let found = BucketWord(word(&BUCKET_WORDS, bucket_slot(table, header.half(), bucket)));
        let owner = server(table, header, found.owner());
        let previous = server(table, header, found.previous());
        if let (true, Ok(owner), Ok(previous)) = (found.is_of(header), owner, previous) {
            return Row::Choice(Choice { owner, previous }, header.epoch());
        }
    }
    Row::Torn
}

struct Torn;

#[inline(always)]
fn server(table: u32, header: TableWord, number: u32) -> Result<Option<Server>, Torn> {
    if number == 0 {
        return Ok(None);
    }
    let found = ServerWord(word(&SERVERS, server_slot(table, header.half(), number)));
    let server = Server { link: found.link(), is_local: found.is_local() };
    if found.is_of(header) { Ok(Some(server)) } else { Err(Torn) }
}

/// Whether a host that steers has this link address.
#[inline(always)]
pub(crate) fn is_hop(link: Mac) -> bool {
    let [a, b, c, d, e, f] = link;
    HOPS.get_ptr(&[a, b, c, d, e, f, 0, 0]).is_some()
}

/// Whether a socket here has the flow, or a SYN cookie that it brings back was made here.
#[inline(always)]
pub(crate) fn has_socket(context: *mut xdp_md, frame: &Frame, heading: &Heading) -> bool {
    let Some(socket) = find(context, frame, heading) else { return false };
    // SAFETY: the kernel gave us a socket and holds it until it is released below.
    let is_listener = unsafe { (*socket).state } == LISTEN;
    let has = !is_listener || is_cookie(socket, frame, heading);
    // SAFETY: as above; it is not used after this.
    unsafe { bpf_sk_release(socket.cast()) };
    has
}

#[inline(always)]
fn find(context: *mut xdp_md, frame: &Frame, heading: &Heading) -> Option<*mut bpf_sock> {
    let FlowKey { client, vip, client_port, port } = heading.flow;
    let [version] = frame.array(heading.ip)?;
    let ([a, b], [c, d]) = (client_port.to_be_bytes(), port.to_be_bytes());
    let mut tuple = [0_u8; 36];
    let size = if version >> 4 == 4 {
        tuple[..4].copy_from_slice(&client[12..]);
        tuple[4..8].copy_from_slice(&vip[12..]);
        tuple[8..12].copy_from_slice(&[a, b, c, d]);
        12
    } else {
        tuple[..16].copy_from_slice(&client);
        tuple[16..32].copy_from_slice(&vip);
        tuple[32..].copy_from_slice(&[a, b, c, d]);
        36
    };
    let at: *mut bpf_sock_tuple = tuple.as_mut_ptr().cast();
    // SAFETY: the context is the kernel's, and `at` points to the readable bytes of one of the two
    // forms of the tuple: addresses, then ports, as they are in packets.
    let found = unsafe {
        if size == 12 {
            bpf_skc_lookup_tcp(context.cast(), at, 12, OWN_NAMESPACE, 0)
        } else {
            bpf_skc_lookup_tcp(context.cast(), at, 36, OWN_NAMESPACE, 0)
        }
    };
    (!found.is_null()).then_some(found)
}

/// Under a flood of SYNs a listener keeps no half-open sockets; what it sent comes back in the
/// acknowledgement.
#[inline(always)]
fn is_cookie(listener: *mut bpf_sock, frame: &Frame, heading: &Heading) -> bool {
    let Kind::Going(segment) = heading.kind else { return false };
    let Some(mut tcp) = frame.array::<20>(segment.at) else { return false };
    let tcp: *mut tcphdr = tcp.as_mut_ptr().cast();
    let listener: *mut c_void = listener.cast();
    // SAFETY: the socket is held by the caller; the headers are readable bytes of the lengths told.
    if let Some(mut ip) = frame.array::<40>(heading.ip) {
        unsafe { bpf_tcp_check_syncookie(listener, ip.as_mut_ptr().cast(), 40, tcp, 20) == 0 }
    } else {
        false
    }
}

/// The epoch that the flow began in, as far as it is known.
#[inline(always)]
pub(crate) fn begun(flow: &FlowKey) -> Option<u32> {
    // SAFETY: the kernel gave us the address of an entry, which holds an aligned `u32` until the
    // program ends; it may be another flow's by then, which a flow's end can bring about as well.
    FLOWS.get_ptr(flow).map(|epoch| unsafe { epoch.read_volatile() })
}

/// Writes down that a flow begins in that epoch; `false` if there are too many now.
#[inline(always)]
pub(crate) fn begin(flow: &FlowKey, known: Option<u32>, epoch: u32) -> bool {
    match known {
        Some(known) if known == epoch => return true,
        // It takes nobody's place.
        Some(_) => {}
        None if !may_begin() => return false,
        None => {}
    }
    FLOWS.insert(flow, epoch, 0).is_ok()
}

#[inline(always)]
fn may_begin() -> bool {
    let Some(inflow) = INFLOW.get_ptr_mut(0) else { return false };
    // SAFETY: the helper has no arguments and no effects.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let second = (now / NS_PER_S) as u32;
    // SAFETY: the kernel gave us this CPU's slot of the map, which holds an `Inflow` for as long as
    // the map exists. XDP runs to its end on one CPU with softirqs off, so nobody else writes it.
    unsafe {
        if (*inflow).second != second {
            *inflow = Inflow { second, flows: 0 };
        }
        (*inflow).flows += 1;
        (*inflow).flows <= FLOWS_NEW_PER_S_MAX
    }
}
