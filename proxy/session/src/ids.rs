//! Names of clients and servers within one worker.
//!
//! Places are used again; a generation tells who had the place before, so that word of a
//! connection that is gone reaches nobody.

use alloc::vec::Vec;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            place: u32,
            generation: u32,
        }

        impl $name {
            /// The name of whoever has a place in its generation.
            #[must_use]
            pub fn new(place: u32, generation: u32) -> Self {
                Self { place, generation }
            }

            /// The place; few, and used again.
            #[must_use]
            pub fn place(self) -> u32 {
                self.place
            }

            /// Which of those who had the place.
            #[must_use]
            pub fn generation(self) -> u32 {
                self.generation
            }
        }

        impl From<$name> for (u32, u32) {
            fn from(id: $name) -> Self {
                (id.place, id.generation)
            }
        }

        impl From<(u32, u32)> for $name {
            fn from((place, generation): (u32, u32)) -> Self {
                Self { place, generation }
            }
        }
    };
}

id! {
    /// One client of a worker.
    ClientId
}

id! {
    /// One server connection of a worker.
    ServerId
}

id! {
    /// A request to cancel, on its way to a server.
    CancelId
}

/// Those who are there, by their names.
#[derive(Debug)]
pub(crate) struct Places<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Places<T> {
    /// Takes a place for what `make` makes of its name.
    pub(crate) fn add<Id: From<(u32, u32)> + Copy>(&mut self, make: impl FnOnce(Id) -> T) -> Id {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            // There are fewer connections than file descriptors.
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let (generation, held) = &mut self.places[place as usize];
        let id = Id::from((place, *generation));
        *held = Some(make(id));
        id
    }

    /// Who has this name.
    pub(crate) fn get<Id: Into<(u32, u32)>>(&self, id: Id) -> Option<&T> {
        let (place, generation) = id.into();
        let (known, held) = self.places.get(place as usize)?;
        held.as_ref().filter(|_| *known == generation)
    }

    /// Who has this name.
    pub(crate) fn get_mut<Id: Into<(u32, u32)>>(&mut self, id: Id) -> Option<&mut T> {
        let (place, generation) = id.into();
        let (known, held) = self.places.get_mut(place as usize)?;
        held.as_mut().filter(|_| *known == generation)
    }

    /// Gives the place free.
    pub(crate) fn remove<Id: Into<(u32, u32)>>(&mut self, id: Id) -> Option<T> {
        let (place, generation) = id.into();
        let (known, held) = self.places.get_mut(place as usize)?;
        if *known != generation {
            return None;
        }
        let held = held.take()?;
        *known = known.wrapping_add(1);
        self.free.push(place);
        Some(held)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|(_, held)| held.as_ref())
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().filter_map(|(_, held)| held.as_mut())
    }

    /// All of them, with their names.
    pub(crate) fn ids<Id: From<(u32, u32)>>(&self) -> impl Iterator<Item = (Id, &T)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(place, (generation, held))| {
            let place = u32::try_from(place).ok()?;
            held.as_ref().map(|held| (Id::from((place, *generation)), held))
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_somebody_who_is_gone_names_nobody() {
        let mut places = Places::default();
        let first: ClientId = places.add(|_| "first");
        assert_eq!(places.remove(first), Some("first"));
        let second: ClientId = places.add(|_| "second");
        assert_eq!(first.place(), second.place());
        assert_eq!((places.get(first), places.get(second)), (None, Some(&"second")));
        assert_eq!((places.remove(first), places.len()), (None, 1));
    }
}
