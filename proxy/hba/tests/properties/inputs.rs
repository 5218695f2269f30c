//! Files as they are meant to be, for a test to cut and damage and for the fuzzer to begin with.

/// Some HBA files with what they include behind a byte 1 each, and some maps.
pub fn files() -> Vec<Vec<u8>> {
    let all: &[&[u8]] = &[
        b"local all all peer map=m\nhostssl \"all\",/^db\\d+$ all 10.0.0.0/8 cert clientname=DN\n",
        b"hostnossl sameuser,replication @d/list ::1 ffff:: reject # no\n\x01\x01\x01bob,\"a b\"\n",
        b"include d/a.conf\ninclude_dir d\x01host b \\\n all samenet md5\x01hostgssenc a b all md5",
        b"hostnogssenc all /[[:alpha:]_-]{1,3}(a|b) samehost scram-sha-256 clientcert=verify-ca",
        b"m /^(.*)@x$ \"a_\\1\"\nm bob all\nm eve /^guest\ninclude_if_exists d/none\n",
    ];
    all.iter().map(|text| text.to_vec()).collect()
}
