//! Slots that are reused, with what they hold: buffers keep their capacity.

/// Values by slot number.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Option<Box<T>>>,
    free: Vec<u32>,
    spare: Vec<Box<T>>,
}

/// Values kept for their buffers: what is under way at once in a busy worker.
const SPARE_MAX: usize = 8192;
/// A buffer of a spare value has this many bytes at most.
const SPARE_BYTES_MAX: usize = 2048;

/// Makes a buffer one of a spare value. What stands in it stays, so that it can be brought into the cache.
pub(super) fn spare(buffer: &mut Vec<u8>) {
    if buffer.capacity() > SPARE_BYTES_MAX {
        *buffer = Vec::new();
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new(), spare: Vec::new() }
    }
}

impl<T: Default> Slab<T> {
    /// A value for a new slot: used before, or fresh. The caller resets it.
    pub fn recycled(&mut self) -> Box<T> {
        self.spare.pop().unwrap_or_default()
    }

    pub fn insert(&mut self, value: Box<T>) -> u32 {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(value);
                slot
            }
            None => {
                self.slots.push(Some(value));
                (self.slots.len() - 1) as u32
            }
        }
    }

    pub fn remove(&mut self, slot: u32) -> Option<Box<T>> {
        let value = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(value)
    }

    /// Keeps a removed value for its buffers.
    pub fn recycle(&mut self, value: Box<T>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(value);
        }
    }

    #[inline]
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_deref()
    }

    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// The values that will be used next, but for so many: so many at most.
    pub fn next_recycled(&self, skip: usize, count: usize) -> impl Iterator<Item = &T> {
        self.spare.iter().rev().skip(skip).take(count).map(|value| &**value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, value)| Some((slot as u32, value.as_deref()?)))
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
