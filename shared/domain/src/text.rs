//! Texts from users: what they may contain, and their forms for comparison and display.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization as _;

/// What is wrong with a required text of one line and at most `most` characters. `None` if it is
/// valid.
///
/// A name, a title or a reason goes into mail headers, calendars and tables. So it has no line
/// breaks, no control characters and no open bidirectional controls. It has at least one visible
/// character.
#[must_use]
pub fn line_fault(text: &str, most: usize) -> Option<String> {
    if is_blank(text) {
        return Some("it is empty".to_owned());
    }
    optional_line_fault(text, most)
}

/// The same for a text that may be empty.
#[must_use]
pub fn optional_line_fault(text: &str, most: usize) -> Option<String> {
    if is_longer(text, most) {
        return Some(format!("it has more than {most} characters"));
    }
    if text.contains(|c: char| is_line_break(c)) {
        return Some("it has a line break; write it on one line".to_owned());
    }
    character_fault(text)
}

/// What is wrong with a text of several lines and at most `most` characters. `None` if it is valid.
/// The text may be empty.
#[must_use]
pub fn lines_fault(text: &str, most: usize) -> Option<String> {
    if is_longer(text, most) {
        return Some(format!("it has more than {most} characters"));
    }
    text.split(is_line_break).find_map(|line| character_fault(&line.replace('\t', " ")))
}

/// Whether a text has more than `most` characters (Unicode scalar values). A letter with its vowel
/// signs may have several.
#[must_use]
pub fn is_longer(text: &str, most: usize) -> bool {
    // Every character has at least one byte, so a short text needs no count.
    text.len() > most && text.chars().nth(most).is_some()
}

/// What is wrong with the characters of one line.
fn character_fault(line: &str) -> Option<String> {
    if let Some(control) = line.chars().find(|c| c.is_control()) {
        return Some(format!("it has the control character U+{:04X}", u32::from(control)));
    }
    (!is_closed(line)).then(|| "it has a bidirectional control that is not closed".to_owned())
}

/// Whether a character ends a line: line feed, vertical tab, form feed, carriage return, next line,
/// line separator or paragraph separator ([UAX #14](https://www.unicode.org/reports/tr14/), class
/// BK and similar classes).
#[must_use]
pub fn is_line_break(c: char) -> bool {
    matches!(c, '\n' | '\u{b}' | '\u{c}' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Whether every bidirectional control is closed at the end of the line ([UAX
/// #9](https://www.unicode.org/reports/tr9/#Explicit_Directional_Embeddings)). An open one would
/// reorder the text that is shown after it.
fn is_closed(line: &str) -> bool {
    let mut open = Vec::new();
    for c in line.chars() {
        match c {
            '\u{202a}' | '\u{202b}' | '\u{202d}' | '\u{202e}' => open.push('\u{202c}'),
            '\u{2066}'..='\u{2068}' => open.push('\u{2069}'),
            '\u{202c}' | '\u{2069}' if open.pop() != Some(c) => return false,
            _ => {}
        }
    }
    open.is_empty()
}

/// Whether a text has no visible character.
#[must_use]
pub fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || c.is_control() || is_invisible(c))
}

/// Whether a character is invisible by itself: `Default_Ignorable_Code_Point` of the [Unicode
/// Character Database](https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point), and the
/// empty pattern of Braille.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    matches!(u32::from(c),
        0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f
        | 0x202a..=0x202e | 0x2060..=0x206f | 0x2800 | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0
        | 0xfff0..=0xfff8 | 0x1_bca0..=0x1_bca3 | 0x1_d173..=0x1_d17a | 0xe_0000..=0xe_0fff)
}

/// Any text as one line that a mail header can hold. It shows texts that were stored before texts
/// were checked.
#[must_use]
pub fn as_line(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| c.is_control() || is_line_break(c);
    if is_closed(text) && !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let is_bidi = |c: &char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let line: String =
        text.chars().filter(|c| !is_bidi(c)).map(|c| if is_bad(c) { ' ' } else { c }).collect();
    Cow::Owned(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The composed form (NFC, [UAX #15](https://www.unicode.org/reports/tr15/)). The same text becomes
/// equal, however it was typed.
#[must_use]
pub fn composed(text: &str) -> String {
    text.nfc().collect()
}

/// The form in which texts are searched and compared. Compatibility forms, case, accents and
/// invisible characters are gone, and white space is one space. Every database stores this form, so
/// no database folds texts itself.
///
/// Marks that make another word stay, such as the vowel signs of Indic scripts. Turkish dotted and
/// dotless i become equal.
#[must_use]
pub fn folded(text: &str) -> String {
    let decomposed: String = text.nfkd().collect();
    let mut folded = String::with_capacity(text.len());
    for c in caseless::default_case_fold_str(&decomposed).nfkd() {
        match (plain(c), is_accent(c) || is_invisible(c)) {
            (Some(plain), _) => folded.push_str(plain),
            (None, false) => folded.push(c),
            (None, true) => {}
        }
    }
    let folded: String = folded.nfc().collect();
    folded.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What people type instead of a small Latin letter with a stroke or ligature. Unicode does not
/// decompose these letters.
fn plain(letter: char) -> Option<&'static str> {
    Some(match letter {
        'ı' => "i",
        'ł' => "l",
        'ø' => "o",
        'đ' | 'ð' => "d",
        'ħ' => "h",
        'ŧ' => "t",
        'æ' => "ae",
        'œ' => "oe",
        'þ' => "th",
        _ => return None,
    })
}

/// Whether a mark only decorates a letter: the accents of Latin, Greek and Cyrillic, the Hebrew and
/// Arabic points, the tatweel, and the nukta.
fn is_accent(c: char) -> bool {
    matches!(u32::from(c),
        0x300..=0x36f | 0x483..=0x487 | 0x591..=0x5bd | 0x5bf | 0x5c1..=0x5c2 | 0x5c4..=0x5c5 | 0x5c7
        | 0x610..=0x61a | 0x640 | 0x64b..=0x65f | 0x670 | 0x6d6..=0x6dc | 0x6df..=0x6e4 | 0x6e7..=0x6e8
        | 0x6ea..=0x6ed | 0x93c | 0x9bc | 0xa3c | 0xabc | 0xb3c | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff
        | 0x20d0..=0x20ff | 0xfe20..=0xfe2f)
}

/// The text, cut to at most `most` bytes. A text that was cut ends with an ellipsis.
#[must_use]
pub fn shortened(mut text: String, most: usize) -> String {
    const ELLIPSIS: char = '…';
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most.saturating_sub(ELLIPSIS.len_utf8())));
        text.push(ELLIPSIS);
    }
    text
}

/// An error with its causes, the outermost first. Some libraries' errors end with the text of their
/// cause, which is then left out.
#[must_use]
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.extend([": ", &next]);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_is_printed_with_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        enum Failed {
            #[error("read the file")]
            Outer(#[source] Box<Self>),
            #[error("the disk: {0}")]
            Repeats(#[source] std::num::ParseIntError),
        }
        let inner = "x".parse::<u8>().unwrap_err();
        let error = Failed::Outer(Failed::Repeats(inner).into());
        assert_eq!(with_causes(&error), "read the file: the disk: invalid digit found in string");
    }

    #[test]
    fn a_line_has_no_breaks_no_controls_and_something_to_see() {
        let long = "क".repeat(200);
        for text in [
            "Ann Lee",
            "Ann\u{a0}Lee",
            "عبد\u{200c}الله",
            "👩\u{200d}⚕\u{fe0f}",
            "क्षितिज",
            "a \u{2067}עברית\u{2069} b",
            &long,
        ] {
            assert_eq!(line_fault(text, 200), None, "{text:?}");
        }
        for text in [
            "",
            " ",
            "\u{200b}",
            "\u{3164}",
            "\u{2800}\u{a0}",
            "\u{feff}\u{200d}",
            "Ann\nLee",
            "Ann\rLee",
            "Ann\u{85}Lee",
            "Ann\u{2028}Lee",
            "Ann\u{2029}Lee",
            "Ann\u{b}Lee",
            "Ann\tLee",
            "Ann\0Lee",
            "Ann\u{1b}[31mLee",
            "Ann\u{7f}",
            "Ann \u{202e}eeL",
            "Ann\u{202c}",
            "\u{2066}Ann\u{202c}",
            "é".repeat(201).as_str(),
        ] {
            assert!(line_fault(text, 200).is_some(), "{text:?}");
        }
        assert_eq!(optional_line_fault("", 200), None);
        assert!(optional_line_fault("a\nb", 200).is_some());
    }

    #[test]
    fn several_lines_may_break_and_indent() {
        assert_eq!(lines_fault("Doors open at nine.\r\n\r\n\tBring water.\u{2028}Thanks", 100), None);
        for text in ["a\0b", "a\u{8}b", "one \u{202e}line\nand another\u{202c}"] {
            assert!(lines_fault(text, 100).is_some(), "{text:?}");
        }
        assert!(lines_fault("abc", 2).is_some());
    }

    #[test]
    fn any_text_is_shown_as_a_line() {
        for (text, line) in [
            ("Ann Lee", "Ann Lee"),
            ("Ann\r\n Lee\n", "Ann Lee"),
            ("Ann\u{2028}\u{202e}Lee", "Ann Lee"),
            ("\0\n", ""),
        ] {
            assert_eq!(as_line(text), line, "{text:?}");
        }
    }

    #[test]
    fn texts_are_folded_the_same_in_every_script() {
        for (one, other) in [
            ("Ångström", "angstrom"),
            ("STRAẞE", "strasse"),
            ("ﬁne", "Fine"),
            ("İstanbul", "istanbul"),
            ("ISPARTA", "ısparta"),
            ("ΣΊΣΥΦΟΣ", "σισυφος"),
            ("ЁЛКА", "елка"),
            ("Кий", "КИИ"),
            ("क़लम", "कलम"),
            ("مُحَمَّد", "محمد"),
            ("محـمد", "محمد"),
            ("Ａｎｎ\u{3000}Lee", "ann  lee "),
            ("e\u{301}t\u{e9}", "ete"),
            ("An\u{ad}n", "ann"),
            ("Łódź", "lodz"),
            ("Bjørn Æsir Đorđević", "bjorn aesir dordevic"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
        }
        assert_ne!(folded("कि"), folded("क"), "a vowel sign makes another word");
        assert_ne!(folded("Ann"), folded("Anne"));
    }

    #[test]
    fn only_what_is_too_long_is_shortened_and_no_character_is_broken() {
        for (text, most, short) in
            [("", 0, ""), ("abc", 3, "abc"), ("abcdef", 5, "ab…"), ("ééé", 5, "é…"), ("ééé", 6, "ééé")]
        {
            assert_eq!(shortened(text.to_owned(), most), short);
        }
    }

    proptest! {
        #[test]
        fn folding_and_showing_come_to_rest(text in "\\PC{0,30}|[\\x00-\\x{10ffff}]{0,30}") {
            prop_assert_eq!(folded(&folded(&text)), folded(&text));
            let line = as_line(&text).into_owned();
            prop_assert_eq!(optional_line_fault(&line, usize::MAX), None);
        }
    }
}
