//! The fence around every interface and around PostgreSQL's sockets: brings it up, keeps it up, and
//! says where it stands.
//!
//! [`Guard::raise`] attaches to what is there, [`Guard::wait`] hears of what appears later, and
//! [`Guard::tend`] attaches to that at once, drops what is gone, and tries every place out with
//! real packets. It writes no lease: that is the [`Keeper`]'s. An interface whose
//! packets begin with no Ethernet header (a tunnel) has no hook that reads them; the cgroup of
//! PostgreSQL's sockets guards there, as it does between the moment an interface appears and its
//! attachment.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use pgx_abi::{PORT_DEFAULT, Reason};

use crate::device;
use crate::hooks::{CGROUP, Way};
use crate::links::{self, Framing, Link, Watch};
use crate::listener::{Listener, cgroup_folder, listeners};
use crate::place::{At, Hook, Place, Trial};
use crate::{Error, Keeper, Mode, Objects, Pins, Plane, keeper, knock};

/// How long a packet over loopback may take to the program that counts it, on a host with a busy
/// processor.
const ARRIVAL_MAX: Duration = Duration::from_millis(200);

/// What is to be guarded, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// PostgreSQL's port.
    pub port: u16,
    /// The best hook that may be used on interfaces.
    pub best: Hook,
}

/// What has become of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The fence stands there now, or stands otherwise than before.
    Stands(Place),
    /// It is gone, and the fence with it.
    Gone(At),
}

/// An interface or a cgroup, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Interface(u32),
    Cgroup(u64),
}

/// The fence of this host, kept up while this value is tended. It stands on when it is dropped.
pub struct Guard {
    plane: Plane,
    options: Options,
    watch: Watch,
    places: BTreeMap<Key, Place>,
}

impl Guard {
    /// Puts the fence around all that is there.
    ///
    /// # Errors
    ///
    /// Those of [`Plane::load`], [`Error::Watch`], and [`Error::KeeperBusy`] when another process
    /// keeps the fence around another port. That one interface or cgroup cannot be
    /// guarded is none: its place says so.
    pub fn raise(objects: &Objects, pins: Pins, options: Options) -> Result<Self, Error> {
        let mut plane = Plane::load(objects, pins)?;
        set_port(plane.pins(), options.port)?;
        plane.guard()?;
        let watch = Watch::open().map_err(|source| Error::Watch { source })?;
        let mut guard = Self { plane, options, watch, places: BTreeMap::new() };
        guard.tend()?;
        Ok(guard)
    }

    /// Waits until an interface has changed, or until `limit` is over; then it is time to tend.
    ///
    /// # Errors
    /// [`Error::Watch`].
    pub fn wait(&self, limit: Duration) -> Result<bool, Error> {
        self.watch.wait(limit).map_err(|source| Error::Watch { source })
    }

    /// Guards what has appeared, forgets what is gone, and tries out all places; one where a packet
    /// passed is attached to anew. Returns what has changed.
    ///
    /// # Errors
    /// [`Error::Watch`] when the kernel does not tell what there is.
    pub fn tend(&mut self) -> Result<Vec<Change>, Error> {
        let failed = |source| Error::Watch { source };
        let links = links::list().map_err(failed)?;
        let listeners = listeners(self.options.port).map_err(failed)?;
        let mut places = BTreeMap::new();
        for link in links.iter().filter(|link| link.framing != Framing::Other) {
            places.insert(Key::Interface(link.index), self.tend_interface(link)?);
        }
        for listener in &listeners {
            let Some(id) = listener.cgroup else { continue };
            let place = self.tend_cgroup(id, *listener)?;
            places.insert(Key::Cgroup(id), place);
        }
        self.forget_gone(&places, &links)?;
        let changes = changes(&self.places, &places);
        self.places = places;
        Ok(changes)
    }

    /// Where the fence stands, interfaces first.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.values()
    }

    /// The programs that stand there.
    #[must_use]
    pub fn plane(&self) -> &Plane {
        &self.plane
    }

    fn tend_interface(&mut self, link: &Link) -> Result<Place, Error> {
        let at = At::Interface(link.name.clone());
        let known = self.places.get(&Key::Interface(link.index)).filter(|place| place.at == at);
        if let Some(known) = known.cloned() {
            let trial = self.try_interface(link, &known)?;
            if trial != Trial::Missed && known.is_guarded() {
                return Ok(Place { trial, ..known });
            }
        }
        let mut place = self.attach(link);
        place.trial = self.try_interface(link, &place)?;
        Ok(place)
    }

    /// Takes the best hooks that this interface lets us have.
    fn attach(&mut self, link: &Link) -> Place {
        let mut refusals = Vec::new();
        // On loopback a packet that XDP answers is not heard: it would have to come in again.
        let best = match link.framing {
            Framing::Loopback => self.options.best.max(Hook::Tcx),
            Framing::Ethernet | Framing::Other => self.options.best,
        };
        let mut first = |guard: &mut Self, way, hooks: &[Hook]| {
            hooks.iter().copied().find(|hook| match guard.attach_by(&link.name, *hook, way) {
                Ok(()) => true,
                Err(error) => {
                    refusals.push(format!("{hook}: {error}"));
                    false
                }
            })
        };
        let incoming: Vec<_> = Hook::INTERFACE.into_iter().filter(|hook| *hook >= best).collect();
        let incoming = first(self, Way::In, &incoming);
        let outgoing = first(self, Way::Out, best.outgoing());
        Place {
            at: At::Interface(link.name.clone()),
            incoming,
            outgoing,
            trial: Trial::Missed,
            cause: refusals.join("; "),
        }
    }

    fn attach_by(&mut self, interface: &str, hook: Hook, way: Way) -> Result<(), Error> {
        match (hook, way) {
            (Hook::Native, _) => self.plane.attach_in(interface, &[Mode::Native]).map(drop),
            (Hook::Generic, _) => self.plane.attach_in(interface, &[Mode::Generic]).map(drop),
            (Hook::Tcx, Way::In) => self.plane.guard_in(interface),
            (Hook::Tcx | Hook::Cgroup, _) => self.plane.guard_out(interface),
            (Hook::Clsact, way) => self.plane.guard_by_clsact(interface, way),
        }
    }

    fn tend_cgroup(&mut self, id: u64, listener: Listener) -> Result<Place, Error> {
        if let Some(known) = self.places.get(&Key::Cgroup(id)).cloned() {
            let trial = self.try_socket(listener)?;
            if trial != Trial::Missed && known.is_guarded() {
                return Ok(Place { trial, ..known });
            }
        }
        let folder = cgroup_folder(id).map_err(|source| Error::Watch { source })?;
        let Some(folder) = folder else {
            let cause = "its folder is not mounted here; mount cgroup2 where pgx sees it";
            return Ok(Place {
                at: At::Cgroup(Path::new("cgroup").join(id.to_string())),
                incoming: None,
                outgoing: None,
                trial: Trial::Untried("not attached".to_owned()),
                cause: cause.to_owned(),
            });
        };
        let attached = self.plane.guard_cgroup(&folder);
        let hook = attached.is_ok().then_some(Hook::Cgroup);
        let cause = attached.err().map(|error| error.to_string()).unwrap_or_default();
        let trial = self.try_socket(listener)?;
        Ok(Place { at: At::Cgroup(folder), incoming: hook, outgoing: hook, trial, cause })
    }

    /// Sends packets that the interface's programs are to drop. What comes in by a cable cannot be
    /// sent from here; that XDP works here is what [`rehearse()`](crate::rehearse()) shows.
    fn try_interface(&self, link: &Link, place: &Place) -> Result<Trial, Error> {
        if !link.is_up {
            return Ok(Trial::Untried("it is down".to_owned()));
        }
        if place.outgoing.is_some() {
            match self.ends_in_program(|| knock::out(link.index))? {
                Trial::Seen => {}
                other => return Ok(other),
            }
        }
        match (link.framing, place.incoming, place.outgoing) {
            (Framing::Loopback, Some(_), _) => {
                self.ends_in_program(|| knock::loopback_in(link.index))
            }
            (_, _, Some(_)) => Ok(Trial::Seen),
            _ => Ok(Trial::Untried("nothing is attached".to_owned())),
        }
    }

    fn try_socket(&self, listener: Listener) -> Result<Trial, Error> {
        self.ends_in_program(|| knock::socket_at(listener.address, self.options.port))
    }

    /// Whether what is sent is counted by a program that drops it.
    fn ends_in_program(&self, send: impl FnOnce() -> std::io::Result<()>) -> Result<Trial, Error> {
        let counters = self.plane.counters();
        let before = counters.get(Reason::FenceProbe)?.packets;
        if let Err(error) = send() {
            return Ok(Trial::Untried(error.to_string()));
        }
        let start = Instant::now();
        loop {
            if counters.get(Reason::FenceProbe)?.packets != before {
                return Ok(Trial::Seen);
            }
            if start.elapsed() > ARRIVAL_MAX {
                return Ok(Trial::Missed);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes the pins of what is gone: the kernel has detached what was there.
    fn forget_gone(&self, now: &BTreeMap<Key, Place>, links: &[Link]) -> Result<(), Error> {
        let pins = self.plane.pins();
        for (key, place) in self.places.iter().filter(|(key, _)| !now.contains_key(key)) {
            match (key, &place.at) {
                (Key::Interface(index), _) if links.iter().all(|link| link.index != *index) => {
                    pins.forget(&format!("-{}-{index}", device::namespace()?))?;
                }
                // A cgroup without a socket that listens may get one again, so its programs stay.
                (Key::Cgroup(id), At::Cgroup(folder)) if !folder.exists() => {
                    pins.forget(&format!("-{}-{id}", CGROUP))?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Lets the programs know the port. Who keeps the fence already may go on if it is the same.
fn set_port(pins: &Pins, port: u16) -> Result<(), Error> {
    let known = match keeper::standing(pins)?.port {
        0 => PORT_DEFAULT.into(),
        known => known,
    };
    if known == u64::from(port) { Ok(()) } else { Keeper::open(pins)?.set_port(port) }
}

/// What differs.
fn changes(before: &BTreeMap<Key, Place>, now: &BTreeMap<Key, Place>) -> Vec<Change> {
    let gone = before.iter().filter(|(key, _)| !now.contains_key(key));
    let gone = gone.map(|(_, place)| Change::Gone(place.at.clone()));
    let stands = now.iter().filter(|(key, place)| before.get(key) != Some(place));
    gone.chain(stands.map(|(_, place)| Change::Stands(place.clone()))).collect()
}
