//! The fuzzer's properties, over a table of messages: each as it is, cut at every byte, and with
//! every byte changed; and over streams and exchanges that a seeded generator makes up.

#[path = "../../../fuzz/src/properties.rs"]
#[expect(unreachable_pub, reason = "they are public to the fuzzer")]
mod properties;

#[expect(unreachable_pub, reason = "they are public to the fuzzer's seeds")]
mod inputs;

/// Feeds each input to a property, whole, cut at every byte, and with every byte changed.
fn each(inputs: &[Vec<u8>], property: fn(&[u8])) {
    for input in inputs {
        for cut in 0..=input.len() {
            property(&input[..cut]);
        }
        for at in 0..input.len() {
            let mut damaged = input.clone();
            for value in [0, 1, 0x7f, 0xff, input[at] ^ 1, input[at] ^ 0x20, input[at] ^ 0x80] {
                damaged[at] = value;
                property(&damaged);
            }
        }
    }
}

#[test]
fn a_stream_of_messages_is_the_same_in_any_pieces() {
    each(&inputs::messages(), properties::frames);
}

#[test]
fn a_packet_before_start_up_is_read_whole_or_refused_for_good() {
    each(&inputs::messages(), properties::startup);
}

#[test]
fn every_reader_takes_any_body() {
    each(&inputs::messages(), properties::readers);
}

#[test]
fn any_bytes_can_be_a_password_and_none_that_are_damaged_a_stored_one() {
    each(&inputs::stored(), properties::stored);
}

#[test]
fn nobody_is_let_in_by_guessing() {
    each(&inputs::exchanges(), properties::server);
}

#[test]
fn no_server_is_believed_that_guesses() {
    each(&inputs::exchanges(), properties::client);
}

#[test]
fn who_relays_an_exchange_cannot_change_a_byte_of_it() {
    for message in 0..8 {
        properties::relay(&[message, 0, 0]);
        for at in 0..=u8::MAX {
            // A byte more, a byte less, and another byte.
            for change in [&[message, at, 0, b'A'][..], &[message, at, 1], &[message, at, 1, b',']]
            {
                properties::relay(change);
            }
        }
    }
}

/// SplitMix64: the same numbers from the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// Bytes that are often NUL, as those on the wire are.
    fn bytes(&mut self, bound: usize) -> Vec<u8> {
        let count = self.below(bound);
        (0..count)
            .map(|_| [0, 0, 0, 1, b'a', b'S', 0xff, self.next().to_le_bytes()[0]][self.below(8)])
            .collect()
    }
}

#[test]
fn bodies_and_streams_that_are_made_up_hold_as_well() {
    let table = inputs::messages();
    for seed in 0..20_000 {
        let random = &mut Random(seed);
        let mut input = random.bytes(24);
        properties::readers(&input);
        // Messages, one behind the other, with something strange between.
        let at = random.below(table.len());
        input.splice(0..0, table[at].iter().copied());
        input.extend_from_slice(&table[random.below(table.len())]);
        properties::frames(&input);
        properties::readers(&input);
        properties::startup(&input);
    }
}
