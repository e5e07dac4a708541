//! A step and its object for the tests of this room.

use crate::api::{ObjectRef, Operation, Step};

pub(super) fn step(operation: Operation) -> Step {
    Step { id: "s1".into(), operation, ..Step::default() }
}

pub(super) fn target() -> ObjectRef {
    ObjectRef {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        namespace: Some("shop".into()),
        name: "checkout".into(),
    }
}
