//! Points at which tests stop the operator, by its environment. Nothing else sets these variables.

use super::journal::Action;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

/// How often a paused operator looks whether it may go on.
const LOOK: Duration = Duration::from_millis(20);

/// `COUNTERSIGN_CRASH_AT` names a point (`before-` or `after-`, and `preparation`, `mutation` or `undo`) at which the operator
/// dies at once, the way it does when its machine does; `after-mutation:b` does so at step b alone.
pub(super) fn crash_point(when: &str, action: &Action) {
    static POINT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("COUNTERSIGN_CRASH_AT").ok());
    let Some(point) = POINT.as_deref() else { return };
    let (point, step) = point.split_once(':').map_or((point, None), |(point, step)| (point, Some(step)));
    if is_at(point, when, action) && step.is_none_or(|step| step == action.step()) {
        std::process::abort();
    }
}

/// `COUNTERSIGN_PAUSE_AT=POINT,POINT=FOLDER` has each step wait at those points (`before-mutation`, `before-undo`): it makes a
/// file `PLAN-UID.STEP.POINT.waits` in the folder and goes on once there is one that ends in `goes`. So a test can do what a
/// second writer does, at exactly that moment.
pub(super) async fn pause_point(when: &str, action: &Action, plan_uid: &str) {
    static POINTS: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("COUNTERSIGN_PAUSE_AT").ok());
    let Some((points, folder)) = POINTS.as_deref().and_then(|points| points.split_once('=')) else { return };
    let Some(point) = points.split(',').find(|point| is_at(point, when, action)) else { return };
    let file = |word: &str| Path::new(folder).join(format!("{plan_uid}.{}.{point}.{word}", action.step()));
    if let Err(error) = std::fs::write(file("waits"), "") {
        tracing::warn!(%error, folder, "cannot say that a step waits, so it does not");
        return;
    }
    while !file("goes").exists() {
        tokio::time::sleep(LOOK).await;
    }
}

fn is_at(point: &str, when: &str, action: &Action) -> bool {
    let what = match action {
        Action::Prepare(_) => "preparation",
        Action::Mutate { .. } => "mutation",
        Action::Undo(_) => "undo",
        _ => return false,
    };
    point.split_once('-') == Some((when, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_name_the_moment_and_what_is_done() {
        let mutate = Action::Mutate { step: "s1".into(), recovering: false };
        assert!(is_at("before-mutation", "before", &mutate));
        assert!(!is_at("before-mutation", "after", &mutate) && !is_at("before-undo", "before", &mutate));
        assert!(is_at("after-undo", "after", &Action::Undo("s1".into())));
        assert!(is_at("after-preparation", "after", &Action::Prepare("s1".into())));
        assert!(!is_at("before-mutation", "before", &Action::Verify("s1".into())));
    }
}
