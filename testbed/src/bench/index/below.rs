//! The step that asks what lies under a drive, runs and index, for the same; and builds the index anew.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, anyhow, bail};
use holdfast_drive::{
    manifest::ManifestStore,
    meta_index::{IndexKeeper, keeper::IndexContent, prefix_end},
    runs::{Patience, RunStore, set},
    value::{PlaceRecord, REPAIR_SPACE},
};
use holdfast_types::{
    RegisterKey, VersionId,
    seam::{Random, SeededRandom},
};

use super::{
    Args, Kept, entries,
    meter::{Timed, Timer, memory_mib, process_cpu_nanos},
    report::{Below, Side},
    subject::{DRIVE, disk, options},
};

/// Records of a page.
const PAGE: usize = 1_000;

/// Pages looked at.
const PAGES: u64 = 500;

/// Opens runs and index, and asks both.
pub fn run(args: &Args) -> Result<Below> {
    let disk = disk(&args.dir)?;
    let (manifests, checkpoint) = ManifestStore::open(Arc::clone(&disk), DRIVE)?;
    let options = options(&args.dir, args.index);
    let (before, _) = memory_mib();
    let named = |id| manifests.names(id);
    let cache = options.run_cache_bytes;
    let store = Arc::new(RunStore::open(disk, DRIVE, &checkpoint.runs, named, cache)?);
    let mut found = Below {
        runs_mib: memory_mib().0 - before,
        runs_frame_mib: store.resident_bytes() as f64 / f64::from(1 << 20),
        run_items: store.set().runs().iter().map(|run| run.meta().items).collect(),
        ..Below::default()
    };
    found.runs = side(args, &store, None)?;
    if args.index == Kept::Off {
        return Ok(found);
    }
    let keeper = IndexKeeper::new(options.index, options.index_content);
    let reach = checkpoint.runs.iter().map(|run| run.lsn_max).max().unwrap_or_default();
    if !keeper.open(reach) {
        bail!("the index did not open");
    }
    found.index = Some(side(args, &store, Some((&keeper, options.index_content)))?);
    // Built anew beside the old one's remains, which are dropped first.
    keeper.distrust(&holdfast_drive::meta_index::IndexError::damaged("it is to be built anew"));
    let (began, cpu) = (Instant::now(), process_cpu_nanos());
    if !keeper.rebuild(&store) {
        bail!("the index was not built");
    }
    found.reindex_seconds = began.elapsed().as_secs_f64();
    found.reindex_cpu_seconds = (process_cpu_nanos() - cpu) as f64 / 1e9;
    Ok(found)
}

/// Asks one of them.
fn side(
    args: &Args,
    store: &Arc<RunStore>,
    keeper: Option<(&IndexKeeper, IndexContent)>,
) -> Result<Side> {
    let random = SeededRandom::new(args.entries + 1);
    let any = || random.next_u64() % args.entries;
    let register = |key: RegisterKey| key.encode_register(VersionId::NULL);
    let holds_objects = keeper.is_none_or(|(_, content)| content == IndexContent::All);
    let keeper = keeper.map(|(keeper, _)| keeper);
    let mut side = Side::default();
    if holds_objects {
        let gets =
            |next: &mut dyn FnMut() -> (Vec<u8>, bool)| gets(store, keeper, args.lookups, next);
        side.hit = gets(&mut || (register(entries::key(any())), true))?;
        side.miss = gets(&mut || (register(entries::absent(any())), false))?;
        side.place = gets(&mut || (PlaceRecord::key(entries::body(any())), true))?;
        side.scan = scan(store, keeper, &register(entries::key(0))[..1], PAGES)?;
    }
    side.repairs = scan(store, keeper, &[REPAIR_SPACE], 1)?;
    Ok(side)
}

fn gets(
    store: &RunStore,
    keeper: Option<&IndexKeeper>,
    count: u64,
    next: &mut dyn FnMut() -> (Vec<u8>, bool),
) -> Result<Timed> {
    let mut timer = Timer::start();
    for _ in 0..count {
        let (key, is_there) = next();
        let set = store.set();
        let held = timer.time(|| match keeper {
            Some(keeper) => keeper.get(&set, &key).map(|value| value.is_some()),
            None => set.get(&key, Patience::Waits).map(|item| item.is_some()),
        });
        if held? != is_there {
            bail!("{:?} was looked up wrongly", key.escape_ascii().to_string());
        }
    }
    Ok(timer.end(1))
}

/// Pages of what begins with `space`; CPU counts by record.
fn scan(store: &RunStore, keeper: Option<&IndexKeeper>, space: &[u8], pages: u64) -> Result<Timed> {
    let end = prefix_end(space).ok_or_else(|| anyhow!("no end"))?;
    let (mut timer, mut records, mut start) = (Timer::start(), 0, space.to_vec());
    for _ in 0..pages {
        let set = store.set();
        let page = timer.time(|| match keeper {
            Some(keeper) => keeper.scan(&set, &start, Some(&end), PAGE),
            None => set::page(&mut set.iter(&start, Some(&end)), PAGE).map(|(items, more)| {
                let pair = |item: holdfast_drive::runs::RunItem| (item.key, bytes::Bytes::new());
                (items.into_iter().map(pair).collect(), more)
            }),
        });
        let (items, more) = page?;
        records += items.len() as u64;
        match items.last() {
            Some((last, _)) if more => start = [&last[..], b"\0"].concat(),
            _ => break,
        }
    }
    let pages = timer.count();
    Ok(timer.end(records / pages.max(1)))
}
