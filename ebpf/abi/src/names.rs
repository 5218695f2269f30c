//! Names that both sides use: objects, programs, maps, pins.
//!
//! A symbol's name has to be a literal where a program exports it, so the table is the macro
//! [`name!`](crate::name) and the constants that user space reads are made from it.

/// Expands to the literal name of an object, a program or a map, or of a program's ELF section.
///
/// Programs write `#[unsafe(export_name = pgx_abi::name!(pgx_root))]`, user space the constants of
/// this crate.
#[macro_export]
macro_rules! name {
    (pgx) => {
        "pgx"
    };
    (lab) => {
        "lab"
    };
    (pgx_root) => {
        "pgx_root"
    };
    (lab_pass) => {
        "lab_pass"
    };
    (lab_pass_tc) => {
        "lab_pass_tc"
    };
    (lab_pass_cgroup) => {
        "lab_pass_cgroup"
    };
    (lab_again) => {
        "lab_again"
    };
    (lab_again_tc) => {
        "lab_again_tc"
    };
    (lab_frame) => {
        "lab_frame"
    };
    (lab_next) => {
        "lab_next"
    };
    (lab_next_tc) => {
        "lab_next_tc"
    };
    (reasons) => {
        "pgx_reasons"
    };
    (leases) => {
        "pgx_leases"
    };
    (peers) => {
        "pgx_peers"
    };
    (fenced) => {
        "pgx_fenced"
    };
    (programs) => {
        "pgx_programs"
    };
    (fence) => {
        "pgx_fence"
    };
    (fence_in) => {
        "pgx_fence_in"
    };
    (fence_out) => {
        "pgx_fence_out"
    };
    (fence_cgroup_in) => {
        "pgx_fence_cin"
    };
    (fence_cgroup_out) => {
        "pgx_fence_cout"
    };
    (vip) => {
        "pgx_vip"
    };
    (vips) => {
        "pgx_vips"
    };
    (links) => {
        "pgx_links"
    };
    (steer) => {
        "pgx_steer"
    };
    (steer_away) => {
        "pgx_steer_away"
    };
    (refuse) => {
        "pgx_refuse"
    };
    (steer_tables) => {
        "pgx_st_tables"
    };
    (steer_buckets) => {
        "pgx_st_buckets"
    };
    (steer_servers) => {
        "pgx_st_servers"
    };
    (steer_services) => {
        "pgx_st_services"
    };
    (steer_hops) => {
        "pgx_st_hops"
    };
    (steer_flows) => {
        "pgx_st_flows"
    };
    (steer_note) => {
        "pgx_st_note"
    };
    (steer_inflow) => {
        "pgx_st_inflow"
    };
    (answer) => {
        "pgx_answer"
    };
    (answer_v4) => {
        "pgx_answer_v4"
    };
    (answer_v6) => {
        "pgx_answer_v6"
    };
    (find_socket) => {
        "pgx_find_socket"
    };
    (walk_paged) => {
        "pgx_walk_paged"
    };
    (section classifier) => {
        "classifier"
    };
    (section cgroup_in) => {
        "cgroup_skb/ingress"
    };
    (section cgroup_out) => {
        "cgroup_skb/egress"
    };
    (section xdp) => {
        "xdp"
    };
    (section maps) => {
        "maps"
    };
}

/// The object that holds the product's programs and maps.
pub const PGX_OBJECT: &str = name!(pgx);
/// The object that holds what only the lab attaches.
pub const LAB_OBJECT: &str = name!(lab);
/// Every object that is built and committed, sorted.
pub const OBJECTS: [&str; 2] = [LAB_OBJECT, PGX_OBJECT];

/// The XDP program of the product: it sees every packet first.
pub const PGX_ROOT: &str = name!(pgx_root);
/// The XDP program that passes everything; a veth's peer needs one, or native `XDP_TX` is lost.
pub const LAB_PASS: &str = name!(lab_pass);

/// The same in traffic control, and in a cgroup: what they cost, an empty program costs.
pub const LAB_PASS_TC: &str = name!(lab_pass_tc);
/// See [`LAB_PASS_TC`].
pub const LAB_PASS_CGROUP: &str = name!(lab_pass_cgroup);
/// The XDP program that makes a packet what it was, see [`LabFrame`](crate::LabFrame), and goes on
/// to another program: so that one that rewrites packets can be run again and again.
pub const LAB_AGAIN: &str = name!(lab_again);
/// The same in traffic control.
pub const LAB_AGAIN_TC: &str = name!(lab_again_tc);
/// The map of what the packet was.
pub const LAB_FRAME: &str = name!(lab_frame);
/// The program array whose first place [`LAB_AGAIN`] goes on to.
pub const LAB_NEXT: &str = name!(lab_next);
/// The same for [`LAB_AGAIN_TC`].
pub const LAB_NEXT_TC: &str = name!(lab_next_tc);

/// The XDP program that guards PostgreSQL's port; the root program calls it.
pub const FENCE: &str = name!(fence);
/// The same for packets that come in where no XDP program sees them: loopback, and interfaces
/// without XDP.
pub const FENCE_IN: &str = name!(fence_in);
/// The same for packets that leave.
pub const FENCE_OUT: &str = name!(fence_out);
/// The same for what sockets of PostgreSQL's own cgroup receive.
pub const FENCE_CGROUP_IN: &str = name!(fence_cgroup_in);
/// The same for what they send.
pub const FENCE_CGROUP_OUT: &str = name!(fence_cgroup_out);

/// The XDP program that answers for virtual addresses; the fence calls it.
pub const VIP: &str = name!(vip);
/// The map of virtual addresses, see [`Vip`](crate::Vip).
pub const VIPS: &str = name!(vips);
/// The map of the interfaces' link addresses, by interface index.
pub const LINKS: &str = name!(links);
/// The map of lease words, see [`Slot`](crate::Slot).
pub const LEASES: &str = name!(leases);
/// The map of the data nodes' addresses: 16 bytes each, IPv4 mapped into IPv6 (RFC 4291).
pub const PEERS: &str = name!(peers);
/// The map of fenced backends' addresses, in the same form, with the epoch that fenced them.
pub const FENCED: &str = name!(fenced);
/// The program array of the root program, see [`Program`](crate::Program).
pub const PROGRAMS: &str = name!(programs);

/// The XDP program that steers flows to virtual addresses; the VIP's program calls it.
pub const STEER: &str = name!(steer);
/// The same for packets that the fence would answer with a reset if they were to stay here.
pub const STEER_AWAY: &str = name!(steer_away);
/// The XDP program that answers with a reset; steering calls it.
pub const REFUSE: &str = name!(refuse);
/// The map of the tables' headers, see [`TableWord`](crate::TableWord).
pub const STEER_TABLES: &str = name!(steer_tables);
/// The map of the tables' buckets, see [`BucketWord`](crate::BucketWord).
pub const STEER_BUCKETS: &str = name!(steer_buckets);
/// The map of the tables' servers, see [`ServerWord`](crate::ServerWord).
pub const STEER_SERVERS: &str = name!(steer_servers);
/// The map of what is steered, see [`ServiceKey`](crate::ServiceKey).
pub const STEER_SERVICES: &str = name!(steer_services);
/// The map of the link addresses of hosts that steer.
pub const STEER_HOPS: &str = name!(steer_hops);
/// The map of direct services' flows, with the epoch that each began in.
pub const STEER_FLOWS: &str = name!(steer_flows);
/// The map of the keys of the packet in hand, see [`HeadingNote`](crate::HeadingNote).
pub const STEER_NOTE: &str = name!(steer_note);
/// The map that bounds how many of them are written, see [`Inflow`](crate::Inflow).
pub const STEER_INFLOW: &str = name!(steer_inflow);

/// The map that counts packets and bytes by [`Reason`](crate::Reason), per CPU.
pub const REASONS: &str = name!(reasons);

/// The directory under the BPF file system that the product pins in.
pub const PIN_BASE: &str = "pgx";
/// The directory below it. It grows when the layout of a pinned map changes, so that an old
/// process and a new one never share a map that they read differently.
pub const PIN_VERSION: &str = "v1";

/// The kernel keeps 15 characters of a program's or map's name (`BPF_OBJ_NAME_LEN` less its nul);
/// a longer one would show up cut in its tools.
const NAME_LEN_MAX: usize = 15;

const _: () = {
    assert!(PGX_ROOT.len() <= NAME_LEN_MAX);
    assert!(LAB_PASS.len() <= NAME_LEN_MAX);
    assert!(LAB_PASS_TC.len() <= NAME_LEN_MAX && LAB_PASS_CGROUP.len() <= NAME_LEN_MAX);
    assert!(LAB_AGAIN.len() <= NAME_LEN_MAX && LAB_AGAIN_TC.len() <= NAME_LEN_MAX);
    assert!(LAB_FRAME.len() <= NAME_LEN_MAX);
    assert!(LAB_NEXT.len() <= NAME_LEN_MAX && LAB_NEXT_TC.len() <= NAME_LEN_MAX);
    assert!(REASONS.len() <= NAME_LEN_MAX);
    assert!(FENCE.len() <= NAME_LEN_MAX);
    assert!(FENCE_IN.len() <= NAME_LEN_MAX);
    assert!(FENCE_OUT.len() <= NAME_LEN_MAX);
    assert!(FENCE_CGROUP_IN.len() <= NAME_LEN_MAX);
    assert!(FENCE_CGROUP_OUT.len() <= NAME_LEN_MAX);
    assert!(LEASES.len() <= NAME_LEN_MAX);
    assert!(PEERS.len() <= NAME_LEN_MAX);
    assert!(FENCED.len() <= NAME_LEN_MAX);
    assert!(PROGRAMS.len() <= NAME_LEN_MAX);
    assert!(VIP.len() <= NAME_LEN_MAX);
    assert!(VIPS.len() <= NAME_LEN_MAX);
    assert!(LINKS.len() <= NAME_LEN_MAX);
    assert!(STEER.len() <= NAME_LEN_MAX);
    assert!(STEER_AWAY.len() <= NAME_LEN_MAX);
    assert!(REFUSE.len() <= NAME_LEN_MAX);
    assert!(STEER_TABLES.len() <= NAME_LEN_MAX);
    assert!(STEER_BUCKETS.len() <= NAME_LEN_MAX);
    assert!(STEER_SERVERS.len() <= NAME_LEN_MAX);
    assert!(STEER_SERVICES.len() <= NAME_LEN_MAX);
    assert!(STEER_HOPS.len() <= NAME_LEN_MAX);
    assert!(STEER_FLOWS.len() <= NAME_LEN_MAX);
    assert!(STEER_NOTE.len() <= NAME_LEN_MAX);
    assert!(STEER_INFLOW.len() <= NAME_LEN_MAX);
};
