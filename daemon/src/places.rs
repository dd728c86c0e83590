//! Where drives' folders lie.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt, path::Path};

use crate::failure::Failure;

/// Two names of one folder would be formatted as two drives, and a shard on each of them be lost with one device.
///
/// # Errors
/// [`Failure`] that names both.
pub fn check_distinct(paths: &[String]) -> Result<(), Failure> {
    let mut known = HashMap::new();
    for path in paths {
        let Ok(found) = fs::metadata(path) else { continue };
        if let Some(first) = known.insert((found.dev(), found.ino()), path) {
            return Err(Failure::new(
                format!("use drives {first} and {path}: they are the same folder"),
                "name each drive once, and check links and mounts",
            ));
        }
    }
    Ok(())
}

/// Whether a folder is, or would be, on the file system of `/`.
#[must_use]
pub fn is_on_root(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let nearest = path.ancestors().find_map(device);
    nearest.is_some() && nearest == device(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one folder is one drive, by whatever name. Method: folders, one of them by a link and by a way round, and one that is
    /// not there.
    #[test]
    fn two_names_of_one_folder_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name).display().to_string();
        for name in ["a", "b"] {
            fs::create_dir(path(name)).expect("made");
        }
        std::os::unix::fs::symlink(path("a"), path("link")).expect("linked");
        assert_eq!(check_distinct(&[path("a"), path("b"), path("gone"), path("none")]), Ok(()));
        for other in ["link", "b/../a"] {
            let failure = check_distinct(&[path("a"), path("b"), path(other)]).expect_err(other);
            assert!(failure.cause.contains("same folder"), "{failure}");
        }
    }
}
