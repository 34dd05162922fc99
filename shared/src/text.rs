//! Texts that others wrote.

/// The text itself if it has at most `most` bytes; otherwise as much of it as fits with an ellipsis at its end.
#[must_use]
pub fn shortened(mut text: String, most: usize) -> String {
    const ELLIPSIS: char = '…';
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most.saturating_sub(ELLIPSIS.len_utf8())));
        text.push(ELLIPSIS);
    }
    text
}

/// An error with its causes, the outermost first.
#[must_use]
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn only_what_is_too_long_is_shortened_and_no_character_is_broken() {
        for (text, most, short) in
            [("", 0, ""), ("abc", 3, "abc"), ("abcdef", 5, "ab…"), ("ééé", 5, "é…"), ("ééé", 6, "ééé")]
        {
            assert_eq!(shortened(text.to_owned(), most), short);
        }
    }
}
