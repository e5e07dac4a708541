//! Kubernetes Events: what people see in `kubectl describe` and `kubectl events`.

use super::context::Context;
use kube::Resource;
use kube::runtime::events::{Event, EventType};
use tokio::sync::Semaphore;

/// The longest note that the API server takes (1 kB).
const MAX_NOTE: usize = 1000;

/// How many events are published at the same time: the work itself goes first.
static LINES: Semaphore = Semaphore::const_new(8);

/// Publishes an event on an object, beside the work, which it must never hold up. One that cannot be published is logged.
pub(super) fn notice<K: Resource<DynamicType = ()>>(
    context: &Context,
    object: &K,
    warning: bool,
    reason: &str,
    action: &str,
    note: &str,
) {
    let event = Event {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: reason.to_owned(),
        note: Some(shortened(note)),
        action: action.to_owned(),
        secondary: None,
    };
    let (recorder, reference) = (context.recorder.clone(), object.object_ref(&()));
    context.tasks.spawn(async move {
        let _line = LINES.acquire().await;
        if let Err(error) = recorder.publish(&event, &reference).await {
            tracing::warn!(%error, reason = event.reason, "event not published");
        }
    });
}

fn shortened(note: &str) -> String {
    if note.len() <= MAX_NOTE {
        return note.to_owned();
    }
    let end = (0..=MAX_NOTE - 3).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &note[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_notes_end_where_a_character_ends() {
        let short = shortened(&"ä".repeat(2000));
        assert!(short.len() <= MAX_NOTE && short.ends_with('…'));
        assert_eq!(shortened("brief"), "brief");
    }
}
