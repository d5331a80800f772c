//! What `stats` counts.

use twofold_proto::counters;

counters! {
    /// What connections count, by memcached's names (`doc/protocol.txt` there says what each means).
    "memcached":
    /// Keys asked for
    cmd_get;
    /// Items sent to be stored
    cmd_set;
    /// flush_all
    cmd_flush;
    /// touch, gat and gats
    cmd_touch;
    /// me
    cmd_meta;
    /// Keys asked for that were there
    get_hits;
    /// Keys asked for that were not there
    get_misses;
    /// Deletes of what was not there
    delete_misses;
    /// Deletes
    delete_hits;
    /// incr of what was not there
    incr_misses;
    /// incr
    incr_hits;
    /// decr of what was not there
    decr_misses;
    /// decr
    decr_hits;
    /// cas of what was not there
    cas_misses;
    /// cas
    cas_hits;
    /// cas with a unique that is not the item's
    cas_badval;
    /// touch
    touch_hits;
    /// touch of what was not there
    touch_misses;
    /// Values over the limit
    store_too_large;
    /// Values there was no memory for
    store_no_memory;
}

impl Counters {
    /// What counts incr or decr of what was there, or was not.
    pub(super) fn counted(&mut self, down: bool, hit: bool) -> &mut u64 {
        match (down, hit) {
            (false, true) => &mut self.incr_hits,
            (false, false) => &mut self.incr_misses,
            (true, true) => &mut self.decr_hits,
            (true, false) => &mut self.decr_misses,
        }
    }
}
