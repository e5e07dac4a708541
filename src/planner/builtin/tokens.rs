//! Cutting a request into tokens, the same way for every script.
//!
//! Words are cut at spaces and punctuation, but names, images, labels and quantities stay whole (`ghcr.io/acme/api:v1`,
//! `app=web`, `-3`, `25%`). Scripts without spaces give one token a character; the lexicon puts them together again.

use std::collections::HashMap;
use unicode_normalization::UnicodeNormalization;

/// How far a closing quote is looked for, in characters.
const LONGEST_QUOTE: usize = 256;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// A word, a name, a number.
    Word,
    /// Something in quotes: meant literally.
    Quoted,
    /// A comma.
    Comma,
    /// Something that ends a clause.
    Stop,
}

/// A piece of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// As it was written (NFKC).
    pub text: String,
    /// For comparison: lower case, apostrophes made one.
    pub norm: String,
    /// What it is.
    pub mark: Mark,
}

/// Cuts a request into tokens.
pub(super) fn tokenize(request: &str) -> Vec<Token> {
    let chars: Vec<char> = request.nfkc().collect();
    let inner = unwrap_quotes(&chars);
    let mut scanner = Scanner { chars: inner, at: 0, tokens: Vec::new(), last: HashMap::new() };
    scanner.run();
    scanner.tokens
}

/// The form in which words are compared.
pub(super) fn normalize(text: &str) -> String {
    text.nfkc().flat_map(char::to_lowercase).map(plain_sign).collect()
}

fn plain_sign(c: char) -> char {
    match c {
        '\u{2019}' | '\u{2018}' | '\u{02bc}' => '\'',
        '\u{2212}' | '\u{2010}' | '\u{2011}' => '-',
        other => other,
    }
}

fn closing_quote(open: char) -> Option<char> {
    Some(match open {
        '"' => '"',
        '\'' => '\'',
        '`' => '`',
        '\u{201c}' | '\u{201d}' => '\u{201d}',
        '\u{201e}' => '\u{201c}',
        '\u{2018}' => '\u{2019}',
        '«' => '»',
        '「' => '」',
        '『' => '』',
        _ => return None,
    })
}

/// A request that is quoted as a whole means what stands between the quotes.
fn unwrap_quotes(chars: &[char]) -> &[char] {
    let trimmed = chars.trim_whitespace();
    if let [open, inner @ .., last] = trimmed
        && closing_quote(*open) == Some(*last)
        && !inner.contains(last)
        && inner.iter().any(|c| c.is_whitespace())
    {
        return inner;
    }
    chars
}

trait TrimSpaces {
    fn trim_whitespace(&self) -> &Self;
}

impl TrimSpaces for [char] {
    fn trim_whitespace(&self) -> &Self {
        let start = self.iter().position(|c| !c.is_whitespace()).unwrap_or(self.len());
        let end = self.iter().rposition(|c| !c.is_whitespace()).map_or(start, |last| last + 1);
        &self[start..end]
    }
}

/// Whether the script of `c` is written without spaces between words.
const fn is_spaceless(c: char) -> bool {
    matches!(c, '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{2fa1f}')
}

const fn is_bracket(c: char) -> bool {
    matches!(c, '(' | ')' | '[' | ']' | '{' | '}' | '（' | '）' | '【' | '】' | '《' | '》')
}

/// Punctuation that separates wherever it stands.
const fn separator(c: char) -> Option<Mark> {
    match c {
        '、' | '،' => Some(Mark::Comma),
        ';' | '؛' | '。' | '؟' | '।' => Some(Mark::Stop),
        _ => None,
    }
}

struct Scanner<'a> {
    chars: &'a [char],
    at: usize,
    tokens: Vec<Token>,
    /// Where each kind of closing quote stands last, so that quotes that never close cost nothing.
    last: HashMap<char, Option<usize>>,
}

impl Scanner<'_> {
    fn run(&mut self) {
        while let Some(&c) = self.chars.get(self.at) {
            if c.is_whitespace() || c.is_control() || is_bracket(c) {
                self.at += 1;
            } else if let Some(end) = self.quote_end(self.at) {
                let text: String = self.chars[self.at + 1..end].iter().collect();
                self.push(text, Mark::Quoted);
                self.at = end + 1;
            } else if let Some(mark) = separator(c) {
                self.push(c.to_string(), mark);
                self.at += 1;
            } else if c == ',' {
                self.push(c.to_string(), Mark::Comma);
                self.at += 1;
            } else if is_spaceless(c) {
                self.push(c.to_string(), Mark::Word);
                self.at += 1;
            } else {
                self.word();
            }
        }
    }

    fn push(&mut self, text: String, mark: Mark) {
        let norm = normalize(&text);
        self.tokens.push(Token { text, norm, mark });
    }

    /// Where the quote that opens at `open` closes, if one opens there and holds something.
    fn quote_end(&mut self, open: usize) -> Option<usize> {
        let close = closing_quote(*self.chars.get(open)?)?;
        let chars = self.chars;
        let last = *self.last.entry(close).or_insert_with(|| chars.iter().rposition(|c| *c == close));
        if last.is_none_or(|last| last <= open) {
            return None;
        }
        let limit = self.chars.len().min(open + LONGEST_QUOTE);
        let end = (open + 1..limit).find(|&i| {
            self.chars[i] == close && !self.chars.get(i + 1).is_some_and(|next| close == '\'' && next.is_alphanumeric())
        })?;
        self.chars[open + 1..end].iter().any(|c| !c.is_whitespace()).then_some(end)
    }

    fn word(&mut self) {
        let mut text = String::new();
        while let Some(&c) = self.chars.get(self.at) {
            let ends = c.is_whitespace()
                || c.is_control()
                || is_bracket(c)
                || is_spaceless(c)
                || separator(c).is_some()
                || (closing_quote(c).is_some() && c != '\'' && !text.is_empty())
                || (c == ',' && !self.comma_belongs(&text));
            if ends {
                break;
            }
            text.push(plain_sign(c));
            self.at += 1;
            if c == '='
                && let Some(end) = self.quote_end(self.at)
            {
                text.extend(&self.chars[self.at + 1..end]);
                self.at = end + 1;
            }
        }
        if text.is_empty() {
            self.at += 1;
            return;
        }
        let kept = text.trim_end_matches(['.', '!', '?', ':', '\'', '"', '`']).len();
        let stops = text[kept..].contains(['.', '!', '?']);
        text.truncate(kept);
        if !text.is_empty() {
            self.push(text, Mark::Word);
        }
        if stops {
            self.push(".".to_owned(), Mark::Stop);
        }
    }

    /// Whether the comma at hand is part of the word: within a label selector or a number.
    fn comma_belongs(&self, text: &str) -> bool {
        let rest = &self.chars[self.at + 1..];
        let thousands = !text.is_empty()
            && text.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '-')
            && rest.iter().take_while(|c| c.is_ascii_digit()).take(4).count() == 3;
        thousands || (text.contains('=') && rest.first().is_some_and(|c| c.is_alphanumeric()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(request: &str) -> Vec<String> {
        tokenize(request).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn names_images_labels_and_numbers_stay_whole() {
        assert_eq!(words("run ghcr.io/acme/api:v1.2, please."), ["run", "ghcr.io/acme/api:v1.2", ",", "please", "."]);
        assert_eq!(words("app=web,tier!=cache 1,000 -3 25%"), ["app=web,tier!=cache", "1,000", "-3", "25%"]);
        assert_eq!(words("checkout, payments;orders"), ["checkout", ",", "payments", ";", "orders"]);
    }

    #[test]
    fn quotes_of_every_script_hold_literals() {
        for request in ["scale \"web app\"", "scale 'web app'", "scale `web app`", "scale “web app”", "scale «web app»"]
        {
            let tokens = tokenize(request);
            assert_eq!((tokens[1].text.as_str(), tokens[1].mark), ("web app", Mark::Quoted), "{request}");
        }
        assert_eq!(words("don’t scale checkout's"), ["don't", "scale", "checkout's"]);
        assert_eq!(words("motd=\"hello world\" x"), ["motd=hello world", "x"]);
        assert_eq!(words("\"scale checkout to 5\""), ["scale", "checkout", "to", "5"]);
    }

    #[test]
    fn scripts_without_spaces_give_characters_and_keep_names() {
        assert_eq!(words("将checkout扩展到5个。"), ["将", "checkout", "扩", "展", "到", "5", "个", "。"]);
        assert_eq!(words("ｃｈｅｃｋｏｕｔを５に"), ["checkout", "を", "5", "に"]);
    }
}
