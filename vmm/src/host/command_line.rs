//! The kernel's command line, word by word.

use std::fmt;

use serde::{Serialize, Serializer};

use super::HostError;
use super::root::Root;

/// The kernel's parameters in their order, without what stands behind `--`, which is for init.
///
/// White space between double quotes is part of a word (kernel, lib/cmdline.c).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<String>,
    is_seen: bool,
}

impl CommandLine {
    /// Of the running kernel.
    pub(super) fn read(root: &Root) -> Result<Self, HostError> {
        let text = root.text("/proc/cmdline")?;
        Ok(text.map(|text| Self::from(text.as_str())).unwrap_or_default())
    }

    /// Whether it could be seen. Where not, it has no words, and none is known to be absent.
    pub fn is_seen(&self) -> bool {
        self.is_seen
    }

    /// Its words, such as `quiet` and `intel_iommu=on`.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    /// The first word that `wanted` picks.
    pub fn find(&self, wanted: impl Fn(&str) -> bool) -> Option<&str> {
        self.words().find(|word| wanted(word))
    }

    /// The first of `words` that stands there.
    pub fn first_of(&self, words: &[&str]) -> Option<&str> {
        self.find(|word| words.contains(&word))
    }
}

impl From<&str> for CommandLine {
    fn from(text: &str) -> Self {
        let mut words = vec![String::new()];
        let mut is_quoted = false;
        for letter in text.chars() {
            is_quoted ^= letter == '"';
            match words.last_mut() {
                Some(word) if is_quoted || !letter.is_whitespace() => word.push(letter),
                _ => words.push(String::new()),
            }
        }
        let words = words.into_iter().filter(|word| !word.is_empty()).take_while(|w| w != "--");
        Self { words: words.collect(), is_seen: true }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

impl Serialize for CommandLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_seen { serializer.collect_str(self) } else { serializer.serialize_none() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_a_word_together_and_init_has_its_own() {
        let line = CommandLine::from("quiet dyn=\"a b\"  intel_iommu=on -- iommu=off\n");
        assert_eq!(line.words().collect::<Vec<_>>(), ["quiet", "dyn=\"a b\"", "intel_iommu=on"]);
        assert_eq!(line.first_of(&["intel_iommu=off", "intel_iommu=on"]), Some("intel_iommu=on"));
        assert_eq!(line.find(|word| word.starts_with("iommu")), None);
    }
}
