//! Telling the processor what will be read before long, so that it is in the cache by then. Nothing depends on it. Unlike who
//! reads, who tells does not wait, and not for a full reorder buffer either: there is other work to do meanwhile.

use std::slice;

use prefetch_index::prefetch_index;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The cache line that a value begins in.
#[inline(always)]
pub fn line<T>(value: &T) {
    prefetch_index(slice::from_ref(value), 0);
}

/// The cache line of an element, if it is there.
#[inline(always)]
pub fn element<T>(values: &[T], place: usize) {
    prefetch_index(values, place);
}

/// All cache lines of these bytes.
#[inline]
pub fn lines(bytes: &[u8]) {
    for place in (0..bytes.len()).step_by(LINE) {
        prefetch_index(bytes, place);
    }
    if let Some(last) = bytes.last() {
        line(last);
    }
}
