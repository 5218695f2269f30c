//! Sockets by slot, with a generation for each use of a slot, so that a key outlives its socket
//! without ever meaning another one.

/// Names one socket of one engine, for as long as it is open; later it names nothing.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl Key {
    /// A small number that no other open socket of the engine has: an index for what the caller
    /// keeps about it.
    #[must_use]
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    /// The key as a number, for whoever names sockets by numbers.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The key that a number stands for; of a number that is no key, one that names nothing or
    /// another socket.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the halves of the number")]
    pub fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by key.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    /// Slots without a value, the one freed last on top.
    free: Vec<u32>,
    slots_max: u32,
}

impl<T> Table<T> {
    pub(crate) fn new(slots_max: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), slots_max }
    }

    pub(crate) fn slots_max(&self) -> u32 {
        self.slots_max
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.slots_max as usize
    }

    /// Keeps the value, or gives it back when there is no slot.
    pub(crate) fn insert(&mut self, value: T) -> Result<Key, T> {
        if let Some(slot) = self.free.pop() {
            let place = &mut self.slots[slot as usize];
            place.value = Some(value);
            return Ok(Key { slot, generation: place.generation });
        }
        match u32::try_from(self.slots.len()) {
            Ok(slot) if slot < self.slots_max => {
                self.slots.push(Slot { generation: 0, value: Some(value) });
                Ok(Key { slot, generation: 0 })
            }
            _ => Err(value),
        }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.slot())?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.slot())?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    /// Takes the value out; its key means nothing from now on.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.slot())?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.slot);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_key_means_nothing_when_its_slot_is_used_again() {
        let mut table = Table::new(1);
        let first = table.insert('a').unwrap();
        assert_eq!(table.insert('b'), Err('b'), "the table is full");
        assert_eq!(table.remove(first), Some('a'));
        let second = table.insert('c').unwrap();
        assert_eq!(first.slot(), second.slot());
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&'c'));
    }
}
