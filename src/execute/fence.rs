use std::fmt;
use std::sync::Arc;

/// Whether this process may still write. Asked right before every write: a replica that lost the lead, or was frozen and
/// wakes up, must not touch what another one carries out by now.
#[derive(Clone)]
pub struct Fence {
    holds: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Fence {
    /// A fence that asks `holds`.
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { holds: Arc::new(holds) }
    }

    /// Whether writing is allowed now.
    #[must_use]
    pub fn holds(&self) -> bool {
        (self.holds)()
    }

    /// Returns only where writing is allowed. A process that lost the lead is about to end, so nothing is reported: not
    /// even a failure, which the journal would act upon.
    pub(super) async fn pass(&self) {
        if !self.holds() {
            tracing::warn!("no longer leading: nothing more is written");
            std::future::pending::<()>().await;
        }
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").field("holds", &self.holds()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn nothing_passes_a_fence_that_does_not_hold() {
        assert_eq!(Fence::new(|| true).pass().now_or_never(), Some(()));
        assert_eq!(Fence::new(|| false).pass().now_or_never(), None);
    }
}
