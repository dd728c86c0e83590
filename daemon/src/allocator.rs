//! The process's allocator: mimalloc, on its short paths, giving memory back after a while only.
//!
//! glibc's gives memory back between stripes and takes it again: encoding 1 MiB bodies at 12+4 cost 0.56
//! CPU-seconds a GB with it, 0.20 without the trimming.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout},
    ffi::{c_int, c_long, c_void},
};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc,
    mi_zalloc_aligned,
};

/// Every block of mimalloc that holds as many bytes is aligned to as many (`MI_MAX_ALIGN_SIZE`).
const NATURAL_ALIGN: usize = 16;

/// All blocks are aligned to a word.
const WORD: usize = 8;

/// `mi_option_purge_delay` of mimalloc 3: milliseconds that free memory stays the process's.
const OPTION_PURGE_DELAY: c_int = 15;

/// Load that comes and goes within seconds finds its memory still there. mimalloc's own second made DELETE
/// of many keys take four page faults a key, which is a tenth of its CPU.
const PURGE_DELAY_MILLIS: c_long = 10_000;

unsafe extern "C" {
    fn mi_option_get(option: c_int) -> c_long;
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// mimalloc. Its calls that take an alignment are meant for unusual ones: for most sizes they take a detour
/// over a larger block (48 bytes: 20 ns instead of 10), so they are made for those alone.
pub struct Allocator;

/// Whether a block of this shape is aligned without asking for it.
const fn is_natural(size: usize, align: usize) -> bool {
    align <= WORD || (align <= NATURAL_ALIGN && size >= NATURAL_ALIGN)
}

// SAFETY: mimalloc hands out blocks that are valid for `size` bytes until they are freed, aligned to the
// alignment asked for or, where `is_natural`, to that of all its blocks; null when it has none. Any of its
// blocks may be freed or grown by any of its calls.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: these take any size, and any power of two.
        let block = unsafe {
            if is_natural(size, align) { mi_malloc(size) } else { mi_malloc_aligned(size, align) }
        };
        block.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above.
        let block = unsafe {
            if is_natural(size, align) { mi_zalloc(size) } else { mi_zalloc_aligned(size, align) }
        };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller got it from one of the others.
        unsafe { mi_free(block.cast::<c_void>()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (block, align) = (block.cast::<c_void>(), layout.align());
        // SAFETY: the caller got it from one of the others. It stays where it is, aligned as it was, or moves
        // to one that is aligned as one newly made.
        let block = unsafe {
            if is_natural(size, align) {
                mi_realloc(block, size)
            } else {
                mi_realloc_aligned(block, size, align)
            }
        };
        block.cast()
    }
}

/// Sets what mimalloc is told, unless its environment (`MIMALLOC_PURGE_DELAY`) says otherwise. At the start
/// of the process.
pub fn start() {
    // SAFETY: the option exists, and options may be set at any time.
    unsafe { mi_option_set_default(OPTION_PURGE_DELAY, PURGE_DELAY_MILLIS) };
}

/// How long free memory stays the process's, in milliseconds.
#[must_use]
pub fn purge_delay_millis() -> i64 {
    // SAFETY: the option exists.
    unsafe { mi_option_get(OPTION_PURGE_DELAY) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every block is aligned and keeps its bytes when it grows. Method: all alignments up to a page's,
    /// with sizes around them, several blocks at a time, grown and shrunk.
    #[test]
    fn blocks_are_aligned_and_keep_their_bytes() {
        for align in (0..=12).map(|bits| 1_usize << bits) {
            for size in (1..=260).chain([1_000, 1_024, 1_025, 1_500, 4_097, 70_001, 1 << 20]) {
                let layout = Layout::from_size_align(size, align).expect("a power of two");
                for grown in [size * 3, size.div_ceil(2), 16] {
                    // SAFETY: sizes are not 0, blocks are used within them and freed once.
                    unsafe {
                        let blocks = [(); 3].map(|()| Allocator.alloc(layout));
                        let zeroed = Allocator.alloc_zeroed(layout);
                        assert!(aligned(zeroed, align) && *zeroed.add(size - 1) == 0);
                        Allocator.dealloc(zeroed, layout);
                        for block in blocks {
                            assert!(aligned(block, align), "{size} bytes to {align}");
                            block.write_bytes(7, size);
                            let moved = Allocator.realloc(block, layout, grown);
                            assert!(aligned(moved, align), "{grown} bytes to {align}");
                            assert_eq!(*moved.add(size.min(grown) - 1), 7);
                            let layout = Layout::from_size_align(grown, align).expect("as before");
                            Allocator.dealloc(moved, layout);
                        }
                    }
                }
            }
        }
    }

    fn aligned(block: *mut u8, align: usize) -> bool {
        !block.is_null() && block.addr().is_multiple_of(align)
    }

    /// Goal: the number of the option is the one meant. Method: it has mimalloc's value before, ours behind.
    #[test]
    fn memory_is_given_back_after_a_while() {
        assert_eq!(purge_delay_millis(), 1_000, "mimalloc's own");
        start();
        assert_eq!(purge_delay_millis(), i64::from(PURGE_DELAY_MILLIS as i32));
    }
}
