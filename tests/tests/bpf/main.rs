//! The BPF objects in a real kernel: each packet's verdict, and attaching, pinning, restarting.
//!
//! The committed objects are tested, or those that `PGX_BPF_OBJECTS` names. Everything happens in
//! network and mount namespaces that end with the test's thread, so nothing is left behind.

mod attach;
mod fence;
mod fenced;
mod flood;
mod flows;
mod gate;
mod guard;
mod handover;
mod hosts;
mod instructions;
mod net;
mod nft;
#[path = "../../../ebpf/rules/tests/classify/packets.rs"]
mod packets;
mod refuse;
mod space;
mod steer;
mod takeover;
mod verdict;
mod vip;
mod wire;

use libtest_mimic::Arguments;

fn main() {
    // What is to be killed in a test is this program, in another process.
    if takeover::helper().unwrap_or_else(|error| panic!("{error:?}")) {
        return;
    }
    let arguments = Arguments::from_args();
    let mut trials = verdict::trials();
    trials.extend(fence::trials());
    trials.extend(gate::trials());
    trials.extend(guard::trials());
    trials.extend(handover::trials());
    trials.extend(nft::trials());
    trials.extend(vip::trials());
    trials.extend(takeover::trials());
    trials.extend(instructions::trials());
    trials.extend(steer::trials());
    trials.extend(flows::trials());
    trials.extend(flood::trials());
    trials.extend(fenced::trials());
    trials.extend(refuse::trials());
    trials.extend(attach::trials());
    libtest_mimic::run(&arguments, trials).exit();
}
