//! What a file is that is given as a cache and is none.

/// How many bytes at the beginning of a file tell what it is.
pub(crate) const HEAD: usize = 512;

/// What a file is that begins with these bytes, and what to do about it; `None` where that is not known.
pub(crate) fn of_head(head: &[u8]) -> Option<(&'static str, &'static str)> {
    const UNPACK: &str = "unpack it first, and name the unpacked file";
    const CONVERT: &str = "convert it to UTF-8 first: iconv -f UTF-16 -t UTF-8";
    const NO_CACHE: &str = "name LightRAG's working directory, or its kv_store_llm_response_cache.json";
    const BY_MAGIC: &[(&[u8], &str, &str)] = &[
        (b"\x1f\x8b", "gzip", UNPACK),
        (b"\xfd7zXZ\0", "xz", UNPACK),
        (b"\x28\xb5\x2f\xfd", "Zstandard", UNPACK),
        (b"BZh", "bzip2", UNPACK),
        (b"\x04\x22\x4d\x18", "LZ4", UNPACK),
        (b"PK\x03\x04", "a zip archive", UNPACK),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
        (b"\xff\xfe", "UTF-16 text", CONVERT),
        (b"\xfe\xff", "UTF-16 text", CONVERT),
        (b"{\0", "UTF-16 text", CONVERT),
        (b"\0{", "UTF-16 text", CONVERT),
        (b"SQLite format 3\0", "an SQLite database", NO_CACHE),
        (
            b"version https://git-lfs",
            "a pointer of Git LFS",
            "fetch the file itself: git lfs pull",
        ),
    ];
    let found = BY_MAGIC.iter().find(|(magic, _, _)| head.starts_with(magic));
    if let Some((_, what, remedy)) = found {
        return Some((what, remedy));
    }
    let text = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    match text.first() {
        Some(b'<') if memchr::memmem::find(text, b"<graphml").is_some() => {
            Some(("GraphML, LightRAG's knowledge graph", NO_CACHE))
        }
        Some(b'<') => Some(("XML or HTML", NO_CACHE)),
        Some(b'[') => Some(("a JSON list", NO_CACHE)),
        _ if head.get(257..262) == Some(b"ustar") => Some(("a tar archive", UNPACK)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_kinds_are_recognized_by_their_first_bytes() {
        let mut tar = vec![b'x'; 257];
        tar.extend_from_slice(b"ustar\0");
        for (head, what) in [
            (&b"\x1f\x8b\x08\0"[..], "gzip"),
            (b"\xff\xfe{\0", "UTF-16 text"),
            (b"{\0\"\0", "UTF-16 text"),
            (
                b" <?xml version='1.0'?>\n<graphml>",
                "GraphML, LightRAG's knowledge graph",
            ),
            (b"<!DOCTYPE html>", "XML or HTML"),
            (b"\xef\xbb\xbf [1]", "a JSON list"),
            (&tar, "a tar archive"),
        ] {
            assert_eq!(of_head(head).map(|(what, _)| what), Some(what));
        }
        for head in [&b"{\"default:extract:1\": {}}"[..], b"", b"  ", b"hello"] {
            assert_eq!(of_head(head), None);
        }
    }
}
