//! Memory for pages and big rows, by number: whole blocks from the system, which may make each one large page.
//!
//! Pages of 4 KiB are had one by one when they are first written to, each for a microsecond and more: as much as some ten
//! rows are worth.

use memmap2::{Advice, MmapMut};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 64 << 10;
/// Numbers in a block.
pub(crate) const BLOCK_PAGES: usize = 32;
/// A large page of x86-64 and of most others.
const BLOCK_BYTES: usize = PAGE_BYTES * BLOCK_PAGES;
const ALL_FREE: u32 = u32::MAX;

const _: () = assert!(BLOCK_PAGES == u32::BITS as usize && BLOCK_BYTES == 2 << 20);

/// What the numbers of a block stand for.
#[derive(Debug)]
enum Memory {
    Nothing,
    Pages(MmapMut),
    Objects(Vec<Box<[u8]>>),
}

#[derive(Debug)]
struct Block {
    memory: Memory,
    /// Which of its numbers are free, bit by bit.
    free: u32,
}

/// The memory, by number. A block whose pages are all free goes back to the system, but for one.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    blocks: Vec<Block>,
    /// Blocks with free numbers: of pages, of objects, and without memory.
    of_pages: Vec<u32>,
    of_objects: Vec<u32>,
    vacant: Vec<u32>,
}

impl Pages {
    /// Numbers that are of no use for anything else: all those of the blocks that have memory.
    pub fn taken(&self) -> usize {
        (self.blocks.len() - self.vacant.len()) * BLOCK_PAGES
    }

    /// The bytes of a page or object.
    ///
    /// # Panics
    /// Panics if there is none.
    #[inline]
    pub fn get(&self, page: usize) -> &[u8] {
        let place = page % BLOCK_PAGES;
        match &self.blocks[page / BLOCK_PAGES].memory {
            Memory::Pages(bytes) => &bytes[place * PAGE_BYTES..][..PAGE_BYTES],
            Memory::Objects(objects) => &objects[place],
            Memory::Nothing => &[],
        }
    }

    /// Likewise, to be written to.
    #[inline]
    pub fn get_mut(&mut self, page: usize) -> &mut [u8] {
        let place = page % BLOCK_PAGES;
        match &mut self.blocks[page / BLOCK_PAGES].memory {
            Memory::Pages(bytes) => &mut bytes[place * PAGE_BYTES..][..PAGE_BYTES],
            Memory::Objects(objects) => &mut objects[place],
            Memory::Nothing => &mut [],
        }
    }

    /// The number of a page, with whatever stood in it before; or of an object of so many bytes. `None` where that would be
    /// `max` or more.
    pub fn take(&mut self, object: Option<usize>, max: usize) -> Option<usize> {
        let with_room = if object.is_some() { &mut self.of_objects } else { &mut self.of_pages };
        let number = match with_room.last() {
            Some(&number) => number,
            None => {
                let number = match self.vacant.pop() {
                    Some(number) => number,
                    None if (self.blocks.len() + 1) * BLOCK_PAGES > max => return None,
                    None => {
                        self.blocks.push(Block { memory: Memory::Nothing, free: ALL_FREE });
                        (self.blocks.len() - 1) as u32
                    }
                };
                self.blocks[number as usize].memory = match object {
                    Some(_) => Memory::Objects(vec![Box::default(); BLOCK_PAGES]),
                    None => Memory::Pages(map()),
                };
                with_room.push(number);
                number
            }
        };
        let block = &mut self.blocks[number as usize];
        let place = block.free.trailing_zeros() as usize;
        block.free &= block.free - 1;
        if block.free == 0 {
            with_room.pop();
        }
        if let (Memory::Objects(objects), Some(bytes)) = (&mut block.memory, object) {
            objects[place] = vec![0; bytes].into_boxed_slice();
        }
        Some(number as usize * BLOCK_PAGES + place)
    }

    /// Takes a page or an object back.
    pub fn give_back(&mut self, page: usize) {
        let number = (page / BLOCK_PAGES) as u32;
        let block = &mut self.blocks[number as usize];
        let with_room = match &mut block.memory {
            Memory::Objects(objects) => {
                objects[page % BLOCK_PAGES] = Box::default();
                &mut self.of_objects
            }
            _ => &mut self.of_pages,
        };
        if block.free == 0 {
            with_room.push(number);
        }
        block.free |= 1 << (page % BLOCK_PAGES);
        if block.free == ALL_FREE && with_room.len() > 1 {
            block.memory = Memory::Nothing;
            with_room.retain(|&other| other != number);
            self.vacant.push(number);
        }
    }
}

/// A block's memory, of zeros.
///
/// # Panics
/// Panics where the system has none: there is no going on without.
fn map() -> MmapMut {
    let memory = MmapMut::map_anon(BLOCK_BYTES)
        .unwrap_or_else(|error| panic!("no memory for {BLOCK_BYTES} bytes of rows: {error}"));
    #[cfg(target_os = "linux")]
    // A system without large pages says so; then it has small ones.
    let _ = memory.advise(Advice::HugePage);
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_of_one_kind_and_go_back_when_they_are_empty() {
        let mut pages = Pages::default();
        let max = 3 * BLOCK_PAGES;
        let first: Vec<usize> = (0..=BLOCK_PAGES).map(|_| pages.take(None, max).unwrap()).collect();
        assert_eq!(first, (0..=BLOCK_PAGES).collect::<Vec<_>>(), "one after the other");
        pages.get_mut(BLOCK_PAGES)[PAGE_BYTES - 1] = 7;
        let object = pages.take(Some(3 * PAGE_BYTES), max).unwrap();
        assert_eq!((object, pages.get(object).len()), (2 * BLOCK_PAGES, 3 * PAGE_BYTES));
        assert_eq!(pages.taken(), max);
        // The first block empties; the second has room, so that it is of no use.
        first[..BLOCK_PAGES].iter().for_each(|&page| pages.give_back(page));
        assert_eq!((pages.taken(), pages.get(0).len()), (2 * BLOCK_PAGES, 0));
        assert_eq!(pages.get(BLOCK_PAGES)[PAGE_BYTES - 1], 7);
        pages.give_back(object);
        assert_eq!(pages.get(object), [], "an object has its own memory");
        // What is left is enough for so many.
        let more = (0..).take_while(|_| pages.take(None, max).is_some()).count();
        assert_eq!((more, pages.taken()), (2 * BLOCK_PAGES - 1, max));
    }

    #[test]
    fn the_last_empty_block_is_kept() {
        let mut pages = Pages::default();
        for _ in 0..3 {
            let page = pages.take(None, BLOCK_PAGES).unwrap();
            pages.give_back(page);
            assert_eq!(pages.taken(), BLOCK_PAGES);
        }
    }
}
