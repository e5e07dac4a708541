//! How long the texts may be that share one object with everything else, and how much room they take there.

use std::borrow::Cow;

/// The longest message of one step in the journal, in bytes as stored.
pub const MAX_STEP_MESSAGE: usize = 2_000;
/// The longest message of a plan as a whole, which its conditions repeat, in bytes as stored.
pub const MAX_PLAN_MESSAGE: usize = 2_000;

/// Whole seconds as people write a duration: `90m` as `1h30m`. Empty for none.
#[must_use]
pub fn hours_minutes_seconds(seconds: u64) -> String {
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

/// How many bytes the API server stores for a text, its quotes not counted.
///
/// Go's JSON encoder escapes the characters that mean something in HTML, too.
#[must_use]
pub fn stored_bytes(text: &str) -> usize {
    text.chars().map(stored_char).sum()
}

fn stored_char(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => 6,
        c if (c as u32) < 0x20 => 6,
        c => c.len_utf8(),
    }
}

/// Marks that reorder text (Unicode bidirectional controls), or that hide within it.
#[must_use]
pub const fn is_deceptive(letter: char) -> bool {
    matches!(
        letter,
        '\u{061C}'
            | '\u{200B}'
            | '\u{200E}'
            | '\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

/// The text as it is if it takes at most `bytes` bytes as stored; otherwise its beginning, cut where a character ends,
/// and `…`.
#[must_use]
pub fn shortened(text: &str, bytes: usize) -> Cow<'_, str> {
    if stored_bytes(text) <= bytes {
        return Cow::Borrowed(text);
    }
    let room = bytes.saturating_sub('…'.len_utf8());
    let mut taken = 0;
    let end = text.char_indices().find(|(_, c)| {
        taken += stored_char(*c);
        taken > room
    });
    let end = end.map_or(text.len(), |(at, _)| at);
    Cow::Owned(format!("{}…", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_shortened_text_fits_and_is_a_beginning(text in "\\PC{0,200}|[\u{0}-\u{1f}<&\"ä]{0,200}", bytes in 3_usize..300) {
            let short = shortened(&text, bytes);
            prop_assert!(stored_bytes(&short) <= bytes);
            let kept = short.strip_suffix('…').unwrap_or(&short);
            prop_assert!(text.starts_with(kept));
            prop_assert_eq!(stored_bytes(&text) <= bytes, short == text);
        }
    }

    #[test]
    fn room_is_counted_as_it_is_stored() {
        assert_eq!(stored_bytes("a\"b"), 4);
        assert_eq!(stored_bytes("a<b"), "a\\u003cb".len());
        assert_eq!(stored_bytes("\u{7}"), "\\u0007".len());
        assert_eq!(shortened("überlang", 6), "üb…");
    }
}
