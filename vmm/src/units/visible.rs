//! Text from a host is data: what it holds must not act on a terminal.

use std::borrow::Cow;

/// `text` with escapes in place of what a terminal would act on: control characters but for line
/// ends and tabs, and marks that change the direction of text (Unicode, section 9.9 of annex 9).
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter {
            letter if !acts(letter) => escaped.push(letter),
            letter if letter.is_ascii() => escaped += &format!("\\x{:02x}", u32::from(letter)),
            letter => escaped += &format!("\\u{{{:x}}}", u32::from(letter)),
        }
    }
    Cow::Owned(escaped)
}

/// The same, for text that berth itself has coloured: `styles` are the sequences that it uses.
pub fn visible_but_for<'a>(text: &'a str, styles: &[&str]) -> Cow<'a, str> {
    if !text.contains('\x1b') {
        return visible(text);
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        kept += &visible(&rest[..at]);
        rest = &rest[at..];
        let own = styles.iter().find(|style| rest.starts_with(**style)).copied();
        let (taken, shown) = match own {
            Some(style) => (style.len(), Cow::Borrowed(style)),
            None => (1, visible("\x1b")),
        };
        kept += &shown;
        rest = &rest[taken..];
    }
    kept += &visible(rest);
    Cow::Owned(kept)
}

fn acts(letter: char) -> bool {
    let directs = matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (letter.is_control() && !matches!(letter, '\n' | '\t')) || directs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        for (text, expected) in [
            ("plain\ttext\nof two lines", "plain\ttext\nof two lines"),
            ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
            ("a\rb\0", "a\\x0db\\x00"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("Größe", "Größe"),
        ] {
            assert_eq!(visible(text), expected);
        }
    }

    #[test]
    fn own_styles_stay_and_others_do_not() {
        let text = "\x1b[1mbold\x1b[0m \x1b[2Jnot";
        let shown = visible_but_for(text, &["\x1b[1m", "\x1b[0m"]);
        assert_eq!(shown, "\x1b[1mbold\x1b[0m \\x1b[2Jnot");
    }
}
