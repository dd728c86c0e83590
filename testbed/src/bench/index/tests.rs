//! The benchmark on a small drive: it runs, and what it says adds up.

use super::*;

fn args(dir: &std::path::Path, index: Kept) -> Args {
    Args {
        entries: 3_000,
        index,
        dir: dir.to_owned(),
        time: Duration::from_secs(60),
        lookups: 200,
        repairs: 300,
        keep: true,
        json: true,
        step: None,
    }
}

/// Goal: each step runs on what the one before left, for each kind of index, and counts what is there.
/// Method: three thousand entries, all steps in this process.
#[test]
fn the_steps_run_and_count() {
    for kept in [Kept::Off, Kept::Runs, Kept::Sled] {
        let folder = tempfile::tempdir().unwrap();
        let args = args(folder.path(), kept);
        let grown = grow::run(&args).unwrap();
        assert_eq!((grown.entries, grown.registers, grown.repairs), (3_000, 3_150, 2));
        assert!(grown.bytes.runs > 0 && (grown.bytes.index > 0) == (kept != Kept::Off));
        let restarted = restart::run(&args).unwrap();
        assert_eq!(restarted.hit.count, 200);
        assert!(restarted.hit.p50_us > 0.0 && restarted.list.count > 2);
        let below = below::run(&args).unwrap();
        assert!(below.run_items.iter().sum::<u64>() > 6_000);
        let objects = below.index.map(|side| side.hit.count);
        let expected = [(Kept::Off, None), (Kept::Runs, Some(0)), (Kept::Sled, Some(200))];
        assert!(expected.contains(&(kept, objects)), "{kept:?}: {objects:?}");
        let report = Report { index: kept.name().to_owned(), grown, restarted, below };
        assert!(report.to_string().contains("read hit"));
        let json = serde_json::to_string(&report).unwrap();
        assert!(serde_json::from_str::<Report>(&json).is_ok());
    }
}
