//! Character classes and escapes: `[..]`, `\d`, `[:alpha:]`, `\p{Greek}`, `\x{263a}`, `\07`.
//!
//! A class is collected as plain ranges and made a set once, so that the cost of a long one is
//! that of a sort. Code points are numbers here: Go's classes may hold surrogates, which no text
//! contains, and they are left out when the set is made.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use crate::model::re2::{Error, Fault, NODES_MAX, fault};

/// Inclusive ranges of code points, in no order.
type Ranges = Vec<(u32, u32)>;

const DIGIT: &[(u8, u8)] = &[(b'0', b'9')];
const WORD: &[(u8, u8)] = &[(b'0', b'9'), (b'A', b'Z'), (b'_', b'_'), (b'a', b'z')];
/// Perl's space: without the vertical tab, which `[:space:]` has.
const SPACE: &[(u8, u8)] = &[(b'\t', b'\n'), (0x0c, b'\r'), (b' ', b' ')];

/// The classes of `[[:name:]]`.
const POSIX: &[(&str, &[(u8, u8)])] = &[
    ("alnum", &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')]),
    ("alpha", &[(b'A', b'Z'), (b'a', b'z')]),
    ("ascii", &[(0, 0x7f)]),
    ("blank", &[(b'\t', b'\t'), (b' ', b' ')]),
    ("cntrl", &[(0, 0x1f), (0x7f, 0x7f)]),
    ("digit", DIGIT),
    ("graph", &[(b'!', b'~')]),
    ("lower", &[(b'a', b'z')]),
    ("print", &[(b' ', b'~')]),
    ("punct", &[(b'!', b'/'), (b':', b'@'), (b'[', b'`'), (b'{', b'~')]),
    ("space", &[(b'\t', b'\r'), (b' ', b' ')]),
    ("upper", &[(b'A', b'Z')]),
    ("word", WORD),
    ("xdigit", &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')]),
];

/// Reads the class that `text` starts with, from its `[` to its `]`; the rest of `text` follows.
/// `posix_end` tells how many bytes before its end the last `:]` starts, or 0: with it, many a `[:`
/// that has no end is not a search through the whole text each time.
pub(super) fn bracket(
    text: &str,
    fold: bool,
    posix_end: usize,
) -> Result<(ClassUnicode, &str), Error> {
    let mut rest = &text[1..];
    let negated = rest.starts_with('^');
    rest = rest.strip_prefix('^').unwrap_or(rest);
    let mut ranges = Ranges::new();
    let mut first = true;
    while first || !rest.starts_with(']') {
        first = false;
        if ranges.len() > NODES_MAX as usize {
            return Err(fault(Fault::TooLarge, text));
        }
        if posix_end != 0
            && posix_end + 2 <= rest.len()
            && let Some((class, after)) = posix_class(rest, fold)?
        {
            add(&mut ranges, &class);
            rest = after;
            continue;
        }
        if let Some((class, after)) = escaped_class(rest, fold)? {
            add(&mut ranges, &class);
            rest = after;
            continue;
        }
        let (low, mut after) = member(rest, text)?;
        let mut high = low;
        if let Some(end) = after.strip_prefix('-')
            && !end.is_empty()
            && !end.starts_with(']')
        {
            (high, after) = member(end, text)?;
            if high < low {
                return Err(fault(Fault::ClassRange, until(rest, after)));
            }
        }
        ranges.push((low, high));
        rest = after;
    }
    let mut class = set(&ranges);
    if fold {
        add_cases(&mut class);
    }
    if negated {
        class.negate();
    }
    Ok((class, &rest[1..]))
}

/// Reads `\d`, `\pL`, `\p{Greek}` and their like, if `text` starts with one.
pub(super) fn escaped_class(text: &str, fold: bool) -> Result<Option<(ClassUnicode, &str)>, Error> {
    let Some(letter) = text.strip_prefix('\\').and_then(|t| t.chars().next()) else {
        return Ok(None);
    };
    let ranges = match letter.to_ascii_lowercase() {
        'd' => DIGIT,
        's' => SPACE,
        'w' => WORD,
        'p' => return unicode_class(text, letter == 'P', fold).map(Some),
        _ => return Ok(None),
    };
    Ok(Some((ascii(ranges, fold, letter.is_ascii_uppercase()), &text[2..])))
}

/// Reads `[:alpha:]` or `[:^alpha:]`, if `text` starts like one and ends like one.
fn posix_class(text: &str, fold: bool) -> Result<Option<(ClassUnicode, &str)>, Error> {
    let Some((name, rest)) = text.strip_prefix("[:").and_then(|t| t.split_once(":]")) else {
        return Ok(None);
    };
    let (plain, negated) = name.strip_prefix('^').map_or((name, false), |n| (n, true));
    match POSIX.iter().find(|(known, _)| *known == plain) {
        Some((_, ranges)) => Ok(Some((ascii(ranges, fold, negated), rest))),
        None => Err(fault(Fault::ClassRange, until(text, rest))),
    }
}

/// Reads `\pN`, `\p{Name}`, `\p{^Name}`, or with `P`; `text` starts with one of them.
fn unicode_class(text: &str, negated: bool, fold: bool) -> Result<(ClassUnicode, &str), Error> {
    let body = &text[2..];
    let (name, rest) = match body.strip_prefix('{') {
        Some(inner) => inner.split_once('}').ok_or_else(|| fault(Fault::ClassRange, text))?,
        None => body.split_at(body.chars().next().map_or(0, char::len_utf8)),
    };
    let (plain, turned) = name.strip_prefix('^').map_or((name, false), |n| (n, true));
    let mut class = named(plain).ok_or_else(|| fault(Fault::ClassRange, until(text, rest)))?;
    if fold {
        add_cases(&mut class);
    }
    if negated != turned {
        class.negate();
    }
    Ok((class, rest))
}

/// The class of a general category or a script. Case, blanks, `_` and `-` do not matter.
fn named(name: &str) -> Option<ClassUnicode> {
    let name: String =
        name.chars().filter(|c| !"_- ".contains(*c)).map(|c| c.to_ascii_lowercase()).collect();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    match name.as_str() {
        "any" => return Some(set(&[(0, u32::from(char::MAX))])),
        "ascii" => return Some(set(&[(0, 0x7f)])),
        "assigned" => {
            let mut class = unicode_property("gc=unassigned")?;
            class.negate();
            return Some(class);
        }
        // No text holds a surrogate.
        "cs" | "surrogate" => return Some(ClassUnicode::empty()),
        _ => {}
    }
    // These tables know two more spellings that RE2 does not: `Is` before a name, and the codes of
    // four letters of ISO 15924. These scripts have four letters by name.
    let four = ["cham", "kawi", "lisu", "miao", "modi", "newa", "thai", "toto"];
    if name.starts_with("is") || name == "unknown" {
        return None;
    }
    unicode_property(&format!("gc={name}")).or_else(|| {
        let coded = name.len() == 4 && !four.contains(&name.as_str());
        if coded { None } else { unicode_property(&format!("sc={name}")) }
    })
}

/// A class from the tables of `regex-syntax`.
pub(super) fn unicode_property(name: &str) -> Option<ClassUnicode> {
    let hir = regex_syntax::parse(&format!("\\p{{{name}}}")).ok()?;
    match hir.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some(class),
        _ => None,
    }
}

/// Reads one member of the class `whole`, or one end of a range.
fn member<'p>(text: &'p str, whole: &str) -> Result<(u32, &'p str), Error> {
    match text.chars().next() {
        None => Err(fault(Fault::OpenClass, whole)),
        Some('\\') => escaped_char(text),
        Some(c) => Ok((u32::from(c), &text[c.len_utf8()..])),
    }
}

/// Reads the escape of a single character that `text` starts with.
pub(super) fn escaped_char(text: &str) -> Result<(u32, &str), Error> {
    let mut chars = text.chars();
    chars.next();
    let Some(c) = chars.next() else {
        return Err(fault(Fault::TrailingBackslash, ""));
    };
    let rest = chars.as_str();
    let octal = |b: u8| (b'0'..=b'7').contains(&b);
    let plain = match c {
        'x' => return hexadecimal(text, rest),
        'a' => 0x07,
        'f' => 0x0c,
        'n' => 0x0a,
        'r' => 0x0d,
        't' => 0x09,
        'v' => 0x0b,
        // A digit alone would be a reference to a group, and there are none in RE2.
        '0'..='7' if c == '0' || rest.bytes().next().is_some_and(octal) => {
            let more = rest.bytes().take(2).take_while(|b| octal(*b)).count();
            let digits = &text[1..2 + more];
            return Ok((u32::from_str_radix(digits, 8).unwrap_or(0), &rest[more..]));
        }
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => u32::from(c),
        _ => return Err(fault(Fault::Escape, until(text, rest))),
    };
    Ok((plain, rest))
}

/// Reads what follows `\x`: two digits, or any number of them in braces.
fn hexadecimal<'p>(text: &'p str, digits: &'p str) -> Result<(u32, &'p str), Error> {
    let mut code = 0;
    let mut chars = digits.chars();
    let bad = |rest: &str| Err(fault(Fault::Escape, until(text, rest)));
    if digits.starts_with('{') {
        chars.next();
        let mut some = false;
        loop {
            match chars.next() {
                Some('}') if some => return Ok((code, chars.as_str())),
                Some(c) if let Some(digit) = c.to_digit(16) => code = code * 16 + digit,
                _ => return bad(chars.as_str()),
            }
            some = true;
            if code > u32::from(char::MAX) {
                return bad(chars.as_str());
            }
        }
    }
    if digits.is_empty() {
        return bad(digits);
    }
    let (high, low) = (chars.next(), chars.next());
    let digit = |c: Option<char>| c.and_then(|c| c.to_digit(16));
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => Ok((high * 16 + low, chars.as_str())),
        _ => bad(chars.as_str()),
    }
}

fn ascii(ranges: &[(u8, u8)], fold: bool, negated: bool) -> ClassUnicode {
    let ranges: Ranges =
        ranges.iter().map(|(low, high)| (u32::from(*low), u32::from(*high))).collect();
    let mut class = set(&ranges);
    if fold {
        add_cases(&mut class);
    }
    if negated {
        class.negate();
    }
    class
}

/// Adds the other cases of all its characters to a class.
pub(super) fn add_cases(class: &mut ClassUnicode) {
    // Folding visits every character of the class, a million in `[^a]`; few of them have cases.
    if is_wide(class)
        && let Some(mut cased) = unicode_property("Changes_When_Casemapped")
    {
        cased.intersect(class);
        cased.case_fold_simple();
        class.union(&cased);
    } else {
        class.case_fold_simple();
    }
}

/// Whether a class has so many characters that adding their cases is much work.
pub(super) fn is_wide(class: &ClassUnicode) -> bool {
    class.ranges().iter().map(ClassUnicodeRange::len).sum::<usize>() > 512
}

fn add(ranges: &mut Ranges, class: &ClassUnicode) {
    ranges.extend(class.ranges().iter().map(|r| (u32::from(r.start()), u32::from(r.end()))));
}

/// The set of some ranges, without the surrogates.
fn set(ranges: &[(u32, u32)]) -> ClassUnicode {
    ClassUnicode::new(ranges.iter().filter_map(|(low, high)| {
        let low = char::from_u32(*low).unwrap_or('\u{e000}');
        let high = char::from_u32(*high).unwrap_or('\u{d7ff}');
        (low <= high).then(|| ClassUnicodeRange::new(low, high))
    }))
}

/// The part of `text` before `rest`, which is its end.
fn until<'p>(text: &'p str, rest: &str) -> &'p str {
    &text[..text.len() - rest.len()]
}
