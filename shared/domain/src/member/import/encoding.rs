//! Decodes the bytes of a file.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// How many bytes are examined for UTF-16 without a byte-order mark.
const LOOKED_AT: usize = 400;

/// Decodes a file, or says why it cannot. A byte-order mark decides the encoding. Without one,
/// `charset` decides (a label of the
/// [Encoding Standard](https://encoding.spec.whatwg.org/#names-and-labels), as in
/// `text/csv; charset=windows-1252`). Otherwise the file is UTF-16 if it looks like that, and UTF-8
/// if not.
pub(super) fn decoded<'a>(file: &'a [u8], charset: Option<&str>) -> Result<Cow<'a, str>, String> {
    let (encoding, bytes) = match Encoding::for_bom(file) {
        Some((encoding, length)) => (encoding, &file[length..]),
        None => (named(charset)?.or_else(|| looks_like_utf_16(file)).unwrap_or(UTF_8), file),
    };
    match encoding.decode_without_bom_handling_and_without_replacement(bytes) {
        Some(text) if text.contains('\0') => {
            let line = line_at(&text, text.find('\0').unwrap_or_default());
            Err(format!("line {line} contains the character U+0000; is this a text file?"))
        }
        Some(text) => Ok(text),
        None if encoding == UTF_8 => {
            let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            let line = line_at(valid, valid.len());
            Err(format!(
                "line {line} is not UTF-8: save the file as UTF-8, or say how it is encoded, such as \
                 text/csv; charset=windows-1252"
            ))
        }
        None => Err(format!("the file is not {}: save it as UTF-8", encoding.name())),
    }
}

fn named(charset: Option<&str>) -> Result<Option<&'static Encoding>, String> {
    let Some(label) = charset else { return Ok(None) };
    let known = Encoding::for_label(label.trim().as_bytes());
    known.map(Some).ok_or_else(|| format!("there is no charset {label:?}; save the file as UTF-8"))
}

/// The text of tables is mostly ASCII. So in UTF-16, one byte of each two is zero.
fn looks_like_utf_16(file: &[u8]) -> Option<&'static Encoding> {
    let pairs = || file.chunks_exact(2).take(LOOKED_AT / 2);
    let most = |count: usize| count * 4 >= pairs().len() * 3 && count > 0;
    if most(pairs().filter(|pair| pair[0] != 0 && pair[1] == 0).count()) {
        Some(UTF_16LE)
    } else if most(pairs().filter(|pair| pair[0] == 0 && pair[1] != 0).count()) {
        Some(UTF_16BE)
    } else {
        None
    }
}

/// The line of the byte at `offset`, from 1.
fn line_at(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset];
    let ends = before.iter().enumerate().filter(|(at, byte)| match byte {
        b'\n' => true,
        b'\r' => before.get(at + 1) != Some(&b'\n'),
        _ => false,
    });
    1 + ends.count()
}
