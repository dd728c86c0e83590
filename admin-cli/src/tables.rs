//! Tables for people.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use holdfast_types::view::{ClusterView, DriveView, HealView, ObjectView, SetView};

/// Nodes, pools, sets.
pub(crate) fn cluster(view: &ClusterView) -> String {
    let mut nodes = table(&["NODE", "ANSWERS", "DRIVES"]);
    for node in &view.nodes {
        let answers = if node.answers { "yes" } else { "no" };
        nodes.add_row([Cell::new(&node.node), Cell::new(answers), number(node.drives)]);
    }
    let mut pools = table(&["POOL", "SETS", "DRIVES", "USED", "CAPACITY"]);
    for pool in &view.pools {
        pools.add_row([
            Cell::new(pool.index),
            number(pool.sets),
            number(pool.drives),
            number(bytes(pool.used_bytes)),
            number(bytes(pool.capacity_bytes)),
        ]);
    }
    let sets = sets(&view.sets);
    let serving = view.drives.iter().filter(|drive| drive.state.serves()).count();
    format!(
        "cluster {}, layout generation {}, {serving} of {} drives serve\n{nodes}\n{pools}\n{sets}",
        view.cluster,
        view.layout_generation,
        view.drives.len()
    )
}

/// Every set.
pub(crate) fn sets(sets: &[SetView]) -> String {
    let mut rows = table(&[
        "SET",
        "POOL",
        "DRIVES",
        "SERVING",
        "REBUILDING",
        "EPOCH",
        "WRITES SURVIVE",
        "READS SURVIVE",
    ]);
    for set in sets {
        rows.add_row([
            Cell::new(set.set),
            Cell::new(set.pool),
            number(set.drives),
            number(set.drives_serving),
            number(set.drives_rebuilding),
            number(set.epoch),
            number(failures(set.write_failures_left)),
            number(failures(set.read_failures_left)),
        ]);
    }
    rows.to_string()
}

/// Rebuilds and workers of every node.
pub(crate) fn heal(nodes: &[HealView]) -> String {
    let mut rebuilds = table(&[
        "NODE", "PATH", "PHASE", "SEEN", "OF", "BROUGHT", "RATE", "LEFT", "WHOLE", "SHORT", "ERROR",
    ]);
    let mut workers = table(&["NODE", "WORKER", "DOING", "DONE", "LEFT", "ERROR"]);
    let mut text = Vec::new();
    for node in nodes {
        if !node.error.is_empty() {
            text.push(format!("{} says nothing: {}", node.node, node.error));
        }
        if node.paused {
            text.push(format!("{} holds rebuilding", node.node));
        }
        if node.bytes_per_second > 0 {
            let rate = bytes(node.bytes_per_second);
            text.push(format!("{} rebuilds at {rate} a second at most", node.node));
        }
        for rebuild in &node.rebuilds {
            let left = rebuild.seconds_left.map_or_else(String::new, |left| format!("{left} s"));
            rebuilds.add_row([
                Cell::new(&node.node),
                Cell::new(&rebuild.path),
                Cell::new(&rebuild.phase),
                number(rebuild.seen),
                number(rebuild.registers),
                number(bytes(rebuild.bytes)),
                number(format!("{}/s", bytes(rebuild.rate))),
                number(left),
                number(rebuild.whole),
                number(rebuild.short_count),
                Cell::new(&rebuild.error),
            ]);
            for short in &rebuild.short {
                text.push(format!("{}: {} good shards; {}", short.key, short.good, short.why));
            }
        }
        for worker in &node.workers {
            workers.add_row([
                Cell::new(&node.node),
                Cell::new(&worker.name),
                Cell::new(&worker.doing),
                number(worker.done),
                number(worker.left),
                Cell::new(&worker.error),
            ]);
        }
    }
    format!("{rebuilds}\n{workers}\n{}", text.join("\n"))
}

/// Every drive.
pub(crate) fn drives(drives: &[DriveView]) -> String {
    let mut rows = table(&["NODE", "PATH", "STATE", "SET", "USED", "CAPACITY", "DRIVE", "DETAIL"]);
    for drive in drives {
        rows.add_row([
            Cell::new(&drive.node),
            Cell::new(&drive.path),
            Cell::new(drive.state.name()),
            number(drive.set),
            number(bytes(drive.used_bytes)),
            number(bytes(drive.capacity_bytes)),
            Cell::new(&drive.drive),
            Cell::new(&drive.detail),
        ]);
    }
    rows.to_string()
}

/// Every shard of an object.
pub(crate) fn object(view: &ObjectView) -> String {
    let mut rows = table(&["SHARD", "KIND", "PART", "STATE", "NODE", "PATH", "PLACE"]);
    for shard in &view.shards {
        let kind = if shard.shard < view.data_shards { "data" } else { "parity" };
        rows.add_row([
            number(shard.shard),
            Cell::new(kind),
            Cell::new(shard.part.map_or_else(String::new, |part| part.to_string())),
            Cell::new(shard.state.name()),
            Cell::new(&shard.node),
            Cell::new(&shard.path),
            Cell::new(&shard.place),
        ]);
    }
    format!(
        "{}/{}: {} in set {}, {} data + {} parity shards, blocks of {}\n{rows}",
        view.bucket,
        view.key,
        bytes(view.size),
        view.set,
        view.data_shards,
        view.parity_shards,
        bytes(u64::from(view.block_bytes))
    )
}

pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head);
    table
}

pub(crate) fn number(value: impl ToString) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

fn failures(left: Option<u32>) -> String {
    match left {
        None => "stopped".to_owned(),
        Some(1) => "1 more failure".to_owned(),
        Some(count) => format!("{count} more failures"),
    }
}

/// Binary units with one decimal.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = (count.ilog2() / 10) as usize;
    let value = count as f64 / (1_u64 << (power * 10)) as f64;
    format!("{value:.1} {}", UNITS[power - 1])
}

#[cfg(test)]
mod tests {
    use holdfast_types::{
        DriveState,
        view::{SetView, ShardState, ShardView},
    };

    use super::*;

    #[test]
    fn byte_counts() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_610_612_736, "1.5 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_stopped_set_says_so() {
        let set = SetView {
            write_failures_left: None,
            read_failures_left: Some(1),
            ..SetView::default()
        };
        let text = cluster(&ClusterView { sets: vec![set], ..ClusterView::default() });
        assert!(text.contains("stopped") && text.contains("1 more failure"), "{text}");
    }

    #[test]
    fn drives_and_shards_show_their_states() {
        let drive = DriveView {
            node: "http://n1:9000".to_owned(),
            drive: "d".to_owned(),
            path: "/mnt/a".to_owned(),
            state: DriveState::Faulty,
            set: 0,
            capacity_bytes: 0,
            used_bytes: 0,
            detail: "fsync failed".to_owned(),
        };
        let text = drives(&[drive]);
        assert!(text.contains("faulty") && text.contains("fsync failed"), "{text}");
        let shard = ShardView {
            shard: 1,
            part: None,
            node: "http://n1:9000".to_owned(),
            drive: "d".to_owned(),
            path: "/mnt/a".to_owned(),
            place: "inline".to_owned(),
            state: ShardState::Present,
        };
        let text =
            object(&ObjectView { data_shards: 1, shards: vec![shard], ..ObjectView::default() });
        assert!(text.contains("parity") && text.contains("present"), "{text}");
    }
}
