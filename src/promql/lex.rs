//! Text into tokens.
//!
//! What a character means depends on where it stands, as in Prometheus:
//!
//! | where | what differs |
//! |---|---|
//! | outside | words have their meaning, `a:b` is one name |
//! | `{ .. }` | every word is a name; only matching operators |
//! | `[ ..`, up to the first number | arithmetic of durations |
//! | after that, up to `]` | as outside, but no names |
//!
//! The lexer counts parentheses and refuses what ends open. Comments are skipped. It never looks
//! back, and the tokens borrow from the text.
//!
//! Positions of errors are those of Prometheus, with its habits: an error begins where the token
//! begins, or after it if it was complete, and reaches to the end of the text.

use crate::promql::error::{Error, Fault};
use crate::promql::token::{Kind, Token};

/// What the end of the text, and a byte sequence that is not UTF-8, look like in messages.
const NO_CHAR: char = '\u{fffd}';

/// Reads tokens one by one.
#[derive(Debug, Clone)]
pub struct Lexer<'t> {
    text: &'t str,
    /// First byte of the current token.
    start: usize,
    /// First byte not read.
    at: usize,
    parens: usize,
    mode: Mode,
    in_brackets: bool,
    /// Whether a `:` came since the last `[`.
    colon: bool,
    /// Whether a number came in any brackets: Prometheus never forgets one.
    duration: bool,
}

/// How the next token is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Outside,
    Braces,
    /// Between `[` and the first number.
    Duration,
    /// The end, or an error, was told.
    Over,
}

impl<'t> Lexer<'t> {
    /// A lexer at the start of a text.
    pub fn new(text: &'t str) -> Self {
        Self {
            text,
            start: 0,
            at: 0,
            parens: 0,
            mode: Mode::Outside,
            in_brackets: false,
            colon: false,
            duration: false,
        }
    }

    /// The next token. After the end, and after an error, always [`Kind::Eof`].
    pub fn token(&mut self) -> Result<Token<'t>, Error> {
        self.skip_blanks();
        self.start = self.at;
        let read = match self.mode {
            Mode::Outside => self.outside(),
            Mode::Braces => self.braces(),
            Mode::Duration => self.duration(),
            Mode::Over => Ok(Kind::Eof),
        };
        if !matches!(read, Ok(kind) if kind != Kind::Eof) {
            self.mode = Mode::Over;
        }
        match read {
            Ok(kind) => Ok(Token { kind, start: self.start, text: self.word() }),
            Err(fault) => Err(Error::new(self.text, self.start..self.text.len(), fault)),
        }
    }

    fn outside(&mut self) -> Result<Kind, Fault> {
        let Some(c) = self.next() else {
            return match (self.parens, self.in_brackets) {
                (0, false) => Ok(Kind::Eof),
                (0, true) => Err(Fault::OpenBracket),
                _ => Err(Fault::OpenParen),
            };
        };
        Ok(match c {
            ',' => Kind::Comma,
            '*' => Kind::Mul,
            '/' => Kind::Div,
            '%' => Kind::Mod,
            '+' => Kind::Add,
            '-' => Kind::Sub,
            '^' => Kind::Pow,
            '@' => Kind::At,
            '=' if self.accept("=") => Kind::Equal,
            '=' if self.peek() == Some('~') => {
                return Err(Fault::After { after: '=', got: '~' });
            }
            '=' => Kind::Assign,
            '!' if self.accept("=") => Kind::NotEqual,
            '!' => {
                return Err(Fault::After { after: '!', got: self.peek().unwrap_or(NO_CHAR) });
            }
            '<' if self.accept("=") => Kind::LessEqual,
            '<' if self.accept("/") => Kind::TrimUpper,
            '<' => Kind::Less,
            '>' if self.accept("=") => Kind::GreaterEqual,
            '>' if self.accept("/") => Kind::TrimLower,
            '>' => Kind::Greater,
            '"' | '\'' => self.string(c)?,
            '`' => self.raw_string()?,
            '(' => self.open_paren(),
            ')' => self.close_paren()?,
            '{' => {
                self.mode = Mode::Braces;
                Kind::LeftBrace
            }
            '[' if self.in_brackets => return Err(Fault::LeftBracket),
            '[' => {
                self.colon = false;
                self.in_brackets = true;
                self.mode = Mode::Duration;
                Kind::LeftBracket
            }
            ']' if !self.in_brackets => return Err(Fault::RightBracket),
            ']' => {
                self.in_brackets = false;
                Kind::RightBracket
            }
            _ if self.begins_number(c) => self.number_or_duration(c)?,
            ':' if self.in_brackets => {
                if self.colon {
                    return Err(Fault::Colon);
                }
                self.colon = true;
                Kind::Colon
            }
            _ if self.in_brackets && is_alpha(c) => {
                self.duration_word(c).ok_or(Fault::NotColon(c))?
            }
            _ if is_alpha(c) || c == ':' => self.word_or_name(),
            _ => return Err(Fault::Character(c)),
        })
    }

    fn braces(&mut self) -> Result<Kind, Fault> {
        let Some(c) = self.next() else { return Err(Fault::OpenBrace) };
        Ok(match c {
            ',' => Kind::Comma,
            '"' | '\'' => self.string(c)?,
            '`' => self.raw_string()?,
            '=' if self.accept("~") => Kind::MatchRegex,
            '=' => Kind::Assign,
            '!' if self.accept("~") => Kind::MatchNotRegex,
            '!' if self.accept("=") => Kind::NotEqual,
            '!' => return Err(Fault::AfterBangInBraces(self.peek().unwrap_or(NO_CHAR))),
            '{' => return Err(Fault::LeftBrace),
            '}' => {
                self.mode = Mode::Outside;
                Kind::RightBrace
            }
            _ if is_alpha(c) => {
                self.accept_run(is_alphanumeric);
                Kind::Identifier
            }
            _ => return Err(Fault::InBraces(c)),
        })
    }

    fn duration(&mut self) -> Result<Kind, Fault> {
        let Some(c) = self.next() else { return Err(Fault::OpenDuration) };
        Ok(match c {
            ']' => {
                self.in_brackets = false;
                self.mode = Mode::Outside;
                Kind::RightBracket
            }
            ':' if !self.duration => return Err(self.behind(Fault::ColonFirst)),
            ':' if self.colon => return Err(self.behind(Fault::ColonTwice)),
            ':' => {
                self.colon = true;
                Kind::Colon
            }
            '(' => self.open_paren(),
            ')' => self.close_paren()?,
            '+' => Kind::Add,
            '-' => Kind::Sub,
            '*' => Kind::Mul,
            '/' => Kind::Div,
            '%' => Kind::Mod,
            '^' => Kind::Pow,
            ',' => Kind::Comma,
            _ if self.begins_number(c) => {
                self.duration = true;
                self.mode = Mode::Outside;
                self.number_or_duration(c)?
            }
            _ if is_alpha(c) => self.duration_word(c).ok_or(Fault::InDuration(c))?,
            _ => return Err(Fault::InDuration(c)),
        })
    }

    fn open_paren(&mut self) -> Kind {
        self.parens += 1;
        Kind::LeftParen
    }

    fn close_paren(&mut self) -> Result<Kind, Fault> {
        match self.parens.checked_sub(1) {
            Some(parens) => {
                self.parens = parens;
                Ok(Kind::RightParen)
            }
            None => Err(self.behind(Fault::RightParen)),
        }
    }

    /// A fault of a token that is complete: it begins behind the token.
    fn behind(&mut self, fault: Fault) -> Fault {
        self.start = self.at;
        fault
    }

    /// A word that has meaning in a duration. Which letters may begin one is part of the message.
    fn duration_word(&mut self, first: char) -> Option<Kind> {
        if !"smr".contains(first.to_ascii_lowercase()) {
            return None;
        }
        self.accept_run(is_alpha);
        let kind = Kind::of_word(self.word())?;
        matches!(kind, Kind::Step | Kind::Range | Kind::MinOf | Kind::MaxOf).then_some(kind)
    }

    fn word_or_name(&mut self) -> Kind {
        self.accept_run(|c| is_alphanumeric(c) || c == ':');
        let word = self.word();
        match Kind::of_word(word) {
            // These are names unless they can only be the keyword, for the sake of metrics that
            // had such a name before they became keywords.
            Some(Kind::Fill | Kind::FillLeft | Kind::FillRight)
                if !self.rest().trim_start_matches(is_space).starts_with('(') =>
            {
                Kind::Identifier
            }
            Some(kind) => kind,
            None if word.contains(':') => Kind::MetricIdentifier,
            None => Kind::Identifier,
        }
    }

    /// Whether `c`, just read, begins a number.
    fn begins_number(&self, c: char) -> bool {
        c.is_ascii_digit() || (c == '.' && self.peek().is_some_and(|d| d.is_ascii_digit()))
    }

    fn number_or_duration(&mut self, first: char) -> Result<Kind, Fault> {
        self.at -= first.len_utf8();
        if self.number() {
            return Ok(Kind::Number);
        }
        if self.units() {
            return Ok(Kind::Duration);
        }
        Err(Fault::Number(self.word().to_string()))
    }

    /// Reads what may be a number, whose value is not looked at: `12`, `.5`, `1e-3`, `0xff`,
    /// `1_000`. If it is none, the text up to the first wrong character has been read.
    fn number(&mut self) -> bool {
        let hexadecimal = self.accept("0") && self.accept("xX");
        let digits = if hexadecimal { "0123456789abcdefABCDEF" } else { "0123456789" };
        if hexadecimal {
            self.accept("_");
        }
        self.accept(".");
        self.accept(digits);
        let (mut dot, mut exponent) = (false, false);
        while let Some(c) = self.peek() {
            if c == '.' {
                let again = std::mem::replace(&mut dot, true);
                self.accept(".");
                if again || self.accept("_.") || hexadecimal {
                    return false;
                }
            } else if digits.contains(c) && !"eE".contains(c) {
                self.accept_run(|c| digits.contains(c));
            } else if "eE".contains(c) {
                // In a hexadecimal number this is a digit, but it is read as an exponent unless
                // another digit stands before it.
                let again = std::mem::replace(&mut exponent, true);
                self.accept("eE");
                if again {
                    return false;
                }
                self.accept("+-");
                if self.accept("._eE") || self.peek().is_none() {
                    return false;
                }
            } else if c == '_' {
                self.accept("_");
                if self.accept("._eE") || self.peek().is_none() {
                    return false;
                }
            } else {
                break;
            }
        }
        !self.peek().is_some_and(is_alphanumeric)
    }

    /// Reads the rest of a duration after its first number: `m30s` of `5m30s`.
    fn units(&mut self) -> bool {
        if !self.accept("smhdwy") {
            return false;
        }
        // For `ms`. Units like `hs` are found wrong by who wants the value.
        self.accept("s");
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.accept_run(|c| c.is_ascii_digit());
            if !self.accept("smhdw") {
                return false;
            }
            self.accept("s");
        }
        if self.peek().is_some_and(is_alphanumeric) {
            self.next();
            return false;
        }
        true
    }

    /// Reads a string after its quote. Escapes are checked, not replaced.
    fn string(&mut self, quote: char) -> Result<Kind, Fault> {
        loop {
            match self.next() {
                Some('\\') => self.escape(quote)?,
                Some(NO_CHAR) => return Err(Fault::BrokenUtf8),
                None | Some('\n') => return Err(Fault::OpenString),
                Some(c) if c == quote => return Ok(Kind::String),
                Some(_) => {}
            }
        }
    }

    fn raw_string(&mut self) -> Result<Kind, Fault> {
        loop {
            match self.next() {
                Some('`') => return Ok(Kind::String),
                Some(NO_CHAR) => return Err(Fault::BrokenUtf8),
                None => return Err(Fault::OpenRawString),
                Some(_) => {}
            }
        }
    }

    fn escape(&mut self, quote: char) -> Result<(), Fault> {
        let Some(c) = self.next() else { return Err(Fault::OpenEscape) };
        let (base, count, max) = match c {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' => return Ok(()),
            _ if c == quote => return Ok(()),
            '0'..='7' => {
                self.at -= 1;
                (8, 3, 255)
            }
            'x' => (16, 2, 255),
            'u' => (16, 4, u32::from(char::MAX)),
            'U' => (16, 8, u32::from(char::MAX)),
            _ => return Err(Fault::UnknownEscape(c)),
        };
        let mut code: u32 = 0;
        for _ in 0..count {
            let Some(c) = self.next() else { return Err(Fault::OpenEscape) };
            let digit = c.to_digit(base).ok_or(Fault::InEscape(c))?;
            code = code * base + digit;
        }
        let surrogate = (0xd800..0xe000).contains(&code);
        if code > max || surrogate { Err(Fault::NoCodePoint) } else { Ok(()) }
    }

    fn skip_blanks(&mut self) {
        loop {
            self.accept_run(is_space);
            // Between `[` and the first number a `#` is nothing.
            if self.mode == Mode::Duration || !self.accept("#") {
                return;
            }
            self.accept_run(|c| c != '\n' && c != '\r');
        }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The token as read so far.
    fn word(&self) -> &'t str {
        self.text.get(self.start..self.at).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Reads the next character if it is one of these.
    fn accept(&mut self, any: &str) -> bool {
        let yes = self.peek().is_some_and(|c| any.contains(c));
        if yes {
            self.next();
        }
        yes
    }

    fn accept_run(&mut self, belongs: impl Fn(char) -> bool) {
        self.at = self.text.len() - self.rest().trim_start_matches(belongs).len();
    }
}

/// Whether `c` separates tokens.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_alphanumeric(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}
