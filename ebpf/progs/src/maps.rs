//! The maps that programs share, and what is read of them for one packet.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::maps::{Array, HashMap, ProgramArray};
use aya_ebpf::programs::XdpContext;
use pgx_abi::{
    FENCED_MAX, Gate, LEASE_SLOTS, LINKS_MAX, LeaseWord, LinkAddress, PEERS_MAX, PORT_DEFAULT,
    PROGRAM_SLOTS, Program, Slot, VIPS_MAX, Vip, port_bit,
};
use pgx_rules::{Address, Lease, Mac};

#[unsafe(export_name = pgx_abi::name!(leases))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static LEASES: Array<u64> = Array::with_max_entries(LEASE_SLOTS, 0);

#[unsafe(export_name = pgx_abi::name!(peers))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static PEERS: HashMap<Address, u64> = HashMap::with_max_entries(PEERS_MAX, 0);

#[unsafe(export_name = pgx_abi::name!(fenced))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static FENCED: HashMap<Address, u64> = HashMap::with_max_entries(FENCED_MAX, 0);

#[unsafe(export_name = pgx_abi::name!(vips))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static VIPS: HashMap<Address, Vip> = HashMap::with_max_entries(VIPS_MAX, 0);

#[unsafe(export_name = pgx_abi::name!(links))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static LINKS: HashMap<u32, LinkAddress> = HashMap::with_max_entries(LINKS_MAX, 0);

#[unsafe(export_name = pgx_abi::name!(programs))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(PROGRAM_SLOTS, 0);

/// One word; zero where there is none, which is shut.
#[inline(always)]
fn word(slot: Slot) -> u64 {
    // A volatile read: user space changes words while we run, each in one piece.
    LEASES.get_ptr(slot as u32).map_or(0, |word| {
        // SAFETY: the kernel gave us the address of a slot, which holds an aligned `u64` for as
        // long as the map exists; any bytes are a valid one.
        unsafe { word.read_volatile() }
    })
}

/// The port that is guarded.
#[inline(always)]
pub(crate) fn port() -> u16 {
    match u16::try_from(word(Slot::Port)) {
        Ok(0) | Err(_) => PORT_DEFAULT,
        Ok(port) => port,
    }
}

/// Whether something at that port may be steered.
#[inline(always)]
pub(crate) fn may_be_steered(port: u16) -> bool {
    word(Slot::Ports) & port_bit(port) != 0
}

/// How far the gate is open now.
#[inline(always)]
pub(crate) fn gate() -> Gate {
    let lease = Lease {
        primary: LeaseWord(word(Slot::Primary)),
        member: LeaseWord(word(Slot::Member)),
        floor: word(Slot::Floor),
        operator: word(Slot::Operator),
    };
    lease.gate(now_ns)
}

/// The boot-time clock. It takes more time than all else that a program does for one packet.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no arguments and no effects.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Whose a virtual address is.
pub(crate) enum Holding {
    /// No virtual address at all.
    NotOurs,
    /// Not this host's now.
    Elsewhere,
    /// This host's.
    Here,
}

/// Whose a virtual address is now.
#[inline(always)]
pub(crate) fn holding(address: &Address) -> Holding {
    let Some(vip) = VIPS.get_ptr(address) else { return Holding::NotOurs };
    // SAFETY: the kernel gave us the address of an entry, which holds an aligned `Vip` of one word
    // until the program ends, whatever user space does with it meanwhile.
    let word = unsafe { vip.read_volatile() }.lease;
    let is_valid = matches!(word.gate(), Gate::Open) && now_ns() < word.deadline_ns();
    if is_valid { Holding::Here } else { Holding::Elsewhere }
}

/// The link address of the interface that a packet came by.
#[inline(always)]
pub(crate) fn link_address(context: *mut xdp_md) -> Option<Mac> {
    // SAFETY: the kernel gave us the context, which lives as long as the program runs.
    let interface = unsafe { (*context).ingress_ifindex };
    // SAFETY: the value is copied at once.
    let [a, b, c, d, e, f, ..] = *unsafe { LINKS.get(&interface) }?;
    Some([a, b, c, d, e, f])
}

/// Whether the address is a data node's.
#[inline(always)]
pub(crate) fn is_peer(address: &Address) -> bool {
    // SAFETY: the value is not read; whether the key is there is all that is asked.
    unsafe { PEERS.get(address) }.is_some()
}

/// Whether the address is a fenced backend's: listed, and not by an older list than the newest.
#[inline(always)]
pub(crate) fn is_fenced(address: &Address) -> bool {
    if word(Slot::FencedNone) == 1 {
        return false;
    }
    // SAFETY: the kernel gave us the address of an entry, which holds an aligned `u64` until the
    // program ends, whatever user space does with it meanwhile.
    let listed = FENCED.get_ptr(address).map(|epoch| unsafe { epoch.read_volatile() });
    listed.is_some_and(|epoch| epoch >= word(Slot::Fenced))
}

/// Hands the packet to another program. It returns only if there is none in that place.
#[inline(always)]
pub(crate) fn go_to(context: *mut xdp_md, program: Program) {
    // SAFETY: the context is the kernel's, and the programs of the array are XDP programs: the
    // kernel lets no others in.
    let _ = unsafe { PROGRAMS.tail_call(&XdpContext::new(context), program as u32) };
}
