//! The maps of steering, and what is read of them for one packet.

use core::cmp::Ordering;
use core::ffi::c_void;

use aya_ebpf::bindings::{bpf_sock, bpf_sock_tuple, tcphdr, xdp_md};
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use pgx_abi::{
    BUCKET_SLOTS, BUCKETS, BucketWord, FLOWS_MAX, FLOWS_NEW_PER_S_MAX, FlowKey, HOPS_MAX,
    HeadingNote, Inflow, LinkAddress, SERVER_SLOTS, SERVICES_MAX, ServerWord, ServiceKey,
    ServiceWord, TABLES_MAX, TableWord, bucket_slot, server_slot,
};
use pgx_rules::{Bytes as _, Choice, Kind, Mac, Server, hash_of};

use crate::frame::Frame;
use crate::maps::now_ns;
use crate::walk::Place;

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

/// The keys of the packet in hand.
#[derive(Clone, Copy)]
pub(crate) struct Keys(*mut HeadingNote);

impl Keys {
    /// Where they are written down.
    #[inline(always)]
    pub(crate) fn new() -> Option<Self> {
        NOTE.get_ptr_mut(0).map(Self)
    }

    /// Writes them down, by a function that writes a flow.
    #[inline(always)]
    pub(crate) fn write<T>(self, of: impl FnOnce(&mut FlowKey) -> Option<T>) -> Option<T> {
        // SAFETY: the kernel gave us this CPU's slot of the map, which holds a note for as long as
        // the map exists. XDP runs to its end on one CPU with softirqs off, so nobody else has it.
        let note = unsafe { &mut *self.0 };
        let found = of(&mut note.flow)?;
        note.service = ServiceKey { address: note.flow.vip, port: note.flow.port };
        Some(found)
    }

    /// The flow.
    #[inline(always)]
    pub(crate) fn flow(&self) -> &FlowKey {
        // SAFETY: as in `write`, which is not called any more when this is.
        unsafe { &(*self.0).flow }
    }

    #[inline(always)]
    fn hash(&self) -> u32 {
        // By words, and read anew: bytes that are kept from before fill the stack.
        let word = |at: usize| {
            // SAFETY: as in `flow`; the two addresses are the first four words of a note, which is
            // aligned to words.
            u64::from_be(unsafe { self.0.cast::<u64>().add(at).read_volatile() })
        };
        let addresses = [word(0), word(1), word(2), word(3)];
        hash_of(addresses, self.flow().client_port, self.flow().port)
    }

    #[inline(always)]
    fn service(&self) -> &ServiceKey {
        // SAFETY: as in `flow`.
        unsafe { &(*self.0).service }
    }
}

/// What is served at the flow's destination.
#[inline(always)]
pub(crate) fn service(keys: &Keys) -> Option<ServiceWord> {
    // SAFETY: the kernel gave us the address of an entry, which holds an aligned `u64` until the
    // program ends, whatever user space does with it meanwhile.
    SERVICES.get_ptr(keys.service()).map(|word| ServiceWord(unsafe { word.read_volatile() }))
}

/// Whose the flow is.
#[inline(always)]
pub(crate) fn row(service: ServiceWord, keys: &Keys) -> Row {
    let table = service.table();
    let bucket = keys.hash() % BUCKETS;
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
pub(crate) fn has_socket(context: *mut xdp_md, place: &Place) -> bool {
    look_for_socket(context, place.packed) != 0
}

/// A function of its own, because the keys of a search take much of the stack.
#[unsafe(export_name = pgx_abi::name!(find_socket))]
#[inline(never)]
extern "C" fn look_for_socket(context: *mut xdp_md, packed: u64) -> u64 {
    let Some((frame, place)) = Place::of(context, packed) else { return 0 };
    let Some(socket) = find(context, &frame, &place) else { return 0 };
    // SAFETY: the kernel gave us a socket and holds it until it is released below.
    let is_listener = unsafe { (*socket).state } == LISTEN;
    let has = !is_listener || is_cookie(socket, &frame, &place);
    // SAFETY: as above; it is not used after this.
    unsafe { bpf_sk_release(socket.cast()) };
    u64::from(has)
}

/// `struct bpf_sock_tuple` of `linux/bpf.h`, in one of its two forms.
#[repr(C)]
struct Tuple<A> {
    addresses: [A; 2],
    ports: [u16; 2],
}

const _: () = assert!(size_of::<Tuple<[u8; 4]>>() == 12 && size_of::<Tuple<[u8; 16]>>() == 36);

#[inline(always)]
fn find(context: *mut xdp_md, frame: &Frame, place: &Place) -> Option<*mut bpf_sock> {
    let FlowKey { client, vip, client_port, port } = place.keys.flow();
    let [version, _] = frame.array(place.ip)?;
    let ports = [client_port.to_be(), port.to_be()];
    // Built from whole fields: an array of zeros to copy into would be a call of `memset` here.
    let found = if version >> 4 == 4 {
        let [.., a, b, c, d] = *client;
        let [.., e, f, g, h] = *vip;
        let tuple = Tuple { addresses: [[a, b, c, d], [e, f, g, h]], ports };
        let at = (&raw const tuple).cast_mut().cast::<bpf_sock_tuple>();
        // SAFETY: the context is the kernel's, and `at` points to the 12 readable bytes of the
        // tuple's IPv4 form: addresses, then ports, as they are in packets.
        unsafe { bpf_skc_lookup_tcp(context.cast(), at, 12, OWN_NAMESPACE, 0) }
    } else {
        let tuple = Tuple { addresses: [*client, *vip], ports };
        let at = (&raw const tuple).cast_mut().cast::<bpf_sock_tuple>();
        // SAFETY: as above, 36 bytes of the IPv6 form.
        unsafe { bpf_skc_lookup_tcp(context.cast(), at, 36, OWN_NAMESPACE, 0) }
    };
    (!found.is_null()).then_some(found)
}

/// Under a flood of SYNs a listener keeps no half-open sockets; what it sent comes back in the
/// acknowledgement.
#[inline(always)]
fn is_cookie(listener: *mut bpf_sock, frame: &Frame, place: &Place) -> bool {
    let Kind::Going(segment) = place.kind else { return false };
    // The longer of the two IP headers: behind an IPv4 header there are twenty bytes more of TCP.
    let (Some(ip), Some(tcp)) = (frame.at::<40>(place.ip), frame.at::<20>(segment.at)) else {
        return false;
    };
    let (ip, tcp): (*mut c_void, *mut tcphdr) = (ip.cast(), tcp.cast());
    // SAFETY: the socket is held by the caller; the headers are readable bytes of the lengths told.
    unsafe { bpf_tcp_check_syncookie(listener.cast(), ip, 40, tcp, 20) == 0 }
}

/// How the epoch that the flow began in, as far as it is known, compares with that one.
#[inline(always)]
pub(crate) fn begun(flow: &FlowKey, epoch: u32) -> Option<Ordering> {
    // SAFETY: the kernel gave us the address of an entry, which holds an aligned `u32` until the
    // program ends; it may be another flow's by then, which a flow's end can bring about as well.
    FLOWS.get_ptr(flow).map(|begun| unsafe { begun.read_volatile() }.cmp(&epoch))
}

/// Writes down that a flow begins in that epoch; `false` if there are too many now.
#[inline(always)]
pub(crate) fn begin(flow: &FlowKey, known: Option<Ordering>, epoch: u32) -> bool {
    match known {
        Some(Ordering::Equal) => return true,
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
    let second = (now_ns() / NS_PER_S) as u32;
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
