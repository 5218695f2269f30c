//! What must hold of HBA files and maps of users, whatever stands in them.
//!
//! Reading ends with rules or with problems that say what to do. Rules that are shown and read
//! again are the same, and decide the same.

use std::net::IpAddr;

use pgx_hba::limits::PROBLEMS_MAX;
use pgx_hba::{
    Connection, Database, Files, Ident, Mapped, Mapping, Network, Problem, ReadError, Refusal,
    Rule, Rules, SystemUser, User,
};

/// What stands in an input between its files, of which the first includes the others.
const FILES_MARK: u8 = 1;
const NAMES: &[&str] = &["main", "d/a.conf", "d/b.conf", "d/list"];

/// The input is a file of each kind, and what it may include.
pub fn hba(bytes: &[u8]) {
    let mut files = InMemory(bytes.split(|&byte| byte == FILES_MARK).collect());
    match Rules::read("main", &mut files) {
        Ok(rules) => same_again(&rules),
        Err(problems) => say_what_to_do(&problems),
    }
    match Ident::read("main", &mut files) {
        Ok(ident) => same_maps_again(&ident),
        Err(problems) => say_what_to_do(&problems),
    }
}

fn say_what_to_do(problems: &[Problem]) {
    assert!((1..=PROBLEMS_MAX + 1).contains(&problems.len()));
    for problem in problems {
        assert!(problem.to_string().contains("; "), "{problem}");
    }
}

fn same_again(rules: &Rules) {
    let shown: Vec<_> = rules.as_slice().iter().map(Rule::to_string).collect();
    let text = shown.join("\n");
    let again = Rules::read("main", &mut InMemory(vec![text.as_bytes()]));
    let again = again.unwrap_or_else(|problems| panic!("{text}\n{problems:?}"));
    assert_eq!(again.as_slice().len(), shown.len(), "{text}");
    for (rule, again) in rules.as_slice().iter().zip(again.as_slice()) {
        assert_eq!(&Rule { source: again.source.clone(), ..rule.clone() }, again, "{text}");
    }
    let index = |of: &Rules, connection: &Connection<'_>| {
        let found = of.find(connection)?;
        of.as_slice().iter().position(|rule| std::ptr::eq(rule, found))
    };
    let localhost: IpAddr = [127, 0, 0, 1].into();
    let interfaces = [Network::new(localhost, [255, 0, 0, 0].into()).unwrap()];
    for rule in rules.as_slice().iter().take(8) {
        let (database, user) = (database(rule), user(&rule.users[0]));
        for number in 0..8 {
            let connection = Connection {
                address: (number & 1 != 0).then_some(localhost),
                is_tls: number & 3 == 3,
                database: database.as_bytes(),
                user: user.as_bytes(),
                is_replication: number & 4 != 0,
                interfaces: &interfaces,
            };
            let found = index(rules, &connection);
            assert_eq!(found, index(&again, &connection), "{connection:?} {text}");
            let refusal = Refusal::new(&connection, rules.find(&connection));
            assert!(found.is_some() || refusal.is_some());
            assert!(refusal.is_none_or(|refusal| refusal.to_string().contains("pg_hba.conf")));
        }
    }
}

fn database(rule: &Rule) -> &str {
    match &rule.databases[0] {
        Database::Name(name) => name,
        Database::Matching(pattern) => pattern.text(),
        Database::All | Database::SameUser | Database::Replication => user(&rule.users[0]),
    }
}

fn user(user: &User) -> &str {
    match user {
        User::All => "anybody",
        User::Name(name) => name,
        User::Matching(pattern) => pattern.text(),
    }
}

fn same_maps_again(ident: &Ident) {
    let shown: Vec<_> = ident.as_slice().iter().map(Mapping::to_string).collect();
    let text = shown.join("\n");
    let again = Ident::read("main", &mut InMemory(vec![text.as_bytes()]));
    let again = again.unwrap_or_else(|problems| panic!("{text}\n{problems:?}"));
    assert_eq!(again.as_slice().len(), shown.len(), "{text}");
    for (mapping, again_mapping) in ident.as_slice().iter().zip(again.as_slice()) {
        let source = again_mapping.source.clone();
        assert_eq!(&Mapping { source, ..mapping.clone() }, again_mapping, "{text}");
        let system_user = match &mapping.system_user {
            SystemUser::Name(name) => name,
            SystemUser::Matching(pattern) => pattern.text(),
        };
        let user = match &mapping.mapped {
            Mapped::To(mapped) => user(mapped),
            Mapped::Group { before, .. } => before,
        };
        let allows = |ident: &Ident| {
            ident.allows(Some(&mapping.map), system_user.as_bytes(), user.as_bytes())
        };
        assert_eq!(allows(ident), allows(&again), "{text}");
    }
}

/// The files of an input by their names.
struct InMemory<'a>(Vec<&'a [u8]>);

impl Files for InMemory<'_> {
    fn read(&mut self, path: &str, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let number = NAMES.iter().position(|&name| name == path);
        let text = number.and_then(|number| self.0.get(number)).ok_or_else(missing)?;
        Ok(text[..text.len().min(bytes_max)].to_vec())
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, ReadError> {
        let below = |name: &&str| name.strip_prefix(path)?.strip_prefix('/').map(str::to_owned);
        Ok(NAMES.iter().take(self.0.len()).filter_map(below).collect())
    }
}

fn missing() -> ReadError {
    ReadError { is_missing: true, reason: "no such file".to_owned() }
}
