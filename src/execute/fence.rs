use std::fmt;
use std::sync::Arc;

/// How often a closed fence is looked at again.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

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

    /// Returns only where writing is allowed. A process that lost the lead ends while it waits here, so nothing is
    /// reported: not even a failure, which the journal would act upon. One that was only late to renew, and found that
    /// nobody else had led meanwhile, goes on.
    pub(super) async fn pass(&self) {
        if self.holds() {
            return;
        }
        tracing::warn!("not sure to lead: nothing is written until the lease is renewed");
        while !self.holds() {
            tokio::time::sleep(LOOK_AGAIN).await;
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
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn nothing_passes_a_fence_that_does_not_hold() {
        assert_eq!(Fence::new(|| true).pass().now_or_never(), Some(()));
        assert_eq!(Fence::new(|| false).pass().now_or_never(), None);
    }

    #[tokio::test]
    async fn whoever_leads_again_goes_on() {
        let leads = Arc::new(AtomicBool::new(false));
        let fence = Fence::new({
            let leads = Arc::clone(&leads);
            move || leads.load(Ordering::Relaxed)
        });
        let waits = tokio::spawn(async move { fence.pass().await });
        leads.store(true, Ordering::Relaxed);
        waits.await.unwrap();
    }
}
