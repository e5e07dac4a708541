//! Text for a terminal: wrapped, aligned, coloured or plain, and safe to print.
//!
//! Requests, titles, values and reasons come from people, models and the cluster. Characters in them that would move
//! the cursor, change colours or reorder what is read are shown as escapes, so that nobody approves what they did not see.

use crate::api::is_deceptive;
use anstyle::{AnsiColor, Style as Ansi};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How a page looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether to colour.
    pub color: bool,
    /// Columns of the terminal.
    pub width: usize,
}

/// What a piece of text is, which decides its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Text.
    #[default]
    Plain,
    /// A heading.
    Strong,
    /// A label, or a remark.
    Faint,
    /// Something new; something good.
    Added,
    /// Something that goes; something bad.
    Removed,
    /// Something changed; something to bear in mind.
    Changed,
    /// Something that cannot be missed.
    Alarm,
}

impl Tone {
    fn ansi(self) -> Ansi {
        let color = |color: AnsiColor| Ansi::new().fg_color(Some(color.into()));
        match self {
            Self::Plain => Ansi::new(),
            Self::Strong => Ansi::new().bold(),
            Self::Faint => Ansi::new().dimmed(),
            Self::Added => color(AnsiColor::Green),
            Self::Removed => color(AnsiColor::Red),
            Self::Changed => color(AnsiColor::Yellow),
            Self::Alarm => color(AnsiColor::Red).bold().invert(),
        }
    }
}

/// A piece of text in one tone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    text: String,
    tone: Tone,
}

/// A piece of text on one line; `text` may be hostile.
pub fn span(tone: Tone, text: impl AsRef<str>) -> Span {
    Span { text: printable(text.as_ref()), tone }
}

/// Plain text on one line; `text` may be hostile.
pub fn plain(text: impl AsRef<str>) -> Span {
    span(Tone::Plain, text)
}

/// Text that grows line by line.
#[derive(Clone, Debug)]
pub struct Page {
    style: Style,
    text: String,
}

impl Page {
    /// An empty page.
    #[must_use]
    pub const fn new(style: Style) -> Self {
        Self { style, text: String::new() }
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    /// An empty line, unless the page is empty or just had one.
    pub fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A paragraph, broken at spaces where it reaches the width: the first line at column `indent`, the others at
    /// `hang`.
    pub fn paragraph(&mut self, indent: usize, hang: usize, spans: &[Span]) {
        let letters: Vec<(char, Tone)> =
            spans.iter().flat_map(|span| span.text.chars().map(|letter| (letter, span.tone))).collect();
        let mut column = indent;
        let mut rest = letters.as_slice();
        loop {
            let room = self.style.width.saturating_sub(column).max(20);
            let (line, tail) = break_line(rest, room);
            self.write_line(column, line);
            column = hang;
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
    }

    /// A line that is never broken: for text to copy.
    pub fn verbatim(&mut self, indent: usize, text: &str) {
        for line in text.lines() {
            let letters: Vec<_> = printable(line).chars().map(|letter| (letter, Tone::Plain)).collect();
            self.write_line(indent, &letters);
        }
    }

    /// A row of the label-and-text form: the text starts, and goes on, at column `at`.
    pub fn field(&mut self, label: &str, at: usize, spans: &[Span]) {
        let mut row = vec![span(Tone::Faint, format!("{label:<at$}"))];
        row.extend_from_slice(spans);
        self.paragraph(0, at, &row);
    }

    /// Columns as wide as their widest cell, the way kubectl prints tables; the last one is never padded.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<Span>]) {
        let widths: Vec<usize> = header
            .iter()
            .enumerate()
            .map(|(column, title)| {
                let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.width());
                cells.max().unwrap_or(0).max(title.width())
            })
            .collect();
        let titles: Vec<_> = header.iter().map(|title| span(Tone::Faint, title)).collect();
        for row in std::iter::once(&titles).chain(rows) {
            let mut letters = Vec::new();
            for (column, cell) in row.iter().enumerate() {
                letters.extend(cell.text.chars().map(|letter| (letter, cell.tone)));
                if column + 1 < row.len() {
                    let padding = widths.get(column).copied().unwrap_or(0).saturating_sub(cell.text.width()) + 3;
                    letters.extend(std::iter::repeat_n((' ', Tone::Plain), padding));
                }
            }
            self.write_line(0, &letters);
        }
    }

    fn write_line(&mut self, indent: usize, letters: &[(char, Tone)]) {
        let end = letters.iter().rposition(|(letter, _)| *letter != ' ').map_or(0, |last| last + 1);
        let letters = &letters[..end];
        if !letters.is_empty() {
            self.text.extend(std::iter::repeat_n(' ', indent));
        }
        for run in letters.chunk_by(|a, b| a.1 == b.1) {
            let text: String = run.iter().map(|(letter, _)| letter).collect();
            let tone = run[0].1;
            if self.style.color && tone != Tone::Plain {
                let ansi = tone.ansi();
                self.text.push_str(&format!("{ansi}{text}{ansi:#}"));
            } else {
                self.text.push_str(&text);
            }
        }
        self.text.push('\n');
    }
}

type Letters<'l> = &'l [(char, Tone)];

/// As much as fits into `room` columns, and the rest.
fn break_line(letters: Letters<'_>, room: usize) -> (Letters<'_>, Letters<'_>) {
    let mut width = 0;
    let mut last_space = None;
    for (at, (letter, _)) in letters.iter().enumerate() {
        width += letter.width().unwrap_or(0);
        if width > room && *letter != ' ' {
            let cut = last_space.unwrap_or(at.max(1));
            let rest = &letters[cut..];
            let skip = rest.iter().take_while(|(letter, _)| *letter == ' ').count();
            return (&letters[..cut], &rest[skip..]);
        }
        let leading = letters[..at].iter().all(|(letter, _)| *letter == ' ');
        if *letter == ' ' && !leading {
            last_space = Some(at);
        }
    }
    (letters, &[])
}

/// `text` on one line: tabs as spaces, line breaks as `⏎`, everything else that is invisible or active as an escape.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => out.push('⏎'),
            '\t' => out.push_str("    "),
            '\r' => out.push_str("\\r"),
            _ if letter.is_control() || is_deceptive(letter) => out.extend(letter.escape_unicode()),
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(width: usize, write: impl FnOnce(&mut Page)) -> String {
        let mut page = Page::new(Style { color: false, width });
        write(&mut page);
        page.finish()
    }

    #[test]
    fn paragraphs_hang_under_their_text() {
        let text = page(30, |page| {
            page.field("Request", 10, &[plain("scale checkout to five replicas in the staging namespace")]);
        });
        insta::assert_snapshot!(text, @r#"
        Request   scale checkout to
                  five replicas in the
                  staging namespace
        "#);
    }

    #[test]
    fn a_word_longer_than_the_line_is_cut() {
        let text = page(25, |page| page.paragraph(0, 2, &[plain(format!("digest {}", "0123456789".repeat(4)))]));
        insta::assert_snapshot!(text, @r#"
        digest
          01234567890123456789012
          34567890123456789
        "#);
    }

    #[test]
    fn what_would_move_the_cursor_or_reorder_is_shown() {
        let hostile = "scale\u{1b}[2K\u{1b}[1A to 5\r to 0 \u{202e}gnigats\u{200b}\u{9b}31m";
        insta::assert_snapshot!(printable(hostile), @r#"scale\u{1b}[2K\u{1b}[1A to 5\r to 0 \u{202e}gnigats\u{200b}\u{9b}31m"#);
    }

    #[test]
    fn colours_begin_and_end_around_their_text() {
        let mut page = Page::new(Style { color: true, width: 80 });
        page.paragraph(0, 0, &[span(Tone::Removed, "- a"), plain(" b "), span(Tone::Added, "+ c")]);
        insta::assert_snapshot!(page.finish().escape_debug(), @r#"\u{1b}[31m- a\u{1b}[0m b \u{1b}[32m+ c\u{1b}[0m\n"#);
    }

    #[test]
    fn tables_are_padded_by_what_is_seen() {
        let text = page(80, |page| {
            page.table(
                &["NAME", "BY", "SUMMARY"],
                &[
                    vec![plain("a"), plain("渡辺"), plain("first")],
                    vec![plain("long-name"), plain("bob"), plain("second")],
                ],
            );
        });
        insta::assert_snapshot!(text, @r#"
        NAME        BY     SUMMARY
        a           渡辺   first
        long-name   bob    second
        "#);
    }

    proptest! {
        #[test]
        fn lines_keep_to_the_width_and_lose_nothing(text in "[a-z é漢]{0,200}", width in 30_usize..100) {
            let page = page(width, |page| page.paragraph(2, 4, &[plain(&text)]));
            for line in page.lines() {
                prop_assert!(line.width() <= width, "{line:?}");
            }
            let letters = |text: &str| text.chars().filter(|letter| !letter.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&page), letters(&text));
        }

        #[test]
        fn nothing_printed_is_active(text in any::<String>()) {
            let shown = printable(&text);
            prop_assert!(!shown.chars().any(|letter| letter.is_control() || is_deceptive(letter)));
        }
    }
}
