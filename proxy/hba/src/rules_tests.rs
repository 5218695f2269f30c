//! Rules as they are read, matched, shown and refused by.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use pgx_wire::error_response::SqlState;

use crate::testing::Memory;
use crate::{Connection, Ident, Network, Refusal, Rules, limits};

fn read(text: &str) -> Result<Rules, String> {
    Rules::read("hba", &mut Memory::new(&[("hba", text)]))
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn rules(text: &str) -> Rules {
    read(text).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

/// Who comes from where: `FROM USER DATABASE [tls] [replication]`, `-` for a Unix socket.
fn connection(text: &str) -> Connection<'_> {
    let words: Vec<_> = text.split(' ').collect();
    let [from, user, database, ref more @ ..] = words[..] else { panic!("{text}") };
    Connection {
        address: (from != "-").then(|| from.parse().unwrap()),
        is_tls: more.contains(&"tls"),
        database: database.as_bytes(),
        user: user.as_bytes(),
        is_replication: more.contains(&"replication"),
        interfaces: &[],
    }
}

/// The line of the rule that decides, 0 if none does.
fn line(rules: &Rules, text: &str) -> u32 {
    rules.find(&connection(text)).map_or(0, |rule| rule.source.line)
}

#[test]
fn lines_are_shown_as_they_are_read() {
    for (text, expected) in [
        ("local all all trust", None),
        ("local  all\tall   ident map=x", Some("local all all peer map=x")),
        ("host all all 127.0.0.1/32 trust", None),
        ("hostssl a,b c,d ::1/128 scram-sha-256 clientcert=verify-ca", None),
        ("hostssl all all all md5 clientcert=verify-full clientname=DN", None),
        ("hostssl all all all cert", Some("hostssl all all all cert clientcert=verify-full")),
        ("hostssl all all all cert map=m clientcert=verify-full", None),
        ("hostssl all all all trust clientname=CN", Some("hostssl all all all trust")),
        ("hostnossl all all samehost reject", None),
        ("hostgssenc all all samenet password", None),
        ("hostnogssenc sameuser,replication all all reject", None),
        ("host all all 10.1.2.3 255.255.0.0 md5", Some("host all all 10.1.2.3/16 md5")),
        ("host all all 10.1.2.3 255.0.255.0 md5", None),
        ("host all all fe80::1/010 md5", Some("host all all fe80::1/10 md5")),
        ("host all all 0.0.0.0/0 md5", None),
        ("host \"all\",all \"all\",\"+a\" all md5", None),
        ("host \"shop\" a\"b c\"d all md5", Some("host shop \"ab cd\" all md5")),
        ("host /^db\\d+$,\"/a b,c\" /^(a|b)$ all md5", None),
        ("host \"@a\",@ \"+\",\"\" all md5", None),
        ("local all all peer \"map=a b\"", None),
        ("local all all peer map=", Some("local all all peer")),
        ("local all all peer map=a,map=b", Some("local all all peer map=b")),
    ] {
        let expected = format!("{} # hba:1", expected.unwrap_or(text));
        let rules = rules(text);
        assert_eq!(rules.as_slice()[0].to_string(), expected);
        let again = self::rules(&expected);
        assert_eq!(again, rules, "{text}");
    }
}

#[test]
fn every_problem_is_named_with_its_place_and_what_to_do() {
    for (text, expected) in [
        ("host", "end-of-line before database specification; "),
        ("host all", "end-of-line before role specification; "),
        ("host all all", "end-of-line before IP address specification; "),
        ("host all all all", "end-of-line before authentication method; "),
        ("host all all 127.0.0.1", "end-of-line before netmask specification; "),
        ("local all all", "end-of-line before authentication method; "),
        ("hosts all all all md5", "invalid connection type \"hosts\"; write local, host, "),
        ("host,local all all all md5", "multiple values specified for connection type; "),
        ("include", "include takes the name of one file or directory; "),
        ("include a b", "include takes the name of one file or directory; "),
        ("host all all ::1/128,::2/128 md5", "multiple values specified for host address; "),
        ("host all all ::1 a,b md5", "multiple values specified for netmask; "),
        ("host all all ::1 md5", "invalid IP mask \"md5\": not an address; "),
        ("host all all ::1 255.0.0.0 md5", "IP address and mask do not match; "),
        ("host all all ::1/129 md5", "invalid CIDR mask in address \"::1/129\"; "),
        ("host all all 1.2.3.4/33 md5", "invalid CIDR mask in address \"1.2.3.4/33\"; "),
        ("host all all 1.2.3.4/+8 md5", "invalid CIDR mask in address \"1.2.3.4/+8\"; "),
        ("host all all 1.2.3.4/ md5", "invalid CIDR mask in address \"1.2.3.4/\"; "),
        ("host all all db.example.com md5", "host name \"db.example.com\": pgx does not ask "),
        ("host all all .example.com md5", "host name \".example.com\": pgx does not ask the DNS"),
        ("host all all \"all\" md5", "host name \"all\": pgx does not ask the DNS who a client"),
        ("host all all 10/8 md5", "specifying both host name and CIDR mask is invalid: \"10/8\""),
        ("host samerole all all md5", "\"samerole\" asks who is a member of a role, which only a"),
        ("host samegroup all all md5", "\"samegroup\" asks who is a member of a role, which only"),
        ("host all +admins all md5", "\"+admins\" asks who is a member of a role, which only a "),
        ("host all /a( all md5", "invalid regular expression \"a(\": unclosed group; mend it"),
        ("host /\\ba all all md5", "invalid regular expression \"\\\\ba\": \\b is not matched by"),
        ("host all all all md5,trust", "multiple values specified for authentication type; "),
        ("host all all all crypt", "invalid authentication method \"crypt\"; write trust, "),
        ("host all all all \"\"", "invalid authentication method \"\"; write trust, reject, "),
        ("host all all all peer", "peer authentication is only supported on local sockets; "),
        ("host all all all cert", "cert authentication is only supported on hostssl connections"),
        ("hostnossl all all all cert", "cert authentication is only supported on hostssl "),
        ("host all all all md5 x", "authentication option not in name=value format: x; "),
        ("host all all all md5 x=1", "unrecognized authentication option name: \"x\"; pgx knows"),
        ("host all all all md5 map=a", "authentication option \"map\" is only valid for "),
        ("host all all all md5 clientcert=verify-ca", "clientcert can only be configured for "),
        ("host all all all md5 clientname=CN", "clientname can only be configured for \"hostssl\""),
        ("hostssl all all all md5 clientcert=1", "invalid value for clientcert: \"1\"; write veri"),
        ("hostssl all all all md5 clientname=x", "invalid value for clientname: \"x\"; write CN "),
        ("hostssl all all all cert clientcert=verify-ca", "clientcert can only be set to "),
    ] {
        let found = read(text).expect_err(text);
        let expected = format!("hba:1: {expected}");
        assert!(found.starts_with(&expected) && !found.contains('\n'), "{text}\n{found}");
        assert!(found.contains("; "), "it says what to do: {found}");
    }
    for method in ["gss", "sspi", "ident", "ldap", "radius", "pam", "bsd", "oauth"] {
        let found = read(&format!("host all all all {method} ldapserver=x")).unwrap_err();
        let expected =
            format!("hba:1: authentication method \"{method}\" is PostgreSQL's, not pgx");
        assert!(found.starts_with(&expected) && found.contains("; write "), "{found}");
    }
    assert_eq!(read("# nothing\n").unwrap_err().find("hba: contains no entries"), Some(0));
}

#[test]
fn all_problems_are_found_at_once_but_not_without_end() {
    let found =
        read("host samerole,a +b,+c db.example.com ldap\n\nhost all all 1/8 md5 a b=c\nx\n");
    let found = found.unwrap_err();
    let lines: Vec<_> = found.lines().map(|line| &line[..6]).collect();
    let expected = ["hba:1:"; 5].into_iter().chain(["hba:3:"; 3]).chain(["hba:4:"]);
    assert!(expected.eq(lines), "{found}");

    let found = read(&"x\n".repeat(1_000)).unwrap_err();
    assert_eq!(found.lines().count(), limits::PROBLEMS_MAX + 1);
    assert!(found.ends_with("more than 100 problems; mend those above first"));

    let patterns = vec!["/a"; limits::PATTERNS_MAX + 1].join(",");
    let found = read(&format!("local all {patterns} trust")).unwrap_err();
    assert!(found.contains("more than 256 regular expressions"), "{found}");
}

#[test]
fn first_rule_that_matches_decides() {
    let rules = rules(
        "local all admin peer\n\
         local sameuser,shop all md5\n\
         hostssl all /^svc_ all trust\n\
         hostnossl all /^svc_ all reject\n\
         hostgssenc all all all trust\n\
         host replication repl 10.0.0.0/8 md5\n\
         host shop all 10.1.0.0 255.255.0.0 md5\n\
         host all,\"replication\" bob ::1/128 md5\n\
         hostnogssenc /^t\\d$ \"all\" 127.0.0.1/32 md5",
    );
    for (from, expected) in [
        ("- admin x", 1),
        ("- bob bob", 2),
        ("- bob shop", 2),
        ("- bob x", 0),
        ("1.2.3.4 svc_a x tls", 3),
        ("1.2.3.4 svc_a x", 4),
        ("1.2.3.4 a_svc_ x", 0),
        ("10.1.2.3 repl repl replication", 6),
        ("10.1.2.3 repl repl", 0),
        ("10.1.2.3 other other replication", 0),
        ("10.1.2.3 other shop tls", 7),
        ("10.2.2.3 other shop", 0),
        ("::ffff:10.1.2.3 other shop", 7),
        ("::1 bob x", 8),
        ("::1 bob replication", 8),
        ("::1 bob bob replication", 0),
        ("::2 bob x", 0),
        ("127.0.0.1 all t1", 9),
        ("127.0.0.1 any t1", 0),
        ("127.0.0.1 all t12", 0),
        ("- svc_a x tls", 0),
    ] {
        assert_eq!(line(&rules, from), expected, "{from}");
    }
}

#[test]
fn names_are_cut_where_servers_cut_them() {
    let name = "n".repeat(limits::NAME_BYTES_MAX);
    let rules = rules(&format!("host {name} {name} all reject\nhost sameuser all all trust"));
    assert_eq!(line(&rules, &format!("1.2.3.4 {name}xyz {name}abc")), 1);
    assert_eq!(line(&rules, &format!("1.2.3.4 o{name}xyz o{name}abc")), 2);
}

#[test]
fn names_need_no_encoding() {
    let rules = rules("host all /^.$ all trust\nhost all all all trust");
    let user = [0xff];
    let found = rules.find(&Connection { user: &user, ..connection("1.2.3.4 x x") });
    assert_eq!(found.unwrap().source.line, 2);
}

#[test]
fn own_addresses_and_networks_are_those_of_the_interfaces() {
    let rules = rules("host all all samehost trust\nhost all all samenet md5");
    assert!(rules.uses_interfaces());
    assert!(!self::rules("host all all all md5").uses_interfaces());
    let network = |address: &str, mask: &str| {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        Network::new(parse(address), parse(mask)).unwrap()
    };
    let interfaces = [network("10.0.0.5", "255.255.255.0"), network("fd00::5", "ffff::")];
    for (from, expected) in [
        ("10.0.0.5 a a", 1),
        ("10.0.0.6 a a", 2),
        ("10.0.1.5 a a", 0),
        ("fd00::5 a a", 1),
        ("fd00:1::6 a a", 2),
        ("fd01::5 a a", 0),
    ] {
        let connection = Connection { interfaces: &interfaces, ..connection(from) };
        let found = rules.find(&connection).map_or(0, |rule| rule.source.line);
        assert_eq!(found, expected, "{from}");
        assert_eq!(line(&rules, from), 0, "without interfaces");
    }
    assert_eq!(Network::new("::1".parse().unwrap(), "255.0.0.0".parse().unwrap()), None);
}

#[test]
fn refusals_are_in_the_words_of_postgresql() {
    let rules = rules("host all,replication eve all reject\nlocal all all peer");
    for (from, expected) in [
        ("- bob shop", None),
        (
            "1.2.3.4 bob shop",
            Some(
                "no pg_hba.conf entry for host \"1.2.3.4\", user \"bob\", database \"shop\", no \
                 encryption",
            ),
        ),
        (
            "::1 bob shop tls",
            Some(
                "no pg_hba.conf entry for host \"::1\", user \"bob\", database \"shop\", SSL \
                 encryption",
            ),
        ),
        (
            "- bob bob replication",
            Some(
                "no pg_hba.conf entry for replication connection from host \"[local]\", user \
                 \"bob\", no encryption",
            ),
        ),
        (
            "::ffff:1.2.3.4 eve shop",
            Some(
                "pg_hba.conf rejects connection for host \"1.2.3.4\", user \"eve\", database \
                 \"shop\", no encryption",
            ),
        ),
        (
            "1.2.3.4 eve eve tls replication",
            Some(
                "pg_hba.conf rejects replication connection for host \"1.2.3.4\", user \"eve\", \
                 SSL encryption",
            ),
        ),
    ] {
        let connection = connection(from);
        let refusal = Refusal::new(&connection, rules.find(&connection));
        assert_eq!(refusal.map(|refusal| refusal.to_string()).as_deref(), expected, "{from}");
        assert!(
            refusal.is_none_or(|refusal| refusal.sqlstate() == SqlState::INVALID_AUTHORIZATION)
        );
    }
}

/// What `initdb` writes, with its comments left out.
#[test]
fn file_of_a_fresh_cluster_is_read() {
    let rules = rules(
        "# PostgreSQL Client Authentication Configuration File\n\
         # TYPE  DATABASE        USER            ADDRESS                 METHOD\n\
         \n\
         # \"local\" is for Unix domain socket connections only\n\
         local   all             all                                     peer\n\
         # IPv4 local connections:\n\
         host    all             all             127.0.0.1/32            scram-sha-256\n\
         # IPv6 local connections:\n\
         host    all             all             ::1/128                 scram-sha-256\n\
         # Allow replication connections from localhost, by a user with the\n\
         # replication privilege.\n\
         local   replication     all                                     peer\n\
         host    replication     all             127.0.0.1/32            scram-sha-256\n\
         host    replication     all             ::1/128                 scram-sha-256\n",
    );
    assert_eq!(rules.as_slice().len(), 6);
    assert_eq!(line(&rules, "- a a"), 5);
    assert_eq!(line(&rules, "127.0.0.1 a a replication"), 13);
    assert_eq!(line(&rules, "::1 a a"), 9);
    assert_eq!(line(&rules, "10.0.0.1 a a"), 0);
}

fn ident(text: &str) -> Result<Ident, String> {
    Ident::read("ident", &mut Memory::new(&[("ident", text)]))
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn maps_say_who_may_be_whom() {
    let ident = ident(
        "staff  ann           admin\n\
         staff  /^(.*)@x\\.org$  \\1\n\
         staff  /^(.*)@y\\.org$  \"y_\\1_z\" passed over\n\
         other  bob           all\n\
         other  eve           /^guest\n\
         other  \"dan\"         \"all\"\n\
         odd    bc            \\1\n\
         odd    /^b           any\n\
         include a b\n",
    )
    .unwrap();
    for (map, system_user, user, expected) in [
        ("staff", "ann", "admin", true),
        ("staff", "ann", "ann", false),
        ("staff", "bob@x.org", "bob", true),
        ("staff", "bob@x.org", "ann", false),
        ("staff", "bob@y.org", "y_bob_z", true),
        ("staff", "bob@y.org", "bob", false),
        ("other", "bob", "anybody", true),
        ("other", "eve", "guest1", true),
        ("other", "eve", "eve", false),
        ("other", "dan", "all", true),
        ("other", "dan", "bob", false),
        ("odd", "bc", "\\1", true),
        ("odd", "bc", "any", true),
        ("none", "ann", "ann", false),
        ("include", "a", "b", true),
    ] {
        let found = ident.allows(Some(map), system_user.as_bytes(), user.as_bytes());
        assert_eq!(found, expected, "{map} {system_user} {user}");
    }
    assert!(ident.allows(None, b"ann", b"ann"));
    assert!(!ident.allows(None, b"ann", b"Ann"));
    let expected = r#"staff /^(.*)@y\.org$ "y_\1_z" # ident:3"#;
    assert_eq!(ident.as_slice()[2].to_string(), expected);
    let shown: Vec<_> = ident.as_slice().iter().map(ToString::to_string).collect();
    assert_eq!(self::ident(&shown.join("\n")).unwrap(), ident);
}

#[test]
fn maps_with_problems_are_refused() {
    for (text, expected) in [
        ("a b", "missing entry at end of line; "),
        ("a b,c d", "multiple values in ident field; "),
        ("a /( d", "invalid regular expression \"(\": unclosed group; "),
        ("a /b \\1", "regular expression \"b\" has no subexpressions as requested by "),
        ("a /(b) \\1", "what \\1 in \"\\\\1\" stands for may be something else in PostgreSQL; "),
        ("a /^(b)?$ \\1", "what \\1 in \"\\\\1\" stands for may be something else in PostgreSQL; "),
        ("a /^(b|bc).*$ \\1", "what \\1 in \"\\\\1\" stands for may be something else in "),
        ("a /^(b*?).*$ \\1", "what \\1 in \"\\\\1\" stands for may be something else in "),
        ("a /^(b).*\\$ \\1", "what \\1 in \"\\\\1\" stands for may be something else in "),
        ("a b +c", "\"+c\" asks who is a member of a role, which only a server knows; "),
    ] {
        let found = ident(text).expect_err(text);
        assert!(found.starts_with(&format!("ident:1: {expected}")), "{found}");
    }
    assert_eq!(ident("# nobody"), Ok(Ident::default()));
}
