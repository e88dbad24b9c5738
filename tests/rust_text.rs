//! Reading Rust just well enough to judge it: which bytes are code, and which paths it names.
//!
//! ## Why
//!
//! No parser crate: blanking and brackets are enough for the questions of `tidy`, and all of them
//! over the whole tree take a tenth of a second. Every function keeps offsets, so that a finding
//! knows its line.

pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Blanks comments, strings and characters; keeps every newline and every offset.
pub(crate) fn blank_prose(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = prose_end(bytes, at);
        for byte in &mut out[at..end.max(at)] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("blanking replaces whole characters")
}

/// End of the comment or literal that begins at `at`; `at` if none does.
fn prose_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |from: usize, what: &[u8]| {
        let found = rest.get(from..).and_then(|r| r.windows(what.len()).position(|w| w == what));
        found.map_or(bytes.len(), |p| at + from + p + what.len())
    };
    let in_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| at + n),
        [b'/', b'*', ..] => block_comment_end(bytes, at),
        [b'"', ..] => quoted_end(bytes, at + 1, b'"'),
        [b'r' | b'b', ..] if !in_word => {
            let prefix = rest.iter().take_while(|b| b"rb".contains(b)).count();
            let hashes = rest[prefix..].iter().take_while(|&&b| b == b'#').count();
            let raw = rest[..prefix].contains(&b'r');
            match rest.get(prefix + hashes) {
                Some(b'"') if raw => {
                    let close = [b"\"".to_vec(), vec![b'#'; hashes]].concat();
                    find(prefix + hashes + 1, &close)
                }
                Some(b'"') if hashes == 0 => quoted_end(bytes, at + prefix + 1, b'"'),
                Some(b'\'') if hashes == 0 => quoted_end(bytes, at + prefix + 1, b'\''),
                _ => at,
            }
        }
        // A character, not a lifetime: `'x'` or `'\...'`.
        [b'\'', b'\\', ..] => quoted_end(bytes, at + 1, b'\''),
        [b'\'', ..] => {
            let char_len = (1..=4).find(|n| rest.get(1 + n) == Some(&b'\''));
            match char_len {
                Some(1) => at + 3,
                Some(n) if rest[1] >= 0x80 => at + n + 2,
                _ => at,
            }
        }
        _ => at,
    }
}

fn quoted_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn block_comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Blanks each item under `#[cfg(test)]`. Also returns the names of modules declared so that live
/// in files of their own.
pub(crate) fn blank_tests(bare: &str) -> (String, Vec<String>) {
    let mut out = bare.to_owned();
    let mut files = Vec::new();
    let mark = "#[cfg(test)]";
    let mut from = 0;
    while let Some(found) = bare[from..].find(mark) {
        let start = from + found;
        let end = item_end(bare, start + mark.len());
        let item = &bare[start + mark.len()..end];
        if let Some(name) = item.trim().strip_suffix(';').and_then(|i| i.rsplit_once("mod ")) {
            files.push(name.1.trim().to_owned());
        }
        let blank: String =
            bare[start..end].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
        from = end;
    }
    (out, files)
}

/// End of the item that starts at `at`: a `;` outside brackets or the brace that closes it.
fn item_end(bare: &str, at: usize) -> usize {
    let mut depth = 0_i32;
    for (i, b) in bare.bytes().enumerate().skip(at) {
        match b {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' if depth == 1 => return i + 1,
            b'}' | b')' | b']' => depth -= 1,
            b';' if depth == 0 => return i + 1,
            _ => {}
        }
    }
    bare.len()
}

/// Every path in the code whose first segment is `root`, groups unfolded, with its offset:
/// `use crate::{a::b, c}` gives `[crate, a, b]` and `[crate, c]`.
pub(crate) fn paths<'a>(code: &'a str, root: &str) -> Vec<(usize, Vec<&'a str>)> {
    let mut found = Vec::new();
    for at in word_offsets(code, root) {
        if code[..at].ends_with("::") || code[..at].ends_with('.') {
            continue;
        }
        unfold(code, at, at, &mut Vec::new(), &mut found);
    }
    found
}

/// Reads the path at `at` and pushes what it names; returns where it ends.
fn unfold<'a>(
    code: &'a str,
    start: usize,
    mut at: usize,
    prefix: &mut Vec<&'a str>,
    found: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let bytes = code.as_bytes();
    let skip = |at: &mut usize| {
        while bytes.get(*at).is_some_and(u8::is_ascii_whitespace) {
            *at += 1;
        }
    };
    let depth = prefix.len();
    loop {
        skip(&mut at);
        if bytes.get(at) == Some(&b'{') {
            at += 1;
            loop {
                at = unfold(code, start, at, prefix, found);
                skip(&mut at);
                match bytes.get(at) {
                    Some(b',') => at += 1,
                    Some(b'}') => break at += 1,
                    _ => break,
                }
            }
            break;
        }
        let len = bytes[at..].iter().take_while(|&&b| is_word(b)).count();
        if len > 0 {
            prefix.push(&code[at..at + len]);
        }
        at += len;
        if len == 0 || !code[at..].starts_with("::") {
            if prefix.len() > depth {
                found.push((start, prefix.clone()));
            }
            // `as name` is no path of its own.
            let rest = code[at..].trim_start();
            if let Some(alias) = rest.strip_prefix("as ") {
                at = code.len() - alias.len();
                at += bytes[at..].iter().take_while(|&&b| is_word(b)).count();
            }
            break;
        }
        at += 2;
    }
    prefix.truncate(depth);
    at
}

/// Offsets of `word` as a whole word.
pub(crate) fn word_offsets(text: &str, word: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let whole = |&at: &usize| {
        (at == 0 || !is_word(bytes[at - 1]))
            && !bytes.get(at + word.len()).is_some_and(|&b| is_word(b))
    };
    text.match_indices(word).map(|(at, _)| at).filter(whole).collect()
}

#[test]
fn prose_is_told_from_code() {
    for (text, want) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"f("a\"b", 'c', '\'', 'x: &'a T)"#, "f(      ,    ,     , 'x: &'a T)"),
        ("r#\"a\"b\"# c", "         c"),
        ("br\"\\\" c b'\"' d", "      c      d"),
        ("'é' x", "     x"),
        ("for r in b {}", "for r in b {}"),
    ] {
        let got = blank_prose(text);
        assert_eq!(got.replace('\n', " ").trim_end(), want.replace('\n', " ").trim_end(), "{text}");
        assert_eq!(got.len(), text.len());
    }
}
