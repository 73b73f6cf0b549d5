//! Numbers that agree with their nouns.

/// `one` of a single thing, else `many`.
pub(crate) fn plural<'a>(number: u64, one: &'a str, many: &'a str) -> &'a str {
    if number == 1 { one } else { many }
}

/// A number with a noun that takes an `s`: `1 record`, `0 records`.
pub(crate) fn number_of(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", plural(number, "", "s"))
}
