//! Facts of Go's RE2, and the translation against them.

use proptest::prelude::*;
use regex_automata::meta::Regex;

use super::*;
use crate::model::pattern::Pattern;

/// A pattern, values it matches, values it does not: as Go 1.26 answers (`regexp`, flags `Perl`
/// and `DotNL`, anchored at both ends).
type Fact = (&'static str, &'static [&'static str], &'static [&'static str]);

const FACTS: &[Fact] = &[
    (r"\d+", &["12"], &["\u{663}", "1a"]),
    (r"\D", &["\u{663}"], &["1"]),
    (r"\w+", &["aZ_9"], &["é", "ſ"]),
    (r"(?i)\w", &["ſ", "K"], &["é"]),
    (r"\W", &["é"], &["a"]),
    (r"\s", &[" ", "\t"], &["\u{b}", "\u{a0}"]),
    (r"\S", &["\u{b}", "\u{a0}"], &[" "]),
    (r"a\b.*", &["a", "a b", "aé"], &["ab"]),
    (r"a\B.*", &["ab"], &["a", "aé"]),
    (r"\Qa.b*\E+", &["a.b*", "a.b**"], &["axb*"]),
    (r"\Qa\Eb|\Q|", &["ab", "|"], &[""]),
    (r"a\Q\E*", &["", "aaa"], &["b"]),
    (r"\101\x41\x{41}\0", &["AAA\u{0}"], &["AAA0"]),
    (r"\08", &["\u{0}8"], &["\u{8}"]),
    (r"\377", &["ÿ"], &[]),
    (r"\400", &["Ā"], &[]),
    (r"\a\f\n\r\t\v", &["\u{7}\u{c}\n\u{d}\t\u{b}"], &[]),
    (r"\_\-\.", &["_-."], &[]),
    ("{", &["{"], &[]),
    ("x{", &["x{"], &[]),
    ("a{,2}", &["a{,2}"], &["aa", ""]),
    ("a{2", &["a{2"], &[]),
    ("a{01}", &["a{01}"], &["a"]),
    ("a{x}", &["a{x}"], &[]),
    ("a{1,2,3}", &["a{1,2,3}"], &[]),
    ("a{ 1}", &["a{ 1}"], &["a"]),
    ("}", &["}"], &[]),
    ("a{0}", &[""], &["a"]),
    ("a{2,}", &["aa", "aaa"], &["a"]),
    ("(a{1000}){0}", &[""], &[]),
    ("((a{100}){0}){1000}", &[""], &[]),
    ("[[a]", &["[", "a"], &["b"]),
    ("[a&&b]", &["a", "&", "b"], &["c"]),
    ("[a~~b]", &["~", "a", "b"], &[]),
    (r"[\d-z]", &["-", "z", "5"], &["b"]),
    ("[]a]", &["]", "a"], &[]),
    ("[^]a]", &["b", "\n"], &["]"]),
    ("[a-]", &["a", "-"], &[]),
    ("[-a]", &["-", "a"], &[]),
    ("[[:alpha:]_]+", &["ab_"], &["1"]),
    ("[[:^alpha:]]", &["1", "é"], &["a"]),
    ("[[:space:]]", &["\u{b}"], &[]),
    ("[[:word:]]", &["_"], &[]),
    ("[:alpha:]", &["a", "l", ":"], &["b"]),
    (r"[\]\\\-]", &["]", r"\", "-"], &[]),
    (r"[\x41-\x43]", &["B"], &["D"]),
    (r"[^\d]", &["a", "\n"], &["1"]),
    (r"[^\D]", &["1"], &["a"]),
    (r"[\pL1]", &["é", "1"], &["2"]),
    ("[[:a]", &["[", ":", "a"], &[]),
    (r"[\x{d7fe}-\x{e001}]", &["\u{d7ff}", "\u{e000}"], &["a"]),
    (r"[\x{d800}-\x{dfff}]|b", &["b"], &["\u{fffd}"]),
    (r"\pL\p{Lu}\p{Greek}", &["éÉα"], &["aaa"]),
    (r"\P{L}\p{^L}\P{^L}", &["12a"], &["1aa"]),
    (r"\p{Any}", &["\n", "\u{10ffff}"], &[]),
    (r"(?i)\p{Lu}", &["a", "A"], &["1"]),
    (r"(?i)\P{Lu}", &["1"], &["a", "A"]),
    (r"\p{Han}\p{Yi}", &["\u{6c49}\u{a000}"], &[]),
    (r"\p{LC}", &["a", "ǅ"], &["\u{6c49}"]),
    (r"\p{Cs}|a", &["a"], &["\u{fffd}"]),
    (".", &["\n", "é"], &["", "ab"]),
    ("(?-s).", &["a"], &["\n"]),
    ("(?-s:.)+.", &["a\n", "ab"], &["\na"]),
    ("(?s).", &["\n"], &[]),
    ("^a$", &["a"], &["a\n"]),
    (r"\Aa\z", &["a"], &[]),
    ("a^b", &[], &["ab"]),
    (r"(?m)a$\n^b", &["a\nb"], &[]),
    (r"a$\nb", &[], &["a\nb"]),
    (r"(?m:^)a(?m:$)\n", &["a\n"], &[]),
    ("^*a$+", &["a"], &[]),
    ("(?i)aé", &["AÉ"], &["ae"]),
    ("(?i:a)b", &["Ab"], &["AB"]),
    ("a(?i)b|c", &["aB", "C"], &["A"]),
    ("(?i)s", &["ſ", "S"], &[]),
    ("(?i)k", &["K"], &[]),
    ("(?i)[^k]", &["a"], &["K", "K"]),
    ("(?i)[a-c]", &["B"], &["D"]),
    ("(?i)a(?-i)b", &["Ab"], &["AB"]),
    ("(?i)", &[""], &[]),
    ("(?i-s:A.)", &["ab"], &["a\n"]),
    ("(?U)a+?b*", &["aabb"], &[]),
    ("(?is-m)A.", &["a\n"], &[]),
    ("(?P<n>a)(?<m>b)(?P<n>c)", &["abc"], &[]),
    ("(?:a|b)*", &["", "abba"], &[]),
    ("(a|)b", &["b", "ab"], &[]),
    ("a|b|", &["", "a"], &["ab"]),
    ("|", &[""], &["a"]),
    ("()*", &[""], &[]),
    ("(?:a+)?", &["", "aa"], &[]),
    ("(?:a*)+b", &["aab"], &[]),
    ("(|a)*", &["aa"], &[]),
    ("a*(?i)*", &["aaa"], &[]),
    ("(a?){3}", &["", "aaa"], &["aaaa"]),
    ("a+?", &["a", "aa"], &[]),
    ("a??b", &["b", "ab"], &[]),
    ("foo|foobar", &["foobar"], &["foob"]),
    ("(foo|foobar)(baz)?", &["foobarbaz", "foobaz", "foobar"], &["baz"]),
    ("", &[""], &["a"]),
];

/// A pattern and Go's error, after `error parsing regexp: `.
const REFUSED: &[(&str, &str)] = &[
    (r"\18", r"invalid escape sequence: `\1`"),
    ("\\_\\-\\.\\é", "invalid escape sequence: `\\é`"),
    ("x**", "invalid nested repetition operator: `**`"),
    ("x*?+", "invalid nested repetition operator: `*?+`"),
    ("x+*", "invalid nested repetition operator: `+*`"),
    ("x??+", "invalid nested repetition operator: `??+`"),
    ("(?:a|b)++", "invalid nested repetition operator: `++`"),
    ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
    ("a{2}*", "invalid nested repetition operator: `{2}*`"),
    ("a*{2}?", "invalid nested repetition operator: `*{2}?`"),
    ("a{1001}", "invalid repeat count: `{1001}`"),
    ("a{1,1001}", "invalid repeat count: `{1,1001}`"),
    ("a{3,2}", "invalid repeat count: `{3,2}`"),
    ("a{99999999999}", "invalid repeat count: `{99999999999}`"),
    ("(a{99}){99}", "invalid repeat count: `{99}`"),
    ("(?:(a{2}){501})", "invalid repeat count: `{501}`"),
    ("((a{10}){10}){11}?", "invalid repeat count: `{11}?`"),
    ("*", "missing argument to repetition operator: `*`"),
    ("+a", "missing argument to repetition operator: `+`"),
    ("?a", "missing argument to repetition operator: `?`"),
    ("{2}", "missing argument to repetition operator: `{2}`"),
    ("a|*", "missing argument to repetition operator: `*`"),
    ("(*)", "missing argument to repetition operator: `*`"),
    ("(?i)*", "missing argument to repetition operator: `*`"),
    ("(?:{2,3}?)", "missing argument to repetition operator: `{2,3}?`"),
    ("(a", "missing closing ): `(a`"),
    ("((a)", "missing closing ): `((a)`"),
    ("a)", "unexpected ): `a)`"),
    (")(", "unexpected ): `)(`"),
    ("a)|(b", "unexpected ): `a)|(b`"),
    ("[a", "missing closing ]: `[a`"),
    ("[", "missing closing ]: `[`"),
    ("[]", "missing closing ]: `[]`"),
    ("[^", "missing closing ]: `[^`"),
    ("[^]a", "missing closing ]: `[^]a`"),
    ("[a-", "missing closing ]: `[a-`"),
    (r"x[a\]", r"missing closing ]: `[a\]`"),
    ("[z-a]", "invalid character class range: `z-a`"),
    ("[a--b]", "invalid character class range: `a--`"),
    (r"[b-\x41]", r"invalid character class range: `b-\x41`"),
    ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
    ("[[:^foo:]]", "invalid character class range: `[:^foo:]`"),
    (r"\p", r"invalid character class range: `\p`"),
    (r"\pq", r"invalid character class range: `\pq`"),
    (r"\p{Foo}", r"invalid character class range: `\p{Foo}`"),
    (r"\p{Alphabetic}", r"invalid character class range: `\p{Alphabetic}`"),
    (r"\p{Grek}", r"invalid character class range: `\p{Grek}`"),
    (r"\p{IsGreek}", r"invalid character class range: `\p{IsGreek}`"),
    (r"\p{Greek", r"invalid character class range: `\p{Greek`"),
    (r"\p{}", r"invalid character class range: `\p{}`"),
    (r"\p{sc=Greek}", r"invalid character class range: `\p{sc=Greek}`"),
    (r"[\p{Foo}]", r"invalid character class range: `\p{Foo}`"),
    (r"\C", r"invalid escape sequence: `\C`"),
    (r"\Z", r"invalid escape sequence: `\Z`"),
    (r"\y", r"invalid escape sequence: `\y`"),
    (r"\q", r"invalid escape sequence: `\q`"),
    ("\\é", "invalid escape sequence: `\\é`"),
    (r"[\Qa\E]", r"invalid escape sequence: `\Q`"),
    (r"\1", r"invalid escape sequence: `\1`"),
    (r"\8", r"invalid escape sequence: `\8`"),
    (r"(a)\1", r"invalid escape sequence: `\1`"),
    (r"[\b]", r"invalid escape sequence: `\b`"),
    (r"[\A]", r"invalid escape sequence: `\A`"),
    (r"\x", r"invalid escape sequence: `\x`"),
    (r"\x4", r"invalid escape sequence: `\x4`"),
    (r"\xg1", r"invalid escape sequence: `\xg1`"),
    (r"\x{}", r"invalid escape sequence: `\x{}`"),
    (r"\x{41", r"invalid escape sequence: `\x{41`"),
    (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
    (r"\x{z}", r"invalid escape sequence: `\x{z`"),
    (r"\u0041", r"invalid escape sequence: `\u`"),
    (r"\", "trailing backslash at end of expression: ``"),
    (r"a\", "trailing backslash at end of expression: ``"),
    (r"[\", "trailing backslash at end of expression: ``"),
    ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
    ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
    ("(?!a)", "invalid or unsupported Perl syntax: `(?!`"),
    ("(?<=a)", "invalid named capture: `(?<=a)`"),
    ("(?<!a)", "invalid named capture: `(?<!a)`"),
    ("(?>a)", "invalid or unsupported Perl syntax: `(?>`"),
    ("(?#c)", "invalid or unsupported Perl syntax: `(?#`"),
    ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
    ("(?", "invalid or unsupported Perl syntax: `(?`"),
    ("(?i-", "invalid or unsupported Perl syntax: `(?i-`"),
    ("(?-)", "invalid or unsupported Perl syntax: `(?-)`"),
    ("(?i-:a)", "invalid or unsupported Perl syntax: `(?i-:`"),
    ("(?--i)", "invalid or unsupported Perl syntax: `(?--`"),
    ("(?P<n", "invalid named capture: `(?P<n`"),
    ("(?P<>a)", "invalid named capture: `(?P<>`"),
    ("(?P<n-m>a)", "invalid named capture: `(?P<n-m>`"),
    ("(?<1 >a)", "invalid named capture: `(?<1 >`"),
    ("(?P=n)", "invalid or unsupported Perl syntax: `(?P`"),
    ("(?P>n)", "invalid or unsupported Perl syntax: `(?P`"),
    ("(?'n'a)", "invalid or unsupported Perl syntax: `(?'`"),
    ("(?ié)", "invalid or unsupported Perl syntax: `(?ié`"),
];

/// The oracle: the tree given to the engine as it is.
pub(crate) fn whole(pattern: &str) -> Result<Regex, Error> {
    let ends = [Hir::look(Look::Start), parse(pattern)?, Hir::look(Look::End)];
    Ok(Regex::builder().build_from_hir(&Hir::concat(ends.into())).expect("a small pattern"))
}

#[test]
fn matches_what_go_matches() {
    for (pattern, yes, no) in FACTS {
        let whole = whole(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
        let shaped = Pattern::new(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
        for (values, matches) in [(yes, true), (no, false)] {
            for value in *values {
                assert_eq!(whole.is_match(value), matches, "{pattern} on {value:?}");
                assert_eq!(shaped.matches(value), matches, "{pattern} on {value:?}, shaped");
            }
        }
    }
}

#[test]
fn refuses_what_go_refuses_in_its_words() {
    for (pattern, error) in REFUSED {
        let refused = parse(pattern).expect_err(pattern);
        assert_eq!(refused.to_string(), format!("error parsing regexp: {error}"), "{pattern}");
    }
}

#[test]
fn counts_reach_a_thousand() {
    let a = |n: usize| "a".repeat(n);
    for (pattern, yes, no) in [
        ("a{1000}", 1000, 999),
        ("(a{500}){2}", 1000, 500),
        ("(a{1000}){1}", 1000, 1),
        ("(a{1000}){0}", 0, 1000),
        ("((a{100}){0}){1000}", 0, 100),
    ] {
        let whole = whole(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
        assert!(whole.is_match(&a(yes)), "{pattern} on {yes}");
        assert!(!whole.is_match(&a(no)), "{pattern} on {no}");
    }
}

#[test]
fn surrogates_are_in_no_text() {
    for pattern in [r"\x{d800}", r"[\x{d800}-\x{dfff}]", r"\p{Cs}"] {
        let whole = whole(pattern).expect("a pattern");
        assert!(!whole.is_match("\u{fffd}") && !whole.is_match(""), "{pattern}");
    }
}

/// Adding cases to a wide class looks only at these.
#[test]
fn all_characters_with_cases_are_casemapped() {
    let cased = class::unicode_property("Changes_When_Casemapped").expect("a property");
    let known = |c: char| cased.ranges().iter().any(|r| r.start() <= c && c <= r.end());
    for c in '\0'..=char::MAX {
        let mut class = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
        class.case_fold_simple();
        let more = class.ranges().len() > 1 || class.ranges()[0].len() > 1;
        assert!(!more || known(c), "{c:?}");
    }
}

/// Each of these must end soon, without a crash, whatever it answers.
#[test]
fn monsters_are_cheap() {
    let many = |text: &str| text.repeat(PATTERN_BYTES_MAX / text.len());
    for text in [
        "(",
        "(?:",
        "[",
        "[[:a]",
        "[[:a",
        "{1",
        r"\pL",
        r"\Q",
        "a?",
        "(a|b)",
        "(?i)k",
        "|",
        "[a-",
        r"[\x{0}-\x{10fffe}]",
        r"[\d\W]",
        r"\p{",
        "(?P<n",
        "a{1000}",
        "(?i)[^a]",
        "x*)",
    ] {
        drop(Pattern::new(&many(text)));
        drop(Pattern::new(&many(&format!("(?i){text}"))));
        drop(Pattern::new(&many(&format!("[{text}]"))));
    }
    let long = parse(&"a".repeat(PATTERN_BYTES_MAX + 1)).expect_err("too long");
    assert_eq!(long.fault, Fault::TooLarge);
    assert!(long.to_string().len() < 200);
}

/// The deepest tree that is let through goes through everything on a thread's usual stack.
#[test]
fn depth_is_bounded() {
    let nested = |n: usize| format!("{}a{}", "(?:".repeat(n), "*b|c)".repeat(n));
    let deepest = (DEPTH_MAX as usize - 1) / 3;
    let pattern = Pattern::new(&nested(deepest)).expect("deep, but not too deep");
    assert!(pattern.matches("c"));
    let refused = parse(&nested(deepest + 1)).expect_err("too deep");
    assert_eq!(refused.fault, Fault::TooDeep);
    let groups = format!("{}a{}", "(".repeat(20_000), ")".repeat(20_000));
    assert!(Pattern::new(&groups).expect("groups are no depth").matches("a"));
}

proptest! {
    #[test]
    fn any_text_is_a_pattern_or_an_error(text in any::<String>()) {
        drop(parse(&text));
    }

    #[test]
    fn quoted_text_matches_itself_only(text in any::<String>(), other in any::<String>()) {
        prop_assume!(!text.contains("\\E"));
        let pattern = whole(&format!("\\Q{text}\\E")).expect("quoted text");
        prop_assert!(pattern.is_match(&text));
        prop_assert_eq!(pattern.is_match(&other), text == other);
    }

    /// Patterns of the words both sides know mean the same to `regex` read from text.
    #[test]
    fn plain_patterns_are_those_of_regex(
        pieces in proptest::collection::vec(
            prop::sample::select(vec![
                "a", "b", ".", "(a|b)", "[ab]", "[^a]", "(?:ab)", "c*", "a+?", "b?", ".{1,2}",
                "^", "$", "|", "(?:a|)*", "(?:a+)?", "(?i:C)",
            ]),
            0..7,
        ),
        values in proptest::collection::vec("[abc\n]{0,5}", 20),
    ) {
        let pattern = pieces.concat();
        let ours = whole(&pattern).expect("a plain pattern");
        let theirs = Regex::new(&format!(r"\A(?s:{pattern})\z")).expect("a plain pattern");
        for value in values {
            let got = ours.is_match(&value);
            prop_assert_eq!(got, theirs.is_match(&value), "{} {:?}", pattern, value);
        }
    }
}
