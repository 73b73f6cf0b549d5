//! Files that try every corner of the two grammars: pieces of each, mostly in their right places.

use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

const SEED: [u8; 32] = *b"the same files in every test run";

/// So many values of a strategy, the same each time.
pub fn values<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &SEED);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let value = |_| strategy.new_tree(&mut runner).expect("a value").current();
    (0..count).map(value).collect()
}

/// Some of these pieces in a row.
fn pieces(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    vec(select(pieces), 0..=most).prop_map(|pieces| pieces.concat())
}

fn line_ends() -> impl Strategy<Value = &'static str> {
    prop_oneof![8 => Just("\n"), 2 => Just("\r\n"), 1 => Just("\r"), 1 => Just("\n\n"), 1 => Just("\n \t\n")]
}

/// Lines with their ends, the last of which may be missing, and sometimes a byte order mark before them.
fn file(line: impl Strategy<Value = String>, most: usize) -> impl Strategy<Value = String> {
    let lines = vec((line, line_ends()), 0..=most);
    (lines, any::<bool>(), prop::bool::weighted(0.05)).prop_map(|(lines, is_ended, has_mark)| {
        let mut text = String::from(if has_mark { "\u{feff}" } else { "" });
        for (line, end) in &lines {
            text.push_str(line);
            text.push_str(end);
        }
        if !is_ended && let Some((_, end)) = lines.last() {
            text.truncate(text.len() - end.len());
        }
        text
    })
}

// ---------------------------------------------------------------------------------------------------------------------
// .env

const NAMES: &[&str] = &[
    "A",
    "A",
    "A",
    "B",
    "B",
    "C",
    "PROCESS",
    "EMPTY",
    "MY-KEY",
    "my.key",
    "'quoted name'",
    "''",
    "'open",
    "Ä",
    "export",
    "\"A\"",
    "",
    "A B",
    "A:B",
    "${A}",
    "\\",
];

/// What a value is made of, quoted or not.
const VALUE_PIECES: &[&str] = &[
    "a",
    "word",
    " ",
    "  ",
    "\t",
    "#",
    " #",
    " # note",
    "=",
    "'",
    "\"",
    "\\",
    "\\\\",
    "\\n",
    "\\t",
    "\\'",
    "\\\"",
    "\\a\\b\\f\\v",
    "\\x41",
    "\\u0041",
    "\\101",
    "$",
    "$A",
    "${",
    "}",
    "${A}",
    "${B}",
    "${PROCESS}",
    "${EMPTY}",
    "${NONE}",
    "${A:-d}",
    "${NONE:-d}",
    "${EMPTY:-d}",
    "${NONE:-}",
    "${NONE:-${A}}",
    "${NONE:-a b'\"#}",
    "${A:b}",
    "${:-d}",
    "${}",
    "${A:-",
    "$${A}",
    "{",
    ":-",
    "[\"x\", 1]",
    "{bcrypt}$2b$12$S8Yu",
    "é",
    "名",
    "😀",
    "\u{a0}",
    "\u{b}",
    "\u{1c}",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "\u{200b}",
    "C:\\models\\x",
    "https://h:1/p?a=b&c=d#e",
    ";",
];

const SOUP: &[&str] = &[
    "A", "B", "export", "export ", "=", "=", " = ", "'", "\"", "#", " #", "\\", "\n", "\n", "\r\n", "\r",
    " ", "\t", "${A}", "${B:-x}", "$", "é", "\u{a0}", "\u{1c}", "x", "x y", "\u{feff}",
];

pub fn dotenv(count: usize) -> Vec<String> {
    let quoted = (
        select(&["'", "\""][..]),
        pieces(VALUE_PIECES, 5),
        pieces(&["", "\n", "\r\n", "\\\n", "b"], 2),
    );
    let quoted = (
        quoted,
        select(&["", "", "", "", "", "#c", " # c", " x", "'", "\"", " "][..]),
    );
    let quoted = quoted.prop_map(|((quote, text, more), after)| {
        // Most of them are closed, and by the first quote that can close them.
        let text = text.replace(quote, "");
        format!("{quote}{text}{more}{quote}{after}")
    });
    let open = (select(&["'", "\""][..]), pieces(VALUE_PIECES, 4))
        .prop_map(|(quote, text)| format!("{quote}{text}"));
    let value = prop_oneof![5 => pieces(VALUE_PIECES, 6), 4 => quoted, 1 => open];
    let name = (
        select(
            &[
                "",
                "",
                "",
                "",
                "export ",
                "export\t",
                " ",
                "\t ",
                "export",
                "export  export ",
            ][..],
        ),
        select(NAMES),
    );
    let name = name.prop_map(|(before, name)| format!("{before}{name}"));
    let equals = select(
        &[
            "=",
            "=",
            "=",
            "=",
            " = ",
            "= ",
            " =",
            "==",
            "",
            " ",
            "\u{a0}=\u{a0}",
        ][..],
    );
    let binding = (name, equals, value).prop_map(|(name, equals, value)| format!("{name}{equals}{value}"));
    let comment = pieces(VALUE_PIECES, 3).prop_map(|text| format!("#{text}"));
    let bare = select(&["A", "B", "export A"][..]).prop_map(str::to_owned);
    let line = prop_oneof![12 => binding, 1 => bare, 1 => comment, 1 => pieces(VALUE_PIECES, 4)];
    values(prop_oneof![4 => file(line, 6), 1 => pieces(SOUP, 14)], count)
}

// ---------------------------------------------------------------------------------------------------------------------
// config.ini

const SECTIONS: &[&str] = &[
    "postgres",
    "redis",
    "mongodb",
    "opensearch",
    "DEFAULT",
    "default",
    " redis ",
    "a]b",
    "é",
    "a = b",
    "Redis",
];

const KEYS: &[&str] = &[
    "user", "User", "HOST", "uri", "a b", "password", "k1", "k2", "k3", "k4", "É", "İ", "ΑΣ", "x\u{a0}",
    "rem",
];

const INI_PIECES: &[&str] = &[
    "a",
    "word",
    " ",
    "  ",
    "\t",
    "%%",
    "%%",
    "%(user)s",
    "%(USER)s",
    "%(host)s",
    "%(k1)s",
    "%(none)s",
    "#",
    " # c",
    ";",
    " ; c",
    "=",
    ":",
    "'",
    "\"",
    "\\",
    "\\n",
    "$",
    "${user}",
    "[x]",
    "]",
    "[",
    "é",
    "名",
    "😀",
    "\u{a0}",
    "\u{b}",
    "\u{1c}",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "redis://:p@h:1/0",
];

/// Pieces that Python refuses in a value, or mostly: rare, since one of them makes the value unreadable.
const REFUSED_PIECES: &[&str] = &["%", "%x", "%(", "%()s", "%(user)", "%(user)d", "%(user"];

const INI_SOUP: &[&str] = &[
    "[s]", "[", "]", "k", "K", "=", ":", " ", "\t", "\n", "\n", "\n ", "\r", "%%", "%", "#", ";", "v",
    "\u{1c}", "\u{feff}",
];

pub fn ini(count: usize) -> Vec<String> {
    let value = prop_oneof![
        12 => pieces(INI_PIECES, 5),
        1 => (pieces(INI_PIECES, 3), select(REFUSED_PIECES), pieces(INI_PIECES, 2)).prop_map(|(a, b, c)| format!("{a}{b}{c}"))
    ];
    // Numbers keep most keys of a section apart: a second one of the same name ends Python's reading.
    let key = prop_oneof![1 => select(KEYS).prop_map(str::to_owned), 3 => (0..60u8).prop_map(|n| format!("Key{n}"))];
    let delimiter = select(&["=", "=", " = ", ": ", " : ", "=\t", "==", ":="][..]);
    let option = (
        select(&["", "", "", "", "", "", " ", "\t"][..]),
        key,
        delimiter,
        value,
    )
        .prop_map(|(indent, key, delimiter, value)| format!("{indent}{key}{delimiter}{value}"));
    let continued = (
        select(&[" ", "  ", "\t", "    ", "\u{a0}", "\u{1c} "][..]),
        pieces(INI_PIECES, 4),
    )
        .prop_map(|(indent, text)| format!("{indent}{text}"));
    let comment = (
        select(&["#", ";", " #", "  ; ", "\t#"][..]),
        pieces(INI_PIECES, 3),
    )
        .prop_map(|(mark, text)| format!("{mark}{text}"));
    let section = || {
        let after = select(&["", "", "", "", " ", " ; x", "]", "x"][..]);
        (select(SECTIONS), after).prop_map(|(name, after)| format!("[{name}]{after}"))
    };
    let odd = prop_oneof![
        pieces(INI_PIECES, 4),
        select(&["= v", ": v", "k", "[]", "[x", "[DEFAULT]"][..]).prop_map(str::to_owned)
    ];
    // Each refers to the one before it. Python follows so many of them and no more.
    let chain = (8..14_u8).prop_map(|length| {
        let links = (1..length).map(|link| format!("c{link} = %(c{})s%%\n", link - 1));
        format!("c0 = end%%\n{}", links.collect::<String>())
    });
    let line =
        prop_oneof![60 => option, 1 => chain, 14 => continued, 10 => comment, 4 => section(), 1 => odd];
    let with_section = (file(comment_or_nothing(), 1), section(), file(line, 8));
    let with_section = with_section.prop_map(|(before, section, lines)| {
        let lines = lines.trim_start_matches('\u{feff}');
        format!("{before}{section}\n{lines}")
    });
    values(prop_oneof![8 => with_section, 1 => pieces(INI_SOUP, 12)], count)
}

fn comment_or_nothing() -> impl Strategy<Value = String> {
    select(&["", "", "# first", "; first", " "][..]).prop_map(str::to_owned)
}
