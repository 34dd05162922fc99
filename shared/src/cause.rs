//! The source of an error, kept with the error. [`domain::text::with_causes`] prints an error with
//! all its sources.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use domain::text::with_causes;

/// The source of an error that several tasks get. Cheap to clone. Two causes are equal if they
/// print the same text.
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Wraps an error, or a sentence if there is no error.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into().into())
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        with_causes(self) == with_causes(other)
    }
}

impl Eq for Cause {}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the file")]
    struct NotOpened(#[source] Cause);

    #[test]
    fn an_error_keeps_what_lies_behind_it() {
        let refused = || Cause::new(io::Error::new(io::ErrorKind::PermissionDenied, "denied"));
        let error = NotOpened(refused());
        assert_eq!(error.to_string(), "open the file");
        assert_eq!(with_causes(&error), "open the file: denied");
        assert_eq!(refused(), Cause::new("denied"));
        assert_ne!(refused(), Cause::new("full"));
    }
}
