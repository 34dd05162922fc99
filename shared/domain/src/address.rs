//! E-mail addresses. One parser serves all code that accepts, compares or sends to them.

use std::fmt;

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use unicode_normalization::char::is_combining_mark;

use crate::text::{composed, is_invisible, is_line_break};

/// The longest e-mail address in bytes, in the form in which it is sent
/// ([RFC 5321, 4.5.3.1.3](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.3) leaves 254).
pub const MAX_EMAIL: usize = 254;
/// The longest part before the `@`, in bytes
/// ([RFC 5321, 4.5.3.1.1](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.1)).
const MAX_LOCAL: usize = 64;
/// The longest text that the parser reads, in bytes. A character of a domain has at most four.
const MAX_INPUT: usize = 4 * MAX_EMAIL;

/// ASCII characters that no domain may contain. Letters, digits, hyphens, underscores and dots
/// remain. Host names in DNS have no underscores, but mail servers accept them.
const NOT_IN_DOMAINS: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");
/// Characters that only a quoted part before the `@` may contain
/// ([RFC 5322, 3.2.3](https://www.rfc-editor.org/rfc/rfc5322#section-3.2.3)). The parser accepts no
/// quoted parts.
const SPECIALS: &str = "\"(),:;<>[\\]";

/// An e-mail address to which a message can be sent. Only an answer proves that a person reads it.
///
/// Two addresses are the same if they are equal. The part before the `@` is composed (NFC) and in
/// lower case. The domain is in ASCII ([UTS #46](https://www.unicode.org/reports/tr46/)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EmailAddress {
    local: String,
    domain: String,
}

/// Why a text is not an address. The reason ends a sentence: `it has no @`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressFault(String);

fn fault<T>(why: impl Into<String>) -> Result<T, AddressFault> {
    Err(AddressFault(why.into()))
}

impl EmailAddress {
    /// Parses an address and normalises it.
    ///
    /// # Errors
    /// If no message can be sent to the address. The error says why.
    pub fn parse(text: &str) -> Result<Self, AddressFault> {
        if text.len() > MAX_INPUT {
            return fault("it is too long");
        }
        let text = composed(text.trim());
        if text.is_empty() {
            return fault("it is empty");
        }
        let Some((local, domain)) = text.rsplit_once('@') else { return fault("it has no @") };
        if local.contains('@') {
            return fault("it has more than one @");
        }
        let local = composed(&local.to_lowercase());
        check_local(&local)?;
        let domain = ascii_domain(domain)?;
        if local.len() + 1 + domain.len() > MAX_EMAIL {
            return fault(format!("it has more than {MAX_EMAIL} bytes"));
        }
        Ok(Self { local, domain })
    }

    /// The part before the `@`.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain, in ASCII.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The address with its domain in the domain's own script, for people. It parses to the same
    /// address.
    #[must_use]
    pub fn shown(&self) -> String {
        if self.domain.contains("xn--") {
            let domain =
                Uts46::new().to_unicode(self.domain.as_bytes(), NOT_IN_DOMAINS, Hyphens::CheckFirstLast).0;
            let shown = format!("{}@{domain}", self.local);
            // A domain with invisible characters, such as joiners, stays in ASCII.
            if Self::parse(&shown).as_ref() == Ok(self) {
                return shown;
            }
        }
        self.to_string()
    }
}

/// The normal form. Two addresses are the same if their normal forms are.
impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

/// Checks the part before the `@`.
fn check_local(local: &str) -> Result<(), AddressFault> {
    if local.len() > MAX_LOCAL {
        return fault(format!("the part before the @ has more than {MAX_LOCAL} bytes"));
    }
    check_characters(local)?;
    if let Some(special) = local.chars().find(|c| SPECIALS.contains(*c)) {
        return fault(format!("it has the character {special}"));
    }
    if local.split('.').any(str::is_empty) {
        return fault("the part before the @ is empty, or has a dot at an end or two in a row");
    }
    if local.starts_with(is_combining_mark) {
        return fault("it begins with an accent");
    }
    Ok(())
}

/// Converts a domain to ASCII.
///
/// # Errors
/// If the text is not a domain. The error says why.
pub fn ascii_domain(domain: &str) -> Result<String, AddressFault> {
    // Check first, because the mapping to ASCII drops invisible characters.
    check_characters(domain)?;
    if domain.is_empty() {
        return fault("it has nothing behind the @");
    }
    let ascii =
        Uts46::new().to_ascii(domain.as_bytes(), NOT_IN_DOMAINS, Hyphens::CheckFirstLast, DnsLength::Verify);
    let Ok(ascii) = ascii else { return fault(format!("{domain:?} is no domain")) };
    if ascii.split('.').any(|label| label.starts_with('_') || label.ends_with('_')) {
        return fault(format!("{domain:?} is no domain"));
    }
    // An IP address needs another syntax, which few servers accept.
    if ascii.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return fault(format!("the domain {domain:?} ends in a number"));
    }
    Ok(ascii.into_owned())
}

/// Rejects characters that neither side of the `@` may contain.
fn check_characters(part: &str) -> Result<(), AddressFault> {
    for c in part.chars() {
        let code = u32::from(c);
        if c.is_control() || is_line_break(c) {
            return fault(format!("it has the control character U+{code:04X}"));
        }
        if c.is_whitespace() {
            return fault("it has a space");
        }
        if is_invisible(c) {
            return fault(format!("it has the invisible character U+{code:04X}"));
        }
        if is_no_text(c) {
            return fault(format!("it has the character U+{code:04X}, which is no text"));
        }
    }
    Ok(())
}

/// Whether a character is not text: private use, a noncharacter, an annotation or a replacement
/// character.
fn is_no_text(c: char) -> bool {
    let code = u32::from(c);
    matches!(code, 0xe000..=0xf8ff | 0xfdd0..=0xfdef | 0xfff9..=0xfffd | 0xf_0000..)
        || code & 0xfffe == 0xfffe
}

/// The normal form of an address. `None` if the text is not an address.
#[must_use]
pub fn normal_email(text: &str) -> Option<String> {
    EmailAddress::parse(text).ok().map(|address| address.to_string())
}

/// A stored address, as people read it. A text that is not an address was stored before addresses
/// were checked. It stays as it is.
#[must_use]
pub fn shown_email(stored: &str) -> String {
    EmailAddress::parse(stored).map_or_else(|_| stored.to_owned(), |address| address.shown())
}

/// The form in which versions before [`EmailAddress`] compared addresses. `None` if those versions
/// refused the text.
///
/// It finds addresses that those versions stored and to which no message can be sent.
#[must_use]
pub fn compared_before(text: &str) -> Option<String> {
    if text.len() > MAX_INPUT {
        return None;
    }
    let email = text.trim().to_lowercase();
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control();
    (email.len() <= MAX_EMAIL && email.contains('@') && email.chars().all(is_plain)).then_some(email)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_address_has_one_normal_form() {
        for (typed, normal) in [
            ("  Ann.Lee@Example.ORG ", "ann.lee@example.org"),
            ("admin@localhost", "admin@localhost"),
            ("o'brien+x_y=z/1{2}@mail-1.example.co.uk", "o'brien+x_y=z/1{2}@mail-1.example.co.uk"),
            ("ann@Bücher.DE", "ann@xn--bcher-kva.de"),
            ("ann@bu\u{308}cher.de", "ann@xn--bcher-kva.de"),
            ("ann@XN--BCHER-KVA.de", "ann@xn--bcher-kva.de"),
            ("ann@ｅｘａｍｐｌｅ。ｏｒｇ", "ann@example.org"),
            ("ann@STRAßE.de", "ann@xn--strae-oqa.de"),
            ("Jose\u{301}@x.org", "josé@x.org"),
            ("Ο\u{301}ΔΟΣ@x.gr", "όδος@x.gr"),
            ("क्षितिज@डाटा.भारत", "क्षितिज@xn--c2bd1gb.xn--h2brj9c"),
            ("Иван@пример.рф", "иван@xn--e1afmkfd.xn--p1ai"),
            ("محمد@مثال.إختبار", "محمد@xn--mgbh0fb.xn--kgbechtv"),
            ("用户@例子.广告", "用户@xn--fsqu00a.xn--4rr70v"),
            ("\u{212a}@x.org", "k@x.org"),
            ("a@my_host.example.org", "a@my_host.example.org"),
            ("a@3com.com", "a@3com.com"),
        ] {
            let address = EmailAddress::parse(typed).unwrap_or_else(|fault| panic!("{typed}: {fault}"));
            assert_eq!(address.to_string(), normal, "{typed}");
            assert_eq!(normal_email(&address.shown()).as_deref(), Some(normal), "{typed}");
        }
    }

    #[test]
    fn a_domain_is_shown_in_its_own_script() {
        for (stored, shown) in [
            ("ann@xn--bcher-kva.de", "ann@bücher.de"),
            ("ann@example.org", "ann@example.org"),
            ("ann\u{200b}@x.org", "ann\u{200b}@x.org"),
            // It has an invisible joiner.
            ("ann@xn--mgba3gch31f060k.com", "ann@xn--mgba3gch31f060k.com"),
        ] {
            assert_eq!(shown_email(stored), shown);
        }
    }

    #[test]
    fn what_cannot_be_mailed_is_refused_with_a_reason() {
        let (local, label) = ("a".repeat(65), "b".repeat(64));
        let long = format!("{}@{}org", "a".repeat(60), "abcdefgh.".repeat(22));
        let (too_long, long_label) = (format!("{local}@b.c"), format!("a@{label}.org"));
        let wide = format!("{}@x.org", "é".repeat(33));
        for (text, part) in [
            ("", "empty"),
            ("   ", "empty"),
            ("ann", "no @"),
            ("@b", "before the @"),
            ("a@", "behind the @"),
            ("a@b@c", "more than one @"),
            ("a b@c.d", "a space"),
            ("a\u{2003}b@c.d", "a space"),
            ("a@b\n.c", "U+000A"),
            ("a\0@b.c", "U+0000"),
            ("a@b..c", "no domain"),
            ("a@b.", "no domain"),
            ("a@-b.c", "no domain"),
            ("a@b-.c", "no domain"),
            ("a@_b.c", "no domain"),
            ("a@b(x).c", "no domain"),
            ("a@[127.0.0.1]", "no domain"),
            ("a@127.0.0.1", "number"),
            ("a@xn--a.org", "no domain"),
            ("a@xn--0000h.org", "no domain"),
            (&long_label, "no domain"),
            (".a@b.c", "a dot"),
            ("a.@b.c", "a dot"),
            ("a..b@c.d", "a dot"),
            ("a,b@c.d", "character ,"),
            ("a;b@c.d", "character ;"),
            ("a\u{37e}b@c.d", "character ;"),
            ("Ann <ann@x.org>", "a space"),
            ("<ann@x.org>", "character <"),
            ("ann(work)@x.org", "character ("),
            ("\"ann\"@x.org", "character \""),
            ("a\\b@x.org", "character \\"),
            ("an\u{200b}n@x.org", "U+200B"),
            ("an\u{ad}n@x.org", "U+00AD"),
            ("ann@x\u{200d}.org", "U+200D"),
            ("ann@x\u{ad}.org", "U+00AD"),
            ("ann\u{202e}@x.org", "U+202E"),
            ("ann\u{fe0f}@x.org", "U+FE0F"),
            ("\u{feff}ann@x.org", "U+FEFF"),
            ("an\u{fffd}n@x.org", "U+FFFD"),
            ("\u{e000}@x.org", "U+E000"),
            ("\u{301}a@x.org", "accent"),
            (&too_long, "64 bytes"),
            (&wide, "64 bytes"),
            (&long, "254 bytes"),
            (&"x".repeat(5000), "too long"),
        ] {
            let fault = EmailAddress::parse(text).expect_err(text).to_string();
            assert!(fault.contains(part), "{text:?}: {fault}");
        }
    }

    #[test]
    fn every_letter_comes_to_rest() {
        for c in (0..0x2_0000).filter_map(char::from_u32) {
            if let Ok(address) = EmailAddress::parse(&format!("a{c}b@x{c}y.org")) {
                assert_eq!(EmailAddress::parse(&address.to_string()), Ok(address.clone()), "{c:?}");
                assert_eq!(EmailAddress::parse(&address.shown()), Ok(address), "{c:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn reading_comes_to_rest(
            local in "[\\p{L}\\p{M}\\p{N}.+!Iİıß-]{1,12}|\\PC{1,12}",
            domain in "[\\p{L}\\p{M}\\p{N}.-]{1,12}|xn--[a-z0-9-]{1,12}|\\PC{1,12}",
        ) {
            if let Ok(address) = EmailAddress::parse(&format!("{local}@{domain}")) {
                prop_assert_eq!(EmailAddress::parse(&address.to_string()), Ok(address.clone()));
                prop_assert_eq!(EmailAddress::parse(&address.shown()), Ok(address.clone()));
                prop_assert!(address.domain().is_ascii());
            }
        }
    }
}
