//! RE2 patterns, as Go writes them, turned into the tree of the `regex` crate's engine.
//!
//! Prometheus and Thanos users write matchers in Go's RE2 syntax, and a pattern that means
//! something else here than there is a wrong answer nobody sees. Rust's `regex` is a sibling of
//! RE2, not its twin. So the text is read by the rules of Go's `regexp/syntax` (flags `Perl` and
//! `DotNL`, as Prometheus sets them) and becomes a [`Hir`], the tree both crates mean; `regex`
//! never sees the text itself.
//!
//! | in a pattern | Go, and here | `regex` on its own |
//! |---|---|---|
//! | `\d \w \s \b` | ASCII | Unicode |
//! | `\Q..\E`, `\101` | literal text, octal | refused |
//! | `{`, `x{`, `a{,2}` | literal text | refused |
//! | `[[a]`, `[a&&b]`, `[a~~b]` | plain members | sets and operators |
//! | `x**`, `a{1001}`, `(a{99}){99}` | refused | accepted |
//! | `(?x)`, `\p{Alphabetic}`, `\p{Grek}` | refused | accepted |
//! | `.` | any character, newline too | not newline |
//!
//! ## Promises
//! - What Go accepts is accepted with the same meaning, what Go refuses is refused with Go's text,
//!   but for the limits below, and for letters newer than the Unicode tables of either side.
//! - A tree only answers *does the whole value match*. So groups, their names and greed, which
//!   cannot change that answer, are read, checked and dropped.
//! - Time and memory are bounded by the length of the text; no recursion while reading.
//!
//! ## Limits
//! [`PATTERN_BYTES_MAX`]; nesting of [`DEPTH_MAX`] (Go: 1000), since `regex` compiles by
//! recursion; [`NODES_MAX`] nodes and character ranges.
//!
//! ## Why
//! Rewriting the text (`\d` to `[0-9]` and so on) was the other road. It must know at each place
//! what the text means, which is parsing it; and then the tree is already there.

mod class;
#[cfg(test)]
pub(crate) mod tests;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, Look, Repetition};
use thiserror::Error;

/// Longest pattern that is read, in bytes. A dashboard that spells out all its instances sends
/// tens of kilobytes of alternatives.
pub const PATTERN_BYTES_MAX: usize = 64 * 1024;

/// How deep repetitions, alternatives and sequences may nest in each other.
pub const DEPTH_MAX: u32 = 250;

/// How many nodes and character ranges one pattern may make, about 100 bytes each.
pub const NODES_MAX: u32 = 50_000;

/// What adding the other cases to a wide class counts for: it takes as long as so many nodes.
const WIDE_FOLD_NODES: u32 = 64;

/// Greatest repeat count, and greatest product of nested ones, as in RE2.
const REPEAT_MAX: u32 = 1000;

/// Why a text is not a pattern: Go's error, word for word.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("error parsing regexp: {fault}: `{fragment}`")]
pub struct Error {
    /// What is wrong.
    pub fault: Fault,
    /// Where: the part of the pattern that is wrong, or all of it if the fault has no place.
    pub fragment: String,
}

/// What can be wrong with a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// An escape that means nothing, like `\y`, or something that is not offered, like `\C`.
    #[error("invalid escape sequence")]
    Escape,
    /// A range like `z-a`, or a class of an unknown name.
    #[error("invalid character class range")]
    ClassRange,
    /// A group with a bad name or without the end of one.
    #[error("invalid named capture")]
    GroupName,
    /// A `(?..` that is not in RE2, like look-ahead.
    #[error("invalid or unsupported Perl syntax")]
    PerlSyntax,
    /// A repetition of a repetition, like `x**`.
    #[error("invalid nested repetition operator")]
    NestedRepeat,
    /// A repeat count over 1000, alone or multiplied with those inside, or the lesser one last.
    #[error("invalid repeat count")]
    RepeatCount,
    /// A repetition of nothing.
    #[error("missing argument to repetition operator")]
    RepeatsNothing,
    /// A class without end.
    #[error("missing closing ]")]
    OpenClass,
    /// A group without end.
    #[error("missing closing )")]
    OpenGroup,
    /// An end without a group.
    #[error("unexpected )")]
    NoGroup,
    /// A backslash at the end.
    #[error("trailing backslash at end of expression")]
    TrailingBackslash,
    /// Deeper than [`DEPTH_MAX`].
    #[error("expression nests too deeply")]
    TooDeep,
    /// More than [`NODES_MAX`] nodes, or [`PATTERN_BYTES_MAX`] bytes.
    #[error("expression too large")]
    TooLarge,
}

/// Reads a pattern. The tree is not anchored.
pub fn parse(pattern: &str) -> Result<Hir, Error> {
    if pattern.len() > PATTERN_BYTES_MAX {
        let head: String = pattern.chars().take(64).collect();
        return Err(Error { fault: Fault::TooLarge, fragment: format!("{head}...") });
    }
    let mut parser = Parser {
        pattern,
        rest: pattern,
        flags: Flags { fold: false, multi_line: false, dot_newline: true },
        frames: Vec::new(),
        top: Frame::default(),
        nodes: 0,
        posix_end: pattern.rfind(":]").map_or(0, |at| pattern.len() - at),
    };
    parser.run()
}

/// Whether the class holds every character.
pub(crate) fn is_any(class: &ClassUnicode) -> bool {
    matches!(class.ranges(), [all] if all.start() == '\0' && all.end() == char::MAX)
}

/// The flags a pattern may set within itself: `i`, `m` and `s`. `U` only turns greed around.
#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    fold: bool,
    multi_line: bool,
    dot_newline: bool,
}

/// A piece of the tree with what its limits need.
struct Node {
    hir: Hir,
    /// Height of the piece.
    depth: u32,
    /// Greatest product of the repeat counts on one way down.
    repeats: u32,
}

impl Node {
    fn leaf(hir: Hir) -> Self {
        Self { hir, depth: 1, repeats: 1 }
    }
}

/// One open group: the sequence being read and the alternatives already read.
#[derive(Default)]
struct Frame {
    /// Flags to go back to when the group ends.
    outer: Flags,
    branches: Vec<Node>,
    items: Vec<Node>,
    /// Literal text at the end of `items`, not yet a node.
    literal: String,
}

struct Parser<'p> {
    pattern: &'p str,
    rest: &'p str,
    flags: Flags,
    /// The groups around the innermost one.
    frames: Vec<Frame>,
    /// The innermost group, or the pattern itself.
    top: Frame,
    nodes: u32,
    /// How many bytes before the end of the pattern the last `:]` starts; 0 if there is none.
    posix_end: usize,
}

impl<'p> Parser<'p> {
    fn run(&mut self) -> Result<Hir, Error> {
        // Text of the pattern from the repetition that ended just here, if one did.
        let mut repeated: Option<&'p str> = None;
        while let Some(c) = self.rest.chars().next() {
            let here = self.rest;
            match c {
                '*' | '+' | '?' => {
                    self.rest = &here[1..];
                    let (min, max) = match c {
                        '*' => (0, None),
                        '+' => (1, None),
                        _ => (0, Some(1)),
                    };
                    self.repeat(here, repeated, min, max, false)?;
                    repeated = Some(here);
                    continue;
                }
                '{' if let Some((count, len)) = Count::read(here) => {
                    self.rest = &here[len..];
                    let Count { min, max } = count;
                    let most = max.unwrap_or(min).max(min);
                    if most > REPEAT_MAX || max.is_some_and(|max| max < min) {
                        return Err(fault(Fault::RepeatCount, &here[..len]));
                    }
                    self.repeat(here, repeated, min, max, true)?;
                    repeated = Some(here);
                    continue;
                }
                _ => self.one(c)?,
            }
            repeated = None;
        }
        if !self.frames.is_empty() {
            return Err(fault(Fault::OpenGroup, self.pattern));
        }
        Ok(self.close()?.hir)
    }

    /// Reads one piece that is not a repetition. `c` is its first character.
    fn one(&mut self, c: char) -> Result<(), Error> {
        let here = self.rest;
        match c {
            '(' if here.starts_with("(?") => return self.perl_group(),
            '[' => {
                let (class, rest) = class::bracket(here, self.flags.fold, self.posix_end)?;
                self.rest = rest;
                return self.push_class(class);
            }
            '\\' => return self.escape(),
            _ => self.rest = &here[c.len_utf8()..],
        }
        match c {
            '(' => self.open(self.flags),
            '|' => {
                let branch = self.sequence()?;
                self.top.branches.push(branch);
                Ok(())
            }
            ')' => self.end_group(),
            '^' if self.flags.multi_line => self.push(Hir::look(Look::StartLF)),
            '^' => self.push(Hir::look(Look::Start)),
            '$' if self.flags.multi_line => self.push(Hir::look(Look::EndLF)),
            '$' => self.push(Hir::look(Look::End)),
            '.' => {
                let mut none = Vec::new();
                if !self.flags.dot_newline {
                    none.push(ClassUnicodeRange::new('\n', '\n'));
                }
                let mut class = ClassUnicode::new(none);
                class.negate();
                self.push_class(class)
            }
            _ => self.literal(c),
        }
    }

    /// Reads `\..`: an assertion, quoted text, a class or a single character.
    fn escape(&mut self) -> Result<(), Error> {
        let here = self.rest;
        let second = here.get(1..).and_then(|s| s.chars().next());
        if matches!(second, Some('A' | 'b' | 'B' | 'z' | 'Q')) {
            self.rest = &here[2..];
        }
        match second {
            Some('A') => return self.push(Hir::look(Look::Start)),
            Some('z') => return self.push(Hir::look(Look::End)),
            Some('b') => return self.push(Hir::look(Look::WordAscii)),
            Some('B') => return self.push(Hir::look(Look::WordAsciiNegate)),
            Some('C') => return Err(fault(Fault::Escape, &here[..2])),
            Some('Q') => {
                let (quoted, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
                self.rest = rest;
                return quoted.chars().try_for_each(|c| self.literal(c));
            }
            _ => {}
        }
        if let Some((class, rest)) = class::escaped_class(here, self.flags.fold)? {
            self.rest = rest;
            return self.push_class(class);
        }
        let (code, rest) = class::escaped_char(here)?;
        self.rest = rest;
        match char::from_u32(code) {
            Some(c) => self.literal(c),
            // A surrogate is a character in Go, but one that no UTF-8 text holds.
            None => self.push(Hir::fail()),
        }
    }

    /// Reads `(?..`: flags for the rest of the group, or the start of a group.
    fn perl_group(&mut self) -> Result<(), Error> {
        let here = self.rest;
        let named = if here.len() > 4 && here.starts_with("(?P<") {
            Some(4)
        } else if here.len() > 3 && here.starts_with("(?<") {
            Some(3)
        } else {
            None
        };
        if let Some(start) = named {
            let end = here.find('>').ok_or_else(|| fault(Fault::GroupName, here))?;
            let name = here.get(start..end).unwrap_or_default();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(fault(Fault::GroupName, &here[..=end]));
            }
            self.rest = &here[end + 1..];
            return self.open(self.flags);
        }
        let mut flags = self.flags;
        let (mut on, mut said) = (true, false);
        for (at, c) in here.char_indices().skip(2) {
            let known = match c {
                'i' => set(&mut flags.fold, on),
                'm' => set(&mut flags.multi_line, on),
                's' => set(&mut flags.dot_newline, on),
                'U' => true,
                '-' if on => {
                    (on, said) = (false, false);
                    continue;
                }
                ':' | ')' if on || said => {
                    self.rest = &here[at + 1..];
                    if c == ':' {
                        self.open(self.flags)?;
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => false,
            };
            if !known {
                return Err(fault(Fault::PerlSyntax, &here[..at + c.len_utf8()]));
            }
            said = true;
        }
        Err(fault(Fault::PerlSyntax, here))
    }

    /// Repeats the last piece. `here` starts with the operator, whose own text is read already;
    /// `repeated` with the one right before it. A `?` after it belongs to it.
    fn repeat(
        &mut self,
        here: &'p str,
        repeated: Option<&'p str>,
        min: u32,
        max: Option<u32>,
        counted: bool,
    ) -> Result<(), Error> {
        self.rest = self.rest.strip_prefix('?').unwrap_or(self.rest);
        let until_rest = |from: &'p str| &from[..from.len() - self.rest.len()];
        if let Some(from) = repeated {
            return Err(fault(Fault::NestedRepeat, until_rest(from)));
        }
        let operator = until_rest(here);
        if let Some(last) = self.top.literal.pop() {
            self.push(Hir::literal(last.to_string().into_bytes()))?;
        }
        let Some(sub) = self.top.items.pop() else {
            return Err(fault(Fault::RepeatsNothing, operator));
        };
        let times = if counted { max.unwrap_or(min) } else { 1 };
        let repeats = if counted && max == Some(0) { 1 } else { times.max(1) * sub.repeats };
        if counted && times >= 2 && repeats > REPEAT_MAX {
            return Err(fault(Fault::RepeatCount, operator));
        }
        let depth = self.deeper(sub.depth)?;
        let hir = Hir::repetition(Repetition { min, max, greedy: true, sub: Box::new(sub.hir) });
        self.top.items.push(Node { hir, depth, repeats });
        Ok(())
    }

    fn open(&mut self, outer: Flags) -> Result<(), Error> {
        self.count(1)?;
        let inner = Frame { outer, ..Frame::default() };
        self.frames.push(std::mem::replace(&mut self.top, inner));
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), Error> {
        let Some(parent) = self.frames.pop() else {
            return Err(fault(Fault::NoGroup, self.pattern));
        };
        let group = self.close()?;
        self.flags = self.top.outer;
        self.top = parent;
        self.end_literal()?;
        self.top.items.push(group);
        Ok(())
    }

    /// The innermost group as one node.
    fn close(&mut self) -> Result<Node, Error> {
        let last = self.sequence()?;
        let mut branches = std::mem::take(&mut self.top.branches);
        branches.push(last);
        self.join(branches, Hir::alternation)
    }

    /// The sequence read so far as one node.
    fn sequence(&mut self) -> Result<Node, Error> {
        self.end_literal()?;
        let items = std::mem::take(&mut self.top.items);
        if items.is_empty() {
            self.count(1)?;
            return Ok(Node::leaf(Hir::empty()));
        }
        self.join(items, Hir::concat)
    }

    fn join(&self, mut nodes: Vec<Node>, how: fn(Vec<Hir>) -> Hir) -> Result<Node, Error> {
        if nodes.len() == 1
            && let Some(only) = nodes.pop()
        {
            return Ok(only);
        }
        let depth = self.deeper(nodes.iter().map(|n| n.depth).max().unwrap_or(0))?;
        let repeats = nodes.iter().map(|n| n.repeats).max().unwrap_or(1);
        let hir = how(nodes.into_iter().map(|n| n.hir).collect());
        Ok(Node { hir, depth, repeats })
    }

    fn literal(&mut self, c: char) -> Result<(), Error> {
        if !self.flags.fold {
            self.top.literal.push(c);
            return Ok(());
        }
        let mut class = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
        class::add_cases(&mut class);
        self.push_class(class)
    }

    fn end_literal(&mut self) -> Result<(), Error> {
        if !self.top.literal.is_empty() {
            let text = std::mem::take(&mut self.top.literal);
            self.count(1)?;
            self.top.items.push(Node::leaf(Hir::literal(text.into_bytes())));
        }
        Ok(())
    }

    fn push_class(&mut self, class: ClassUnicode) -> Result<(), Error> {
        self.count(class.ranges().len() as u32)?;
        if self.flags.fold && class::is_wide(&class) {
            self.count(WIDE_FOLD_NODES)?;
        }
        self.push(Hir::class(Class::Unicode(class)))
    }

    fn push(&mut self, hir: Hir) -> Result<(), Error> {
        self.end_literal()?;
        self.count(1)?;
        self.top.items.push(Node::leaf(hir));
        Ok(())
    }

    fn count(&mut self, more: u32) -> Result<(), Error> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > NODES_MAX {
            return Err(fault(Fault::TooLarge, self.pattern));
        }
        Ok(())
    }

    fn deeper(&self, depth: u32) -> Result<u32, Error> {
        if depth >= DEPTH_MAX {
            return Err(fault(Fault::TooDeep, self.pattern));
        }
        Ok(depth + 1)
    }
}

/// The counts of `{2}`, `{2,}` or `{2,5}`.
struct Count {
    min: u32,
    max: Option<u32>,
}

impl Count {
    /// Reads counts at the start of `text` and tells their length in bytes. What does not look
    /// like counts is literal text. A number too great for RE2 comes back as too great.
    fn read(text: &str) -> Option<(Self, usize)> {
        let body = text.get(1..)?;
        let end = body.find(|c: char| !c.is_ascii_digit() && c != ',')?;
        let inner = body[end..].starts_with('}').then_some(&body[..end])?;
        let counts = match inner.split_once(',') {
            None => {
                let n = number(inner)?;
                Self { min: n, max: Some(n) }
            }
            Some((min, "")) => Self { min: number(min)?, max: None },
            Some((min, max)) => Self { min: number(min)?, max: Some(number(max)?) },
        };
        Some((counts, end + 2))
    }
}

/// A decimal number without leading zeros. What does not fit is the greatest number.
fn number(digits: &str) -> Option<u32> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    Some(digits.parse().unwrap_or(u32::MAX))
}

fn set(flag: &mut bool, on: bool) -> bool {
    *flag = on;
    true
}

fn fault(fault: Fault, fragment: &str) -> Error {
    Error { fault, fragment: fragment.to_string() }
}
