//! A worker's row memory: pages of equal cells, and bigger rows as objects of their own. No allocation per row.
//!
//! ```text
//! row: u32 bytes in all (24 bits) and flags (8 bits)
//!      u64 epoch, u32 low bits of the number: its version
//!      u16 bytes of the key, u16 version of the schema
//!      u64 expiry, if flagged
//!      key, body
//! ```
//!
//! A cell is free where its first word is 0. Then the u16 after that is the next free cell of the page.

use std::cmp::Ordering;

use twofold_proto::{
    ids::{Epoch, Version},
    limits::{KEY_BYTES_MAX, ROW_BYTES_MAX},
    time::ClusterTime,
};

pub use crate::pages::PAGE_BYTES;
use crate::pages::Pages;

/// Bytes of a row's header, without expiry.
pub const ROW_HEADER: usize = 20;
/// Longer rows are objects of their own.
const CELL_MAX: usize = 8 << 10;
/// Objects are multiples of this.
const OBJECT_UNIT: usize = 4 << 10;
/// Cells in multiples of 8 up to this, then 8 sizes for each doubling.
const FINE_CELL_MAX: usize = 256;
const CLASSES: usize = FINE_CELL_MAX / 8 + 8 * (CELL_MAX / FINE_CELL_MAX).ilog2() as usize;
/// Row ids in a page.
const PAGE_UNITS: u32 = (PAGE_BYTES / 8) as u32;
/// Pages and objects that row ids can name.
const PAGES_MAX: usize = (1 << 32) / PAGE_UNITS as usize;
/// Ordinary writes get this share of the memory, in percent; the rest is for indexes, recovery and replication.
const ORDINARY_PERCENT: u64 = 95;

/// Bytes of a cache line, as far as that matters; and how much of a row is brought into the cache ahead.
const TOUCHED_BYTES: usize = 256;

const LENGTH_MASK: u32 = 0x00ff_ffff;
const HAS_EXPIRY: u32 = 1 << 24;
const LOCKED: u32 = 1 << 25;
/// For the store's own use.
const MARKED: u32 = 1 << 26;

const NO_PAGE: u32 = u32::MAX;
const NO_CELL: u16 = u16::MAX;
const FREE_PAGE: u8 = u8::MAX;
const OBJECT: u8 = u8::MAX - 1;

const _: () = assert!(ROW_BYTES_MAX + ROW_HEADER + 8 <= LENGTH_MASK as usize);
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(CLASSES < OBJECT as usize);

/// Names a row in its worker's arena: its address in units of 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RowId(pub u32);

impl RowId {
    /// No row has this id.
    pub(crate) const NONE: RowId = RowId(u32::MAX);

    fn page(self) -> usize {
        (self.0 / PAGE_UNITS) as usize
    }

    fn offset(self) -> usize {
        (self.0 % PAGE_UNITS) as usize * 8
    }
}

/// How versions of a key compare where one of them may come from an arena, which keeps the low 32 bits of the
/// number alone. Within an epoch a partition commits fewer than 2^31 write sets, so their wrapping difference tells.
pub fn compare_versions(a: Version, b: Version) -> Ordering {
    let number = (a.number as u32).wrapping_sub(b.number as u32) as i32;
    a.epoch.cmp(&b.epoch).then(number.cmp(&0))
}

/// A row to store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewRow<'a> {
    /// Its version.
    pub version: Version,
    /// The version of the schema that the body is laid out by.
    pub schema_version: u32,
    /// When it expires; 0: never.
    pub expiry: ClusterTime,
    /// The encoded key.
    pub key: &'a [u8],
    /// The encoded body.
    pub body: &'a [u8],
}

impl NewRow<'_> {
    fn length(&self) -> usize {
        ROW_HEADER + if self.expiry.0 != 0 { 8 } else { 0 } + self.key.len() + self.body.len()
    }
}

/// A stored row, read in place.
#[derive(Clone, Copy, Debug)]
pub struct StoredRow<'a> {
    /// Exactly the row's bytes.
    bytes: &'a [u8],
    word: u32,
}

impl<'a> StoredRow<'a> {
    /// Its version: of the number only the low 32 bits; compare with [`compare_versions`].
    #[inline]
    pub fn version(&self) -> Version {
        Version { epoch: Epoch(read_u64(self.bytes, 4)), number: u64::from(read_u32(self.bytes, 12)) }
    }

    /// The version of the schema that its body is laid out by.
    #[inline]
    pub fn schema_version(&self) -> u32 {
        u32::from(read_u16(self.bytes, 18))
    }

    /// When it expires; 0: never.
    #[inline]
    pub fn expiry(&self) -> ClusterTime {
        ClusterTime(if self.word & HAS_EXPIRY != 0 { read_u64(self.bytes, ROW_HEADER) } else { 0 })
    }

    /// The encoded key.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        let start = self.key_start();
        &self.bytes[start..start + self.key_length()]
    }

    /// The encoded body.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.key_start() + self.key_length()..]
    }

    /// Whether the lock table knows its key.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.word & LOCKED != 0
    }

    /// The store's own mark.
    #[inline]
    pub fn is_marked(&self) -> bool {
        self.word & MARKED != 0
    }

    /// The row, as [`Arena::store`] takes it.
    pub fn to_new(&self) -> NewRow<'a> {
        NewRow {
            version: self.version(),
            schema_version: self.schema_version(),
            expiry: self.expiry(),
            key: self.key(),
            body: self.body(),
        }
    }

    fn key_start(&self) -> usize {
        ROW_HEADER + if self.word & HAS_EXPIRY != 0 { 8 } else { 0 }
    }

    fn key_length(&self) -> usize {
        usize::from(read_u16(self.bytes, 16))
    }
}

fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes"))
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// The size class of a row of this many bytes, at most [`CELL_MAX`].
fn class_of(length: usize) -> usize {
    if length <= FINE_CELL_MAX {
        return length.div_ceil(8) - 1;
    }
    let last = length - 1;
    let doubling = last.ilog2() as usize;
    let eighth = (last >> (doubling - 3)) - 8;
    FINE_CELL_MAX / 8 + (doubling - FINE_CELL_MAX.ilog2() as usize) * 8 + eighth
}

/// Bytes of the class's cells.
fn class_bytes(class: usize) -> usize {
    if class < FINE_CELL_MAX / 8 {
        return (class + 1) * 8;
    }
    let (doubling, eighth) = ((class - FINE_CELL_MAX / 8) / 8, (class - FINE_CELL_MAX / 8) % 8);
    (FINE_CELL_MAX << doubling) / 8 * (eighth + 9)
}

/// What is known of a page, beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PageInfo {
    /// The size class of its cells; or [`OBJECT`], or [`FREE_PAGE`].
    class: u8,
    /// Cells in use.
    used: u16,
    /// The first free cell that was in use before.
    free: u16,
    /// Cells that were in use ever; those behind them are free too.
    touched: u16,
    /// Neighbours in the list of the class's pages with room.
    previous: u32,
    next: u32,
}

impl PageInfo {
    const FREE: PageInfo =
        PageInfo { class: FREE_PAGE, used: 0, free: NO_CELL, touched: 0, previous: NO_PAGE, next: NO_PAGE };

    fn cells(&self) -> usize {
        PAGE_BYTES / class_bytes(usize::from(self.class))
    }

    fn is_full(&self) -> bool {
        usize::from(self.used) == self.cells()
    }
}

/// The memory of one worker's rows.
///
/// `data_memory` bounds pages, big rows, and what fragments say that their indexes take. A page that empties can
/// serve rows of another size. Row ids reach over 32 GiB of pages; a row above 8 KiB takes as much of that as a page.
#[derive(Debug)]
pub struct Arena {
    pages: Pages,
    infos: Vec<PageInfo>,
    /// By class, the first page with room.
    with_room: [u32; CLASSES],
    data_memory: u64,
    /// [`PAGES_MAX`], but in tests.
    pages_max: usize,
    page_bytes: u64,
    index_bytes: u64,
    rows: u64,
}

impl Arena {
    /// An empty arena of at most this many bytes.
    pub fn new(data_memory: u64) -> Arena {
        Arena {
            pages: Pages::default(),
            infos: vec![],
            with_room: [NO_PAGE; CLASSES],
            data_memory,
            pages_max: PAGES_MAX,
            page_bytes: 0,
            index_bytes: 0,
            rows: 0,
        }
    }

    /// Bytes in use: pages, big rows and indexes.
    pub fn used_bytes(&self) -> u64 {
        self.page_bytes + self.index_bytes
    }

    /// The bound that it was made with.
    pub fn data_memory(&self) -> u64 {
        self.data_memory
    }

    /// Rows stored.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes note of an index's growth.
    pub fn index_grew(&mut self, bytes: usize) {
        self.index_bytes += bytes as u64;
    }

    /// Takes note of an index's shrinking.
    pub fn index_shrank(&mut self, bytes: usize) {
        self.index_bytes =
            self.index_bytes.checked_sub(bytes as u64).expect("an index gives back what it took");
    }

    /// Whether an ordinary write may take so many bytes more, by the bound that [`Arena::store`] keeps.
    #[inline]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.pages.taken() < self.pages_max / 100 * ORDINARY_PERCENT as usize
            && self.used_bytes() + bytes as u64 <= self.data_memory / 100 * ORDINARY_PERCENT
    }

    /// Stores a row for an ordinary write. `None` where that needs more memory and 95 % of it are in use: the
    /// table is full. Room that rows of this size left behind can be had beyond that.
    #[must_use]
    pub fn store(&mut self, row: &NewRow<'_>) -> Option<RowId> {
        self.store_below(row, self.data_memory / 100 * ORDINARY_PERCENT)
    }

    /// Stores a row for recovery or replication, past the bound if need be: a backup never refuses.
    ///
    /// # Panics
    /// Panics where row ids are exhausted, at 32 GiB.
    pub fn store_always(&mut self, row: &NewRow<'_>) -> RowId {
        self.store_below(row, u64::MAX).unwrap_or_else(|| {
            panic!(
                "the worker's {} pages are in use ({} bytes); run more workers",
                self.pages_max,
                self.used_bytes()
            )
        })
    }

    fn store_below(&mut self, row: &NewRow<'_>, bound: u64) -> Option<RowId> {
        let length = row.length();
        let id = self.allocate(length, bound)?;
        self.rows += 1;
        self.write(id, row);
        Some(id)
    }

    /// Puts a row in the place of another, without its flags, if it takes a cell of the same size. Returns whether it
    /// does; if not, nothing has changed.
    #[must_use]
    pub fn overwrite(&mut self, id: RowId, row: &NewRow<'_>) -> bool {
        let length = row.length();
        let fits = length <= CELL_MAX && usize::from(self.infos[id.page()].class) == class_of(length);
        if fits {
            self.row_bytes(id);
            self.write(id, row);
        }
        fits
    }

    /// Lays a row out where there is room for it.
    fn write(&mut self, id: RowId, row: &NewRow<'_>) {
        let length = row.length();
        let flags = if row.expiry.0 != 0 { HAS_EXPIRY } else { 0 };
        let schema_version = u16::try_from(row.schema_version).expect("schema versions fit 16 bits");
        let start = id.offset();
        let bytes = &mut self.pages.get_mut(id.page())[start..start + length];
        bytes[0..4].copy_from_slice(&(length as u32 | flags).to_le_bytes());
        bytes[4..12].copy_from_slice(&row.version.epoch.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&(row.version.number as u32).to_le_bytes());
        bytes[16..18].copy_from_slice(&(row.key.len() as u16).to_le_bytes());
        bytes[18..20].copy_from_slice(&schema_version.to_le_bytes());
        let mut rest = &mut bytes[ROW_HEADER..];
        if row.expiry.0 != 0 {
            let (expiry, behind) = rest.split_at_mut(8);
            expiry.copy_from_slice(&row.expiry.0.to_le_bytes());
            rest = behind;
        }
        let (key, body) = rest.split_at_mut(row.key.len());
        key.copy_from_slice(row.key);
        body.copy_from_slice(row.body);
    }

    /// The first [`TOUCHED_BYTES`] of where the row stands. How long it is stands in the row itself; how long its cell is,
    /// beside the page.
    #[inline]
    pub(crate) fn cell(&self, id: RowId) -> &[u8] {
        let Some(PageInfo { class, .. }) = self.infos.get(id.page()) else { return &[] };
        let cell = if *class < OBJECT { class_bytes(usize::from(*class)) } else { TOUCHED_BYTES };
        let rest = self.pages.get(id.page()).get(id.offset()..).unwrap_or_default();
        &rest[..cell.min(TOUCHED_BYTES).min(rest.len())]
    }

    /// The row.
    ///
    /// # Panics
    /// Panics if there is none.
    #[inline]
    pub fn row(&self, id: RowId) -> StoredRow<'_> {
        let bytes = &self.pages.get(id.page())[id.offset()..];
        let word = read_u32(bytes, 0);
        assert!(word != 0, "{id:?} is free");
        StoredRow { bytes: &bytes[..(word & LENGTH_MASK) as usize], word }
    }

    /// Stamps the row with a version: it was prepared, or is committed now.
    pub fn set_version(&mut self, id: RowId, version: Version) {
        let bytes = self.row_bytes(id);
        bytes[4..12].copy_from_slice(&version.epoch.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&(version.number as u32).to_le_bytes());
    }

    /// Says whether the lock table knows the row's key.
    pub fn set_locked(&mut self, id: RowId, locked: bool) {
        self.set_flag(id, LOCKED, locked);
    }

    /// Sets the store's own mark.
    pub fn set_marked(&mut self, id: RowId, marked: bool) {
        self.set_flag(id, MARKED, marked);
    }

    fn set_flag(&mut self, id: RowId, flag: u32, set: bool) {
        let bytes = self.row_bytes(id);
        let word = read_u32(bytes, 0);
        let word = if set { word | flag } else { word & !flag };
        bytes[0..4].copy_from_slice(&word.to_le_bytes());
    }

    fn row_bytes(&mut self, id: RowId) -> &mut [u8] {
        let bytes = &mut self.pages.get_mut(id.page())[id.offset()..];
        assert!(read_u32(bytes, 0) != 0, "{id:?} is free");
        bytes
    }

    /// Frees the row.
    ///
    /// # Panics
    /// Panics if there is none.
    pub fn free(&mut self, id: RowId) {
        self.row_bytes(id);
        self.rows -= 1;
        let page = id.page();
        let info = self.infos[page];
        if info.class == OBJECT {
            assert!(id.offset() == 0, "{id:?} is inside an object");
            self.release(page);
            return;
        }
        let size = class_bytes(usize::from(info.class));
        assert!(id.offset().is_multiple_of(size), "{id:?} is no cell of {size} bytes");
        let cell = &mut self.pages.get_mut(page)[id.offset()..];
        cell[0..4].fill(0);
        cell[4..6].copy_from_slice(&info.free.to_le_bytes());
        let was_full = info.is_full();
        let info = &mut self.infos[page];
        info.free = (id.offset() / size) as u16;
        info.used -= 1;
        if was_full {
            self.list(page);
        }
        if self.infos[page].used == 0 {
            self.unlist(page);
            self.release(page);
        }
    }

    /// Finds room; takes more memory only below `bound`.
    fn allocate(&mut self, length: usize, bound: u64) -> Option<RowId> {
        assert!((ROW_HEADER..=LENGTH_MASK as usize).contains(&length), "a row of {length} bytes");
        if length > CELL_MAX {
            let bytes = length.next_multiple_of(OBJECT_UNIT);
            let page = self.take(bytes, OBJECT, bound)?;
            return Some(RowId(page as u32 * PAGE_UNITS));
        }
        let class = class_of(length);
        if self.with_room[class] == NO_PAGE {
            let page = self.take(PAGE_BYTES, class as u8, bound)?;
            self.list(page);
        }
        let page = self.with_room[class] as usize;
        let size = class_bytes(class);
        let info = &mut self.infos[page];
        let cell = if info.free == NO_CELL {
            info.touched += 1;
            info.touched - 1
        } else {
            let cell = info.free;
            info.free = read_u16(self.pages.get(page), usize::from(cell) * size + 4);
            cell
        };
        info.used += 1;
        if info.is_full() {
            self.unlist(page);
        }
        Some(RowId(page as u32 * PAGE_UNITS + u32::from(cell) * (size / 8) as u32))
    }

    /// A page, or an object, of this class. Bytes of former rows may stand in it: a cell's first word means something
    /// only once the cell was in use under this class.
    fn take(&mut self, bytes: usize, class: u8, bound: u64) -> Option<usize> {
        if self.used_bytes() + bytes as u64 > bound {
            return None;
        }
        let page = self.pages.take((class == OBJECT).then_some(bytes), self.pages_max)?;
        if page >= self.infos.len() {
            self.infos.resize(page + 1, PageInfo::FREE);
        }
        self.page_bytes += bytes as u64;
        self.infos[page] = PageInfo { class, used: u16::from(class == OBJECT), ..PageInfo::FREE };
        Some(page)
    }

    /// Takes a page or an object back.
    fn release(&mut self, page: usize) {
        self.page_bytes -= self.pages.get(page).len() as u64;
        self.infos[page] = PageInfo::FREE;
        self.pages.give_back(page);
    }

    /// Puts the page among those of its class with room: behind the first, which goes on being filled. Others are left the
    /// time to become empty, and are filled from end to end then.
    fn list(&mut self, page: usize) {
        let first = &mut self.with_room[usize::from(self.infos[page].class)];
        let (previous, next) = match *first {
            NO_PAGE => (NO_PAGE, NO_PAGE),
            other => (other, self.infos[other as usize].next),
        };
        if previous == NO_PAGE {
            *first = page as u32;
        } else {
            self.infos[previous as usize].next = page as u32;
        }
        if next != NO_PAGE {
            self.infos[next as usize].previous = page as u32;
        }
        (self.infos[page].previous, self.infos[page].next) = (previous, next);
    }

    fn unlist(&mut self, page: usize) {
        let PageInfo { class, previous, next, .. } = self.infos[page];
        if previous == NO_PAGE {
            self.with_room[usize::from(class)] = next;
        } else {
            self.infos[previous as usize].next = next;
        }
        if next != NO_PAGE {
            self.infos[next as usize].previous = previous;
        }
    }

    /// Panics where an invariant is broken. Walks all pages: for tests and samples.
    pub fn check(&self) {
        let mut page_bytes = 0;
        let mut rows = 0;
        for (page, info) in self.infos.iter().enumerate() {
            rows += u64::from(info.used);
            if info.class == FREE_PAGE {
                continue;
            }
            page_bytes += self.pages.get(page).len() as u64;
            if info.class != OBJECT {
                self.check_page(page, info);
            }
        }
        assert_eq!((self.page_bytes, self.rows), (page_bytes, rows), "bytes of pages, and rows");
        let mut listed = 0;
        for (class, &first) in self.with_room.iter().enumerate() {
            let (mut page, mut previous) = (first, NO_PAGE);
            while page != NO_PAGE {
                let info = &self.infos[page as usize];
                assert_eq!(
                    (usize::from(info.class), info.previous),
                    (class, previous),
                    "page {page} in its list"
                );
                assert!(!info.is_full(), "page {page} has no room");
                (previous, page) = (page, info.next);
                listed += 1;
            }
        }
        let in_cells = |info: &&PageInfo| usize::from(info.class) < CLASSES;
        let expected = self.infos.iter().filter(in_cells).filter(|info| !info.is_full()).count();
        assert_eq!(listed, expected, "pages with room");
    }

    fn check_page(&self, page: usize, info: &PageInfo) {
        let size = class_bytes(usize::from(info.class));
        let touched = usize::from(info.touched);
        let in_use = (0..touched).filter(|cell| read_u32(self.pages.get(page), cell * size) != 0).count();
        let (mut free, mut cell) = (0, info.free);
        while cell != NO_CELL && free <= touched {
            free += 1;
            cell = read_u16(self.pages.get(page), usize::from(cell) * size + 4);
        }
        assert!(in_use > 0, "page {page} is empty");
        assert_eq!((usize::from(info.used), touched - in_use), (in_use, free), "page {page}: {info:?}");
    }
}

#[cfg(test)]
#[path = "arena_tests.rs"]
mod tests;
