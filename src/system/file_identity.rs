//! Recognizes a file under another name.

use std::path::{Path, PathBuf};

use super::os;

/// The most links that are followed to a file that does not exist.
const MOST_LINKS: usize = 40;

/// The identity of a regular file: equal for all of its names, also if it does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileIdentity {
    /// Device and inode of an existing file.
    Node(u64, u64),
    /// The path without links: of a file that does not exist, or of any file where the system has no inodes.
    Path(PathBuf),
}

impl FileIdentity {
    /// The identity of the file that a path names; `None` if that is a folder, a device or a pipe.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let node = match path.metadata() {
            Ok(found) if !found.is_file() => return None,
            Ok(found) => os::node(&found),
            Err(_) => None,
        };
        Some(match node {
            Some((device, inode)) => Self::Node(device, inode),
            None => Self::Path(without_links(path)),
        })
    }
}

/// The absolute path, with links followed as far as it exists, and a link at its end also if it leads nowhere: writing to
/// such a link creates the file.
fn without_links(path: &Path) -> PathBuf {
    let mut path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for _ in 0..MOST_LINKS {
        let Ok(target) = path.read_link() else { break };
        path = path.parent().unwrap_or(&path).join(target);
    }
    real_path(&path)
}

/// An absolute path with links followed, as far as it exists.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    let real = path.ancestors().find_map(|there| {
        let real = match there.canonicalize() {
            Ok(real) => real,
            // A pipe without a name, which a link such as /dev/stdin leads to.
            Err(_) if there.exists() => there.to_owned(),
            Err(_) => return None,
        };
        // Joined with an empty rest at once, the path would end in a separator.
        let rest = path.strip_prefix(there).ok()?.components();
        Some(rest.fold(real, |path, name| path.join(name)))
    });
    real.unwrap_or_else(|| path.to_owned())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_recognized_under_each_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("real")).unwrap();
        std::fs::write(at("real/file"), "").unwrap();
        std::fs::write(at("real/other"), "").unwrap();
        std::fs::hard_link(at("real/file"), at("hard")).unwrap();
        symlink("real", at("folder")).unwrap();
        symlink(at("real/file"), at("link")).unwrap();
        symlink("folder/later", at("dangling")).unwrap();
        symlink("round", at("round")).unwrap();
        let of = |name: &str| FileIdentity::of(&at(name)).unwrap();
        for name in ["hard", "link", "folder/file", "real/../real/./file"] {
            assert_eq!(of(name), of("real/file"), "{name}");
        }
        for name in ["dangling", "folder/later", "folder/../real/later"] {
            assert_eq!(of(name), of("real/later"), "{name}");
        }
        assert_eq!(of("real/none/later"), of("folder/none/later"));
        for (one, other) in [
            ("real/file", "real/other"),
            ("real/later", "later"),
            ("real/later", "real/file"),
            ("round", "later"),
        ] {
            assert_ne!(of(one), of(other), "{one} {other}");
        }
    }

    #[test]
    fn only_a_regular_file_has_an_identity() {
        for path in ["/", "/dev/null"] {
            assert_eq!(FileIdentity::of(path.as_ref()), None, "{path}");
        }
    }
}
