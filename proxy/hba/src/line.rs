//! Makes a rule of the fields of a line, or says what is wrong with each of them.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::slice;

use crate::address::{Address, Network};
use crate::files::{Line, is_include};
use crate::limits;
use crate::pattern::Pattern;
use crate::problem::{Problems, Source, What};
use crate::rule::{ClientCert, ClientName, Database, Encryption, Method, Origin, Rule, User};
use crate::words::Word;

/// Reads rules; one for all lines, as some bounds are for all of them.
pub(crate) struct Reader<'a> {
    pub(crate) problems: &'a mut Problems,
    patterns_left: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(problems: &'a mut Problems) -> Self {
        Self { problems, patterns_left: limits::PATTERNS_MAX }
    }

    /// Reads a line of `pg_hba.conf`; `None` if it has problems.
    pub(crate) fn rule(&mut self, line: &Line) -> Option<Rule> {
        let before = self.problems.count();
        let (at, mut fields) = (&line.source, line.fields.iter());
        let rule = self.fields(at, &mut fields)?;
        (self.problems.count() == before).then_some(rule)
    }

    /// `None` if a problem keeps what follows from being read. With a lesser one the rule is made
    /// up, so that problems behind it are found too.
    fn fields(&mut self, at: &Source, rest: &mut slice::Iter<'_, Vec<Word>>) -> Option<Rule> {
        let encryption = self.kind(at, rest)?;
        let databases = self.field(at, rest, "database specification")?;
        let databases = databases.iter().filter_map(|word| self.database(at, word)).collect();
        let users = self.field(at, rest, "role specification")?;
        let users = users.iter().filter_map(|word| self.user(at, word)).collect();
        let origin = match encryption {
            None => Origin::Local,
            Some(encryption) => Origin::Host(encryption, self.address(at, rest)?),
        };
        let method = self.method(at, rest, origin)?;
        let mut rule = Rule {
            source: at.clone(),
            origin,
            databases,
            users,
            method,
            map: None,
            client_cert: ClientCert::None,
            client_name: ClientName::CommonName,
        };
        for word in rest.flatten() {
            self.option(word, &mut rule);
        }
        if method == Method::Cert {
            rule.client_cert = ClientCert::VerifyFull;
        }
        Some(rule)
    }

    /// Reports a problem, behind which the line cannot be read.
    fn fail<T>(&mut self, at: &Source, what: What) -> Option<T> {
        self.problems.add(at, what);
        None
    }

    fn field<'f>(
        &mut self,
        at: &Source,
        rest: &mut slice::Iter<'f, Vec<Word>>,
        missing: &'static str,
    ) -> Option<&'f [Word]> {
        match rest.next() {
            Some(field) => Some(field),
            None => self.fail(at, What::Ends { missing }),
        }
    }

    /// A field of one word.
    fn word<'f>(
        &mut self,
        at: &Source,
        rest: &mut slice::Iter<'f, Vec<Word>>,
        missing: &'static str,
        many: What,
    ) -> Option<&'f Word> {
        match self.field(at, rest, missing)? {
            [word] => Some(word),
            _ => self.fail(at, many),
        }
    }

    /// The encryption, and `None` within for a Unix socket.
    fn kind(
        &mut self,
        at: &Source,
        rest: &mut slice::Iter<'_, Vec<Word>>,
    ) -> Option<Option<Encryption>> {
        let word = self.word(at, rest, "connection type", What::ManyTypes)?;
        if is_include(slice::from_ref(word)) {
            return self.fail(at, What::IncludeTakesOne { word: word.text.clone() });
        }
        Some(Some(match &word.text[..] {
            "local" => return Some(None),
            "host" => Encryption::Any,
            "hostssl" => Encryption::Tls,
            "hostnossl" => Encryption::NoTls,
            "hostgssenc" => Encryption::Gss,
            "hostnogssenc" => Encryption::NoGss,
            other => return self.fail(at, What::UnknownType { word: other.to_string() }),
        }))
    }

    fn database(&mut self, at: &Source, word: &Word) -> Option<Database> {
        Some(match &word.text[..] {
            "all" if !word.is_quoted => Database::All,
            "sameuser" if !word.is_quoted => Database::SameUser,
            "replication" if !word.is_quoted => Database::Replication,
            "samerole" | "samegroup" if !word.is_quoted => {
                return self.fail(at, What::Membership { word: word.text.clone() });
            }
            text => match text.strip_prefix('/') {
                Some(pattern) => Database::Matching(self.pattern(at, pattern)?),
                None => Database::Name(text.to_string()),
            },
        })
    }

    /// A word for users, of this file or of `pg_ident.conf`.
    pub(crate) fn user(&mut self, at: &Source, word: &Word) -> Option<User> {
        if word.is_keyword("all") {
            return Some(User::All);
        }
        if !word.is_quoted && word.text.starts_with('+') {
            return self.fail(at, What::Membership { word: word.text.clone() });
        }
        match word.text.strip_prefix('/') {
            Some(pattern) => Some(User::Matching(self.pattern(at, pattern)?)),
            None => Some(User::Name(word.text.clone())),
        }
    }

    /// Compiles a regular expression, whose slash is taken off.
    pub(crate) fn pattern(&mut self, at: &Source, pattern: &str) -> Option<Pattern> {
        let Some(left) = self.patterns_left.checked_sub(1) else {
            return self.fail(at, What::TooManyPatterns);
        };
        self.patterns_left = left;
        match Pattern::new(pattern) {
            Ok(compiled) => Some(compiled),
            Err(fault) => self.fail(at, What::BadPattern { pattern: pattern.to_string(), fault }),
        }
    }

    fn address(&mut self, at: &Source, rest: &mut slice::Iter<'_, Vec<Word>>) -> Option<Address> {
        let word = self.word(at, rest, "IP address specification", What::ManyAddresses)?;
        for (keyword, address) in
            [("all", Address::All), ("samehost", Address::SameHost), ("samenet", Address::SameNet)]
        {
            if word.is_keyword(keyword) {
                return Some(address);
            }
        }
        let (host, prefix) = match word.text.split_once('/') {
            Some((host, prefix)) => (host, Some(prefix)),
            None => (&word.text[..], None),
        };
        let Ok(address) = host.parse::<IpAddr>() else {
            let (word, is_alone) = (word.text.clone(), prefix.is_none());
            let may_have_mask = is_alone && host.starts_with(|first: char| first.is_ascii_digit());
            self.problems.add(
                at,
                match is_alone {
                    true => What::HostName { name: word },
                    false => What::HostNameWithMask { word },
                },
            );
            // A short address as 127.1 has a mask in the next column, a name has none.
            return (!may_have_mask).then_some(Address::All);
        };
        match prefix {
            Some(prefix) => {
                let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
                let bits = prefix.parse().ok().filter(|_| is_number);
                match bits.and_then(|bits| Network::with_prefix(address, bits)) {
                    Some(network) => return Some(Address::Range(network)),
                    None => self.problems.add(at, What::BadPrefix { word: word.text.clone() }),
                }
                Some(Address::All)
            }
            None => self.mask(at, rest, address),
        }
    }

    /// The column behind an address that has no slash.
    fn mask(
        &mut self,
        at: &Source,
        rest: &mut slice::Iter<'_, Vec<Word>>,
        address: IpAddr,
    ) -> Option<Address> {
        let word = self.word(at, rest, "netmask specification", What::ManyMasks)?;
        let Ok(mask) = word.text.parse::<IpAddr>() else {
            return self.fail(at, What::BadMask { word: word.text.clone() });
        };
        match Network::new(address, mask) {
            Some(network) => Some(Address::Range(network)),
            None => self.fail(at, What::MaskOfOtherKind),
        }
    }

    fn method(
        &mut self,
        at: &Source,
        rest: &mut slice::Iter<'_, Vec<Word>>,
        origin: Origin,
    ) -> Option<Method> {
        let word = self.word(at, rest, "authentication method", What::ManyMethods)?;
        let is_local = origin == Origin::Local;
        Some(match &word.text[..] {
            "trust" => Method::Trust,
            "reject" => Method::Reject,
            "password" => Method::Password,
            "md5" => Method::Md5,
            "scram-sha-256" => Method::ScramSha256,
            "cert" if matches!(origin, Origin::Host(Encryption::Tls, _)) => Method::Cert,
            "cert" => return self.fail(at, What::CertWithoutTls),
            // PostgreSQL takes ident for peer there, as both ask who the user of the system is.
            "peer" | "ident" if is_local => Method::Peer,
            "peer" => return self.fail(at, What::PeerNotLocal),
            other => {
                let word = other.to_string();
                let what = foreign(other).unwrap_or(What::UnknownMethod { word });
                return self.fail(at, what);
            }
        })
    }

    fn option(&mut self, word: &Word, rule: &mut Rule) {
        let what = match word.text.split_once('=') {
            None => What::OptionForm { word: word.text.clone() },
            Some((name, value)) => match set(rule, name, value) {
                Ok(()) => return,
                Err(what) => what,
            },
        };
        self.problems.add(&rule.source, what);
    }
}

/// Methods of PostgreSQL that pgx lacks, and what is to be used.
fn foreign(method: &str) -> Option<What> {
    let password = "write scram-sha-256 and give pgx the users' passwords";
    let (method, instead) = match method {
        "gss" => ("gss", password),
        "sspi" => ("sspi", password),
        "ident" => ("ident", "write cert, or scram-sha-256"),
        "ldap" => ("ldap", password),
        "radius" => ("radius", password),
        "pam" => ("pam", password),
        "bsd" => ("bsd", password),
        "oauth" => ("oauth", "write cert, or scram-sha-256"),
        _ => return None,
    };
    Some(What::ForeignMethod { method, instead })
}

fn set(rule: &mut Rule, name: &str, value: &str) -> Result<(), What> {
    let is_tls = matches!(rule.origin, Origin::Host(Encryption::Tls, _));
    match name {
        "map" if !matches!(rule.method, Method::Peer | Method::Cert) => {
            return Err(What::MapWithoutSystemUser);
        }
        // No map, as for PostgreSQL.
        "map" => rule.map = (!value.is_empty()).then(|| value.to_string()),
        "clientcert" if !is_tls => return Err(What::OptionWithoutTls { option: "clientcert" }),
        "clientcert" => {
            rule.client_cert = match value {
                "verify-ca" if rule.method == Method::Cert => return Err(What::CertIsVerifyFull),
                "verify-ca" => ClientCert::VerifyCa,
                "verify-full" => ClientCert::VerifyFull,
                _ => return Err(bad_value("clientcert", value, "verify-ca or verify-full")),
            }
        }
        "clientname" if !is_tls => return Err(What::OptionWithoutTls { option: "clientname" }),
        "clientname" => {
            rule.client_name = match value {
                "CN" => ClientName::CommonName,
                "DN" => ClientName::DistinguishedName,
                _ => return Err(bad_value("clientname", value, "CN or DN")),
            }
        }
        _ => return Err(What::UnknownOption { name: name.to_string() }),
    }
    Ok(())
}

fn bad_value(option: &'static str, value: &str, instead: &'static str) -> What {
    What::BadValue { option, value: value.to_string(), instead }
}
