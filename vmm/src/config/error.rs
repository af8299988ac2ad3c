//! Why a config file describes no machine.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::error::Category;

/// Why a config file describes no machine.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is not JSON, or not one of ours.
    #[error("{path}:{line}:{column}: {field}{message}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1; where reading stopped, so at or just after the value.
        column: usize,
        /// `FIELD: `, or empty when the text as a whole is wrong.
        field: String,
        /// What was found and what was expected.
        message: String,
        /// What to do, where the message does not say what was expected.
        help: Option<&'static str>,
    },
}

impl ConfigError {
    /// `field` is serde_path_to_error's path, `.` for the whole text.
    pub(super) fn invalid(path: &Path, field: &str, error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        // serde_json's text ends with its position, which ours already starts with.
        let position = format!(" at line {line} column {column}");
        let message = text.strip_suffix(&position).unwrap_or(&text).to_owned();
        let help = match error.classify() {
            Category::Eof => Some("the text ends too early: close what is open"),
            Category::Syntax => Some(
                "this is not JSON, which has names in double quotes, no comma after a last member, no comments",
            ),
            Category::Data if message.starts_with("missing field") => Some("add the field"),
            Category::Data | Category::Io => None,
        };
        Self::Invalid {
            path: path.to_owned(),
            line,
            column,
            field: if field == "." || error.is_syntax() || error.is_eof() {
                String::new()
            } else {
                format!("{field}: ")
            },
            message,
            help,
        }
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Read { .. } => {
                Some("name a machine's config file that berth may read".to_owned())
            }
            Self::Invalid { help, .. } => help.map(str::to_owned),
        }
    }
}
