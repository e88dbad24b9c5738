//! The lexer and the selector parser against the parser tables of Prometheus, and on garbage.

use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::model::METRIC_NAME;

/// Every expression of the tables that is nothing but a selector, and what Prometheus 3.14 makes
/// of it: the matchers, or the whole error message with its position.
const SELECTORS: &[(&str, &str)] = &[
    (r#"anchored{job="test"}"#, r#"job="test", __name__="anchored""#),
    (r#"smoothed{job="test"}"#, r#"job="test", __name__="smoothed""#),
    ("foo", r#"__name__="foo""#),
    ("min", r#"__name__="min""#),
    (r#"foo:bar{a="bc"}"#, r#"a="bc", __name__="foo:bar""#),
    (r#"{"foo"}"#, r#"__name__="foo""#),
    (
        r"{'foo\'bar', 'a\\dos\\path'='boo\\urns'}",
        r#"__name__="foo'bar", "a\\dos\\path"="boo\\urns""#,
    ),
    (r#"{'foo\'bar', `a\dos\path`="boo"}"#, r#"__name__="foo'bar", "a\\dos\\path"="boo""#),
    (r#"{"foo", a="bc"}"#, r#"__name__="foo", a="bc""#),
    ("foo{NaN='bc'}", r#"NaN="bc", __name__="foo""#),
    ("foo{bar='}'}", r#"bar="}", __name__="foo""#),
    (
        r#"foo{a="b", foo!="bar", test=~"test", bar!~"baz"}"#,
        r#"a="b", foo!="bar", test=~"test", bar!~"baz", __name__="foo""#,
    ),
    (
        r#"{a="b", foo!="bar", "foo", test=~"test", bar!~"baz"}"#,
        r#"a="b", foo!="bar", __name__="foo", test=~"test", bar!~"baz""#,
    ),
    (
        r#"foo{a="b", foo!="bar", test=~"test", bar!~"baz",}"#,
        r#"a="b", foo!="bar", test=~"test", bar!~"baz", __name__="foo""#,
    ),
    (r#"{__name__=~"bar", __name__!~"baz"}"#, r#"__name__=~"bar", __name__!~"baz""#),
    (r#"{__name__="bar", __name__="baz"}"#, r#"__name__="bar", __name__="baz""#),
    (r#"{"bar", __name__="baz"}"#, r#"__name__="bar", __name__="baz""#),
    ("{", "1:2: parse error: unexpected end of input inside braces"),
    ("some{", "1:6: parse error: unexpected end of input inside braces"),
    (
        "some_metric{a=b}",
        r#"1:15: parse error: unexpected identifier "b" in label matching, expected string"#,
    ),
    (r#"some_metric{a:b="b"}"#, "1:14: parse error: unexpected character inside braces: ':'"),
    (r#"foo{a*"b"}"#, "1:6: parse error: unexpected character inside braces: '*'"),
    (r#"foo{a>="b"}"#, "1:6: parse error: unexpected character inside braces: '>'"),
    ("some_metric{a=\"\u{fffd}\"}", "1:15: parse error: invalid UTF-8 rune"),
    (
        "foo{gibberish}",
        concat!(
            r#"1:14: parse error: unexpected "}" in label matching, expected label "#,
            "matching operator",
        ),
    ),
    ("foo{1}", "1:5: parse error: unexpected character inside braces: '1'"),
    ("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
    (r#"{x=""}"#, "1:1: parse error: vector selector must contain at least one non-empty matcher"),
    (
        r#"{x=~".*"}"#,
        "1:1: parse error: vector selector must contain at least one non-empty matcher",
    ),
    (
        r#"{x!~".+"}"#,
        "1:1: parse error: vector selector must contain at least one non-empty matcher",
    ),
    (
        r#"{x!="a"}"#,
        "1:1: parse error: vector selector must contain at least one non-empty matcher",
    ),
    (
        r#"foo{__name__="bar"}"#,
        r#"1:1: parse error: metric name must not be set twice: "foo" or "bar""#,
    ),
    ("foo{__name__= =}", r#"1:15: parse error: unexpected "=" in label matching, expected string"#),
    ("foo{,}", r#"1:5: parse error: unexpected "," in label matching, expected identifier or "}""#),
    (
        r#"foo{__name__ == "bar"}"#,
        r#"1:15: parse error: unexpected "=" in label matching, expected string"#,
    ),
    (
        r#"foo{__name__="bar" lol}"#,
        concat!(
            r#"1:20: parse error: unexpected identifier "lol" in label matching, "#,
            r#"expected "," or "}""#,
        ),
    ),
    (r#"foo{"a"=}"#, r#"1:9: parse error: unexpected "}" in label matching, expected string"#),
    ("start", r#"__name__="start""#),
    ("end", r#"__name__="end""#),
    (r#"start{end="foo"}"#, r#"end="foo", __name__="start""#),
    (r#"end{start="foo"}"#, r#"start="foo", __name__="end""#),
    (r#"{__name__="a"}"#, r#"__name__="a""#),
    (r#"{__name__="",a="x"}"#, r#"__name__="", a="x""#),
    (r#"{"a.b"="c"}"#, r#""a.b"="c""#),
    (r#"{"0"="1"}"#, r#""0"="1""#),
    (r#"{"_0"="1"}"#, r#"_0="1""#),
    (r#"{""="0"}"#, r#"""="0""#),
    (r#"{``="0"}"#, r#"""="0""#),
];

/// How the messages of the lexer begin; all others are the parser's.
const LEXICAL: &[&str] = &[
    "bad number or duration syntax",
    "escape sequence",
    "illegal character",
    "invalid UTF-8 rune",
    "unclosed left",
    "unexpected character",
    "unexpected end of input in duration expression",
    "unexpected end of input inside braces",
    "unexpected right parenthesis",
    "unknown escape sequence",
    "unterminated",
];

/// One row of the tables.
struct Case {
    expr: String,
    /// The first message of Prometheus, if it refuses the expression.
    error: Option<String>,
}

/// The rows: an expression and, where Prometheus refuses it, why.
fn cases() -> Vec<Case> {
    let text = include_str!("../../tests/data/promql_cases.json");
    let rows: Vec<Vec<String>> = serde_json::from_str(text).expect("a list of cases");
    let case = |row: Vec<String>| {
        let mut row = row.into_iter();
        Case { expr: row.next().expect("an expression"), error: row.next() }
    };
    rows.into_iter().map(case).collect()
}

fn written(matchers: &[Matcher]) -> String {
    matchers.iter().map(Matcher::to_string).collect::<Vec<_>>().join(", ")
}

/// Reads a selector as an expression would hold it, and writes what came out.
fn read(text: &str) -> String {
    let checked = Selector::parse(text).and_then(|s| s.check(text).map(|()| s));
    checked.map_or_else(|error| error.to_string(), |s| written(&s.matchers))
}

/// Whether a text is a selector and nothing else, or tries to be one. Looks at letters, quotes and
/// braces only, so that it does not depend on what it is used to test.
fn is_selector_alone(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let text = text.trim();
    let rest = text.trim_start_matches(word);
    let name = &text[..text.len() - rest.len()];
    let number = name.starts_with(|c: char| c.is_ascii_digit())
        || ["nan", "inf"].contains(&name.to_lowercase().as_str());
    let rest = rest.trim_start();
    if number || rest.is_empty() {
        return !number && !name.is_empty();
    }
    let mut quote = None;
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            Some('"' | '\'') if c == '\\' => drop(chars.next()),
            Some(open) if c == open => quote = None,
            None if "\"'`".contains(c) => quote = Some(c),
            None if c == '}' => return rest.starts_with('{') && rest[at + 1..].trim().is_empty(),
            _ => {}
        }
    }
    rest.starts_with('{')
}

#[test]
fn selectors_of_the_tables() {
    for (text, want) in SELECTORS {
        assert_eq!(read(text), *want, "{text}");
    }
    let (alone, others): (Vec<Case>, Vec<Case>) =
        cases().into_iter().partition(|case| is_selector_alone(&case.expr));
    for Case { expr, error } in &alone {
        let (_, want) =
            SELECTORS.iter().find(|(text, _)| text == expr).unwrap_or_else(|| panic!("{expr}"));
        let message = want.split_once(": parse error: ").map(|(_, message)| message);
        assert_eq!(message, error.as_deref(), "{expr}: this table and the file");
    }
    // The others hold more than a selector and wait for the parser of expressions.
    assert_eq!((alone.len(), others.len()), (48, 454));
}

/// The lexer reads each case to its end or its first error. It must find an error just where
/// Prometheus' first message is one of its lexer's, and find the same. (Prometheus' parser might
/// refuse a case before its lexer comes to an error; there is no such case in the tables.)
#[test]
fn the_lexer_refuses_what_the_tables_refuse() {
    let (mut fine, mut refused) = (0, 0);
    for Case { expr, error } in cases() {
        let want = error.filter(|error| LEXICAL.iter().any(|known| error.starts_with(known)));
        let got = tokens(&expr).err().map(|error| error.fault.to_string());
        assert_eq!(got, want, "{expr}");
        if got.is_some() { refused += 1 } else { fine += 1 }
    }
    assert_eq!((fine, refused), (468, 34), "read to the end, and refused in the same words");
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, Error> {
    let mut lexer = Lexer::new(text);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.token()?;
        tokens.push(token);
        if token.kind == Kind::Eof {
            return Ok(tokens);
        }
    }
}

/// The tokens of a text as `start:Kind(text)`, or the error behind those before it.
fn lexed(text: &str) -> String {
    let mut lexer = Lexer::new(text);
    let mut out = String::new();
    loop {
        match lexer.token() {
            Ok(token) if token.kind == Kind::Eof => return out.trim_end().to_string(),
            Ok(token) => {
                write!(out, "{}:{:?}({}) ", token.start, token.kind, token.text).expect("a string");
            }
            Err(error) => {
                write!(out, "{}!{}", error.range.start, error.fault).expect("a string");
                return out;
            }
        }
    }
}

/// Texts and their tokens.
const TOKENS: &[(&str, &str)] = &[
    ("", ""),
    (" \t\r\n# all\n#of it", ""),
    ("a:b :c sum BY", "0:MetricIdentifier(a:b) 4:MetricIdentifier(:c) 7:Sum(sum) 11:By(BY)"),
    ("12 .5 5.", "0:Number(12) 3:Number(.5) 6:Number(5.)"),
    ("1e-3 0x1F 1_000", "0:Number(1e-3) 5:Number(0x1F) 10:Number(1_000)"),
    ("Inf nan", "0:Number(Inf) 4:Number(nan)"),
    ("5m 1h30m5s 2d1ms", "0:Duration(5m) 3:Duration(1h30m5s) 11:Duration(2d1ms)"),
    ("5y1hs", "0:Duration(5y1hs)"),
    ("0x_1 0x12ee", "0:Number(0x_1) 5:Number(0x12ee)"),
    ("0x1ee", r#"0!bad number or duration syntax: "0x1ee""#),
    ("1__0", r#"0!bad number or duration syntax: "1__""#),
    ("1e", r#"0!bad number or duration syntax: "1e""#),
    ("0x1.5", r#"0!bad number or duration syntax: "0x1.""#),
    ("5mm", r#"0!bad number or duration syntax: "5mm""#),
    ("+-*/%^@", "0:Add(+) 1:Sub(-) 2:Mul(*) 3:Div(/) 4:Mod(%) 5:Pow(^) 6:At(@)"),
    ("==!=<<=</", "0:Equal(==) 2:NotEqual(!=) 4:Less(<) 5:LessEqual(<=) 7:TrimUpper(</)"),
    (">>=>/=,", "0:Greater(>) 1:GreaterEqual(>=) 3:TrimLower(>/) 5:Assign(=) 6:Comma(,)"),
    ("a=~b", "0:Identifier(a) 1!unexpected character after '=': '~'"),
    ("a !", "0:Identifier(a) 2!unexpected character after '!': '\u{fffd}'"),
    (
        "{sum=~'x',",
        concat!(
            "0:LeftBrace({) 1:Identifier(sum) 4:MatchRegex(=~) 6:String('x') ",
            "9:Comma(,) 10!unexpected end of input inside braces",
        ),
    ),
    (
        "{NaN!~`y`}",
        "0:LeftBrace({) 1:Identifier(NaN) 4:MatchNotRegex(!~) 6:String(`y`) 9:RightBrace(})",
    ),
    (
        r#"{a!="z"}"#,
        r#"0:LeftBrace({) 1:Identifier(a) 2:NotEqual(!=) 4:String("z") 7:RightBrace(})"#,
    ),
    ("{a # c\n}", "0:LeftBrace({) 1:Identifier(a) 7:RightBrace(})"),
    ("{!b", "0:LeftBrace({) 1!unexpected character after '!' inside braces: 'b'"),
    ("{{", "0:LeftBrace({) 1!unexpected left brace '{'"),
    ("fill Fill (", "0:Identifier(fill) 5:Fill(Fill) 10:LeftParen(() 11!unclosed left parenthesis"),
    (
        "a[ 5m : 1m]",
        concat!(
            "0:Identifier(a) 1:LeftBracket([) 3:Duration(5m) 6:Colon(:) ",
            "8:Duration(1m) 10:RightBracket(])",
        ),
    ),
    (
        "a[-step()+1]",
        concat!(
            "0:Identifier(a) 1:LeftBracket([) 2:Sub(-) 3:Step(step) 7:LeftParen(() ",
            "8:RightParen()) 9:Add(+) 10:Number(1) 11:RightBracket(])",
        ),
    ),
    (
        "a[Min_Of(1,range",
        concat!(
            "0:Identifier(a) 1:LeftBracket([) 2:MinOf(Min_Of) 8:LeftParen(() ",
            "9:Number(1) 10:Comma(,) 11:Range(range) 16!unclosed left parenthesis",
        ),
    ),
    (
        "a[5m x]",
        concat!(
            "0:Identifier(a) 1:LeftBracket([) 2:Duration(5m) 5!unexpected character: ",
            "'x', expected ':'",
        ),
    ),
    (
        "a[5m:1:",
        concat!(
            "0:Identifier(a) 1:LeftBracket([) 2:Duration(5m) 4:Colon(:) 5:Number(1) ",
            "6!unexpected colon ':'",
        ),
    ),
    (
        "a[:",
        concat!(
            "0:Identifier(a) 1:LeftBracket([) 3!unexpected colon before duration in ",
            "duration expression",
        ),
    ),
    ("a[#", "0:Identifier(a) 1:LeftBracket([) 2!unexpected character in duration expression: '#'"),
    ("a[5m[", "0:Identifier(a) 1:LeftBracket([) 2:Duration(5m) 4!unexpected left bracket '['"),
    ("a[5m", "0:Identifier(a) 1:LeftBracket([) 2:Duration(5m) 4!unclosed left bracket"),
    ("a]", "0:Identifier(a) 1!unexpected right bracket ']'"),
    ("a)", "0:Identifier(a) 2!unexpected right parenthesis ')'"),
    (r#""\"\x41\u00e9\101'""#, r#"0:String("\"\x41\u00e9\101'")"#),
    (r#""\'""#, "0!unknown escape sequence U+0027 '''"),
    ("'\\\n'", "0!unknown escape sequence U+000A"),
    (r"'\400'", "0!escape sequence is an invalid Unicode code point"),
    (r"'\ud800'", "0!escape sequence is an invalid Unicode code point"),
    (r"'\U00110000'", "0!escape sequence is an invalid Unicode code point"),
    (r"'\xg0'", "0!illegal character U+0067 'g' in escape sequence"),
    (r"'\u00", "0!escape sequence not terminated"),
    ("'a\nb'", "0!unterminated quoted string"),
    ("`a\n\\", "0!unterminated raw string"),
    ("a é", "0:Identifier(a) 2!unexpected character: 'é'"),
    ("a\u{200b}", r"0:Identifier(a) 1!unexpected character: '\u200b'"),
];

#[test]
fn tokens_by_table() {
    for (text, want) in TOKENS {
        assert_eq!(lexed(text), *want, "{text}");
    }
}

/// What only the reader of `match[]` meets; each answer is that of Prometheus 3.14.
const MATCHES: &[(&str, &str)] = &[
    ("{}", ""),
    ("foo{__name__='bar'}", r#"__name__="bar", __name__="foo""#),
    ("or", r#"__name__="or""#),
    (" up # comment", r#"__name__="up""#),
    ("up{a='b',}\n", r#"a="b", __name__="up""#),
    ("{'a' , 'b'='c'}", r#"__name__="a", b="c""#),
    ("", "unknown position: parse error: unexpected end of input"),
    (" ", "1:2: parse error: unexpected end of input"),
    ("on{}", "1:1: parse error: unexpected <on>"),
    ("bool", "1:1: parse error: unexpected <bool>"),
    ("NaN", r#"1:1: parse error: unexpected number "NaN""#),
    ("up down", r#"1:4: parse error: unexpected identifier "down""#),
    ("up\n\n +1", "3:2: parse error: unexpected <op:+>"),
    ("up[5m]", r#"1:3: parse error: unexpected "[""#),
    ("up{a='b'} or up", "1:11: parse error: unexpected <op:or>"),
    (
        "{a='b' or c='d'}",
        concat!(
            r#"1:8: parse error: unexpected identifier "or" in label matching, "#,
            r#"expected "," or "}""#,
        ),
    ),
    (
        "{a='b',,}",
        r#"1:8: parse error: unexpected "," in label matching, expected identifier or "}""#,
    ),
    (
        "{'a' 'b'}",
        concat!(
            r#"1:6: parse error: unexpected string "'b'" in label matching, expected "#,
            r#""," or "}""#,
        ),
    ),
    (
        "{a='b' 'a long string'}",
        concat!(
            r#"1:8: parse error: unexpected string "'a long st"... in label matching, "#,
            r#"expected "," or "}""#,
        ),
    ),
    ("{é='b', a=~'('}", "1:2: parse error: unexpected character inside braces: 'é'"),
    ("{b='é', a=~'('}", "1:10: parse error: error parsing regexp: missing closing ): `(`"),
    (
        "{a=~'*' $",
        concat!(
            "1:2: parse error: error parsing regexp: missing argument to repetition ",
            "operator: `*`",
        ),
    ),
];

#[test]
fn matches_by_table() {
    for (text, want) in MATCHES {
        let got = parse_selector(text).map_or_else(|e| e.to_string(), |m| written(&m));
        assert_eq!(got, *want, "{text}");
    }
    // Ours alone: labels are UTF-8 here.
    let refused = parse_selector(r"{a='\xff'}").expect_err("a byte that is no text");
    let message = r#"string "'\\xff'" is not UTF-8, as the names and values of labels are"#;
    assert_eq!(refused.to_string(), format!("1:4: parse error: {message}"));
}

#[test]
fn a_request_asks_for_something() {
    let sets = parse_selectors(["up", "{a='', b!=''}"]).expect("two selectors");
    assert_eq!(sets.len(), 2);
    assert_eq!(sets[0], [Matcher::equal(METRIC_NAME, "up")]);
    assert_eq!(parse_selectors(["up", "{a=~'.*'}"]), Err(MatchError::EmptyMatch));
    let broken = parse_selectors(["up", "{a"]).expect_err("an open brace");
    let message = "1:3: parse error: unexpected end of input inside braces";
    assert_eq!(broken.to_string(), message);
    assert_eq!(parse_selectors::<&str>([]), Ok(Vec::new()));
}

#[test]
fn long_and_deep_texts_end_soon() {
    let long = |piece: &str, len: usize| piece.repeat(len / piece.len());
    let pieces =
        ["(", "{", "[", "[5m", "a{b='c',", "\"", "\\", "a", "1", "1e", "_", "#", "fill ", "é"];
    for piece in pieces {
        drop(tokens(&long(piece, QUERY_BYTES_MAX)));
        drop(parse_selector(&long(piece, QUERY_BYTES_MAX)));
        drop(parse_selector(&format!("{{{}", long(piece, QUERY_BYTES_MAX / 2))));
    }
    let matchers = QUERY_BYTES_MAX / 8;
    let all = format!("{{{}}}", "a!='bc',".repeat(matchers - 1));
    assert_eq!(parse_selector(&all).map(|m| m.len()), Ok(matchers - 1));
    let (got, max) = (QUERY_BYTES_MAX + 1, QUERY_BYTES_MAX);
    let refused = parse_selector(&"a".repeat(got)).expect_err("too long");
    assert_eq!(refused.fault, Fault::TooLong { got, max });
}

/// Texts of the words of the language in any order, with some garbage.
fn near_promql() -> impl Strategy<Value = String> {
    let words = vec![
        "up", "sum", "or", "{", "}", "(", ")", "[", "]", ",", "=", "!=", "=~", "!~", "!", "~", "<",
        "/", "5m", "1e", "0x", ".", ":", "\"", "'", "`", "\\", "\\x", "\\u", "4", "#", "\n", " ",
        "é", "\u{fffd}", "\0", "step", "@", "'a'", "\"(\"",
    ];
    proptest::collection::vec(prop::sample::select(words), 0..12).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_text_is_too_strange(any in any::<String>(), near in near_promql()) {
        for text in [&any, &near] {
            drop((read(text), parse_selector(text)));
            let mut end = 0;
            let mut lexer = Lexer::new(text);
            loop {
                match lexer.token() {
                    Ok(token) => {
                        prop_assert!(token.start >= end);
                        prop_assert_eq!(&text[token.start..token.end()], token.text);
                        prop_assert!(token.kind == Kind::Eof || !token.text.is_empty());
                        end = token.end();
                        if token.kind == Kind::Eof {
                            break;
                        }
                    }
                    Err(error) => {
                        prop_assert!(error.range.start >= end && error.range.end == text.len());
                        prop_assert_eq!(lexer.token().map(|t| t.kind), Ok(Kind::Eof));
                        break;
                    }
                }
            }
        }
    }

    /// What a matcher writes reads back as the same matcher.
    #[test]
    fn matchers_read_back(name in any::<String>(), value in any::<String>(), op in 0..4usize) {
        use crate::model::MatchOp::{Equal, NotEqual, NotRegex, Regex};
        prop_assume!(!name.contains('\u{fffd}') && !value.contains('\u{fffd}'));
        let op = [Equal, NotEqual, Regex, NotRegex][op];
        if let Ok(matcher) = Matcher::new(op, name, value) {
            let text = format!("{{{matcher}}}");
            prop_assert_eq!(parse_selector(&text), Ok(vec![matcher]), "{}", text);
        }
    }
}
