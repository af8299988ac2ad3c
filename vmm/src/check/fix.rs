//! What berth does about findings at run time, when asked to: all of it can be undone.

use crate::advice::{Code, Fix, Steps};
use crate::binding::{self, BindOptions, BindingError, ModuleError, Target};

/// Why a remedy did not work.
#[derive(Debug, thiserror::Error)]
pub enum FixError {
    /// A module does not load.
    #[error("the module {module} does not load")]
    Module {
        /// The module.
        module: &'static str,
        /// Why.
        source: ModuleError,
    },
    /// A driver or a pool of pages does not change.
    #[error(transparent)]
    Binding(#[from] BindingError),
}

impl FixError {
    /// As scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Module { .. } => Code::ModuleRefused,
            Self::Binding(error) => error.code(),
        }
    }

    /// What to do about it; a binding has its own.
    pub fn help(&self) -> Steps {
        match self {
            Self::Module { .. } => vec!["as root; `dmesg` may say more".to_owned()],
            Self::Binding(_) => Steps::new(),
        }
    }
}

impl Fix {
    /// Does it on this host; says how to undo it.
    ///
    /// # Errors
    /// The system refuses, or does it in part; what was done in part is undone.
    pub fn apply(&self) -> Result<String, FixError> {
        match self {
            Self::LoadModule { module } => {
                binding::load_module(module)
                    .map_err(|source| FixError::Module { module, source })?;
                Ok(format!("modprobe -r {module}"))
            }
            Self::ReservePages { node, size, pages } => {
                binding::reserve(&Target::live(), *node, *size, *pages)?;
                Ok("berth restore".to_owned())
            }
            Self::Bind { device } => {
                binding::bind(&Target::live(), &[*device], BindOptions::default())?;
                Ok(format!("berth unbind {device}"))
            }
        }
    }
}
