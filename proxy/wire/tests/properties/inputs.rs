//! Messages as they are meant to be, for tests to cut and damage and for the fuzzer to begin with.

/// Packets, streams of messages, and bodies alone.
pub fn messages() -> Vec<Vec<u8>> {
    let messages: &[&[u8]] = &[
        // Before the first message.
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x08\x04\xd2\x16\x30",
        b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x2akey!",
        b"\0\0\0\x20\0\x03\0\x02user\0ann\0database\0shop\0\0",
        // Streams of a client and of a server.
        b"Q\0\0\0\x0dselect 1\0S\0\0\0\x04X\0\0\0\x04",
        b"P\0\0\0\x0cs\0t\0\0\0B\0\0\0\x0c\0s\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04",
        b"1\0\0\0\x042\0\0\0\x04C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I",
        b"S\0\0\0\x0bTZ\0UTC\0\0N\0\0\0\x05\0K\0\0\0\x0c\0\0\0\x01key!",
        // Bodies of a server.
        b"\0\0\0\0",
        b"\0\0\0\x03",
        b"\0\0\0\x05salt",
        b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
        b"\0\0\0\x0br=abc,s=c2FsdA==,i=4096",
        b"\0\0\0\x0cv=c2ln",
        b"\0\0\0\x2akey!",
        b"TimeZone\0UTC\0",
        b"I",
        b"T",
        b"E",
        b"SFATAL\0VFATAL\0C57P01\0Mstops\0Rquickdie\0\0",
        b"Mno code\0\xffunknown\0\0",
        b"INSERT 0 1\0",
        b"\0\x03\0\x02\0\0\0\x02_pq_.a\0_pq_.b\0",
        b"\0\0\0\x09jobs\0payload\0",
        // Bodies of a client.
        b"stmt\0select $1, $2\0\0\x02\0\0\0\x17\0\0\0\x19",
        b"portal\0stmt\0\0\x01\0\0\0\x01\0\0\0\x05value\0\0",
        b"Sstmt\0",
        b"Pportal\0",
        b"portal\0\0\0\0\x64",
        b"SCRAM-SHA-256\0\0\0\0\x03n,,",
        b"SCRAM-SHA-256\0\xff\xff\xff\xff",
    ];
    messages.iter().map(|message| message.to_vec()).collect()
}

/// Passwords, and what is stored of one, with a NUL between.
pub fn stored() -> Vec<Vec<u8>> {
    let stored: &[&[u8]] = &[
        b"pencil\0SCRAM-SHA-256$4096:nrXiIRrlzszxCNNFKQDuWA==$\
          ru/bFRfABJSqdhwvdHsc93Rm99YUc7bUY7FJJ4q5AZk=:\
          yQaEP5a0Rr0HW99x/gCiLBoBeY7akzO+Z5GkDMe1wpo=",
        b"secret\0md5132ecbcbfa11be529b63ea4c4e734056",
        b"I\xc2\xadX \xe3\x80\x80e\xcc\x81 \xe2\x85\xa8\0ann",
        b"\xd8\xa7\xd8\xa8\0ann",
        b"\xff\0",
    ];
    stored.iter().map(|stored| stored.to_vec()).collect()
}

/// What one side of a SCRAM exchange sends, with a NUL between its messages and 1 in the place of
/// the nonce; and changes by somebody in the middle.
pub fn exchanges() -> Vec<Vec<u8>> {
    let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let bound = "cD10bHMtc2VydmVyLWVuZC1wb2ludCwsaGFzaCBvZiBhIGNlcnRpZmljYXRl";
    let exchanges = [
        format!("\x02y,,n=,r=abc\0c=eSws,r=\x01,p={proof}"),
        format!("\x04n,,n=,r=abc\0c=biws,r=\x01,p={proof}"),
        format!("\x04n,a=b,n=,r=abc\0c=biws,r=\x01,x=y,p={proof}"),
        format!("\x03p=tls-server-end-point,,n=,r=abc\0c={bound},r=\x01,p={proof}"),
        format!("r=\x01xyz,s=c2l4dGVlbiBieXRlcyBvZg==,i=4096\0v={proof}"),
        String::from("r=\x01xyz,s=c2FsdA==,i=1000000,x=y\0e=other-error"),
        String::from("\x04\x00\x01y"),
        String::from("\x00\x07\x00x"),
        String::from("\x01\x22\x01y"),
        String::from("\x06\x03\x04biws"),
        String::from("\x03\x7f\x00,x=y"),
    ];
    exchanges.into_iter().map(String::into_bytes).collect()
}
