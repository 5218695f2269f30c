//! What must hold for any bytes, over the table of packets: each whole, cut and damaged. The fuzzer
//! checks the same over bytes that it makes up.

#[path = "../classify/packets.rs"]
#[expect(dead_code, reason = "the table is shared, only its frames are used here")]
mod packets;
#[path = "../../../fuzz/src/properties.rs"]
#[expect(unreachable_pub, reason = "the fuzzer's crate exports it")]
mod properties;
#[path = "../../../fuzz/src/steering.rs"]
#[expect(unreachable_pub, reason = "the fuzzer's crate exports it")]
mod steering;

/// Runs a property over every variant of every packet.
fn each(property: fn(&[u8])) {
    for packet in packets::all() {
        let mut frame = packet.frame;
        for length in 0..=frame.len().min(packet.headers + 8) {
            property(&frame[..length]);
        }
        for at in 0..packet.headers.min(200) {
            for damage in [0x01, 0x10, 0x80, 0xff] {
                frame[at] ^= damage;
                property(&frame);
                frame[at] ^= damage;
            }
        }
    }
}

#[test]
fn classification_reads_only_what_is_there() {
    each(properties::classify);
}

#[test]
fn shut_fence_lets_nothing_of_the_port_pass() {
    each(properties::fence);
}

#[test]
fn resets_are_readable_and_answer_no_reset() {
    each(properties::reset);
}

#[test]
fn answers_of_neighbour_discovery_are_readable() {
    each(properties::neighbour);
}

#[test]
fn steered_packet_is_of_the_flow_that_others_see_and_goes_on_twice_at_most() {
    each(steering::steering);
}
