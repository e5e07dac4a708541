use super::PlanError;
use crate::api::{Answer, ObjectRef, Query, QueryKind};
use crate::cluster::{
    Access, Catalog, EventLine, ListOptions, Readiness, ResourceKind, readiness, redact_text, workload_failure,
};
use serde_json::Value;

/// The most rows that an answer keeps on the resource.
const MAX_ROWS: usize = 500;
/// How many log lines are read.
const LOG_LINES: i64 = 50;

/// What a requester may see beside the object that they asked about. Nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sees {
    /// The pods of its namespace, and their logs.
    pub pods: bool,
    /// The events there.
    pub events: bool,
}

/// Executes one read, as `access`, and tells of the object's surroundings what the requester `sees`.
///
/// # Errors
/// When the account may not read it, the object does not exist, or the cluster cannot be asked.
pub async fn answer(access: &Access, catalog: &Catalog, query: &Query, sees: Sees) -> Result<Answer, PlanError> {
    let kind = kind_of(catalog, query)?;
    match query.query_type {
        QueryKind::List => list(access, kind, query).await,
        QueryKind::Get => describe(access, catalog, kind, query, sees).await,
        QueryKind::Logs => logs(access, query).await,
        QueryKind::PromQL => Err(PlanError::refused(
            "NoMetricsStore",
            "Metric queries need a metrics store (Prometheus), and none is configured.",
        )),
    }
}

fn kind_of<'c>(catalog: &'c Catalog, query: &Query) -> Result<&'c ResourceKind, PlanError> {
    let reference = ObjectRef {
        api_version: query.api_version.clone().unwrap_or_default(),
        kind: query.kind.clone().unwrap_or_default(),
        ..ObjectRef::default()
    };
    Ok(catalog.require(&reference)?)
}

async fn list(access: &Access, kind: &ResourceKind, query: &Query) -> Result<Answer, PlanError> {
    let options = ListOptions {
        label_selector: query.label_selector.clone(),
        field_selector: query.field_selector.clone(),
        ..ListOptions::default()
    };
    let namespace = query.namespace.as_deref().filter(|_| kind.namespaced);
    let table = access.table(kind, namespace, &options).await?;
    let place = match namespace {
        Some(namespace) => format!(" in namespace {namespace}"),
        None if kind.namespaced => " in all namespaces".to_owned(),
        None => String::new(),
    };
    let count = table.rows.len();
    let text = match count {
        0 => format!("There are no {}{place}.", kind.plural),
        1 => format!("There is 1 {}{place}.", kind.singular),
        count => format!("There are {count} {}{place}.", kind.plural),
    };
    Ok(bounded(text, table.columns, table.rows))
}

async fn describe(
    access: &Access,
    catalog: &Catalog,
    kind: &ResourceKind,
    query: &Query,
    sees: Sees,
) -> Result<Answer, PlanError> {
    let target = kind.object(query.namespace.as_deref(), query.name.as_deref().unwrap_or_default());
    let Some(object) = access.get(kind, &target).await? else {
        return Err(PlanError::refused("NotFound", format!("There is no {target}.")));
    };
    let state = match readiness(Some(&object)) {
        Readiness::Current => "is ready".to_owned(),
        Readiness::InProgress(message) => format!("is not ready yet: {message}"),
        Readiness::Failed(message) => format!("has failed: {message}"),
        Readiness::Terminating(message) => format!("is being deleted: {message}"),
        Readiness::Absent => "is gone".to_owned(),
    };
    // Reading pods and events may be forbidden where reading the object is not; then less is said.
    let failure = if sees.pods { workload_failure(access, catalog, &object).await.ok().flatten() } else { None };
    let why = failure.map(|failure| format!(" {}: {}", failure.reason, failure.message)).unwrap_or_default();
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
    let events = if sees.events { access.events_of(&target, uid).await.unwrap_or_default() } else { Vec::new() };
    let mut rows = facts(&object);
    rows.extend(conditions(&object));
    rows.extend(events.iter().rev().take(10).map(event));
    let hidden: Vec<&str> = [(sees.pods, "pods and their logs"), (sees.events, "events")]
        .iter()
        .filter(|(sees, _)| !sees)
        .map(|(_, what)| *what)
        .collect();
    let hidden = match hidden.as_slice() {
        [] => String::new(),
        hidden => format!(" You may not read {} there, so nothing is said of them.", hidden.join(" or ")),
    };
    let text = redact_text(&format!("{target} {state}.{why}{hidden}"));
    Ok(bounded(text, vec!["What".to_owned(), "Value".to_owned()], rows))
}

async fn logs(access: &Access, query: &Query) -> Result<Answer, PlanError> {
    let namespace = query.namespace.as_deref().unwrap_or_default();
    let pod = query.name.as_deref().unwrap_or_default();
    let text = access.logs(namespace, pod, None, LOG_LINES, false).await?;
    let rows: Vec<Vec<String>> = redact_text(&text).lines().map(|line| vec![line.to_owned()]).collect();
    let said = format!("The last {} log lines of pod {namespace}/{pod}.", rows.len());
    Ok(bounded(said, vec!["Line".to_owned()], rows))
}

/// The fields of an object that people look at first.
fn facts(object: &Value) -> Vec<Vec<String>> {
    const FACTS: [(&str, &str); 12] = [
        ("Replicas wanted", "/spec/replicas"),
        ("Replicas ready", "/status/readyReplicas"),
        ("Replicas updated", "/status/updatedReplicas"),
        ("Phase", "/status/phase"),
        ("Node", "/spec/nodeName"),
        ("Type", "/spec/type"),
        ("Cluster IP", "/spec/clusterIP"),
        ("Schedule", "/spec/schedule"),
        ("Storage", "/spec/resources/requests/storage"),
        ("Service account", "/spec/template/spec/serviceAccountName"),
        ("Generation", "/metadata/generation"),
        ("Created", "/metadata/creationTimestamp"),
    ];
    let mut rows: Vec<Vec<String>> = FACTS
        .iter()
        .filter_map(|(title, pointer)| Some(vec![(*title).to_owned(), plain(object.pointer(pointer)?)]))
        .collect();
    for pointer in ["/spec/template/spec/containers", "/spec/containers"] {
        for container in object.pointer(pointer).and_then(Value::as_array).into_iter().flatten() {
            let name = container.get("name").map(plain).unwrap_or_default();
            rows.push(vec![format!("Image of {name}"), container.get("image").map(plain).unwrap_or_default()]);
        }
    }
    for (key, value) in object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
        rows.push(vec![format!("Label {key}"), plain(value)]);
    }
    rows
}

fn conditions(object: &Value) -> Vec<Vec<String>> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .map(|condition| {
            let text = |field: &str| condition.get(field).map(plain).unwrap_or_default();
            let said = [text("status"), text("reason"), text("message")];
            let said: Vec<_> = said.into_iter().filter(|part| !part.is_empty()).collect();
            vec![format!("Condition {}", text("type")), redact_text(&said.join(", "))]
        })
        .collect()
}

fn event(event: &EventLine) -> Vec<String> {
    let times = if event.count > 1 { format!(" ({} times)", event.count) } else { String::new() };
    vec![format!("Event {}", event.reason), redact_text(&format!("{}{times}", event.message))]
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn bounded(text: String, columns: Vec<String>, mut rows: Vec<Vec<String>>) -> Answer {
    let omitted = rows.len().saturating_sub(MAX_ROWS);
    rows.truncate(MAX_ROWS);
    for cell in rows.iter_mut().flatten() {
        *cell = redact_text(cell);
    }
    let omitted_rows = (omitted > 0).then(|| u64::try_from(omitted).unwrap_or(u64::MAX));
    Answer { text, columns, rows, omitted_rows }
}

/// Several answers as one. Tables of the same columns become one table; otherwise every row says what it is about.
#[must_use]
pub fn merge_answers(mut answers: Vec<Answer>) -> Answer {
    if answers.len() <= 1 {
        return answers.pop().unwrap_or_default();
    }
    if answers.iter().any(|answer| !answer.rows.is_empty()) {
        // What there is none of goes without saying where there is something.
        answers.retain(|answer| !answer.rows.is_empty());
    }
    let text = answers.iter().map(|answer| answer.text.as_str()).collect::<Vec<_>>().join(" ");
    let columns = answers.first().map(|answer| answer.columns.clone()).unwrap_or_default();
    let uniform = answers.iter().all(|answer| answer.columns == columns);
    let mut merged = Vec::new();
    for answer in &answers {
        if !uniform {
            // A second header row keeps the values under the names that they belong to.
            merged.push(answer.columns.clone());
        }
        merged.extend(answer.rows.iter().cloned());
    }
    let columns = if uniform { columns } else { Vec::new() };
    let omitted: u64 = answers.iter().filter_map(|answer| answer.omitted_rows).sum();
    let mut answer = bounded(text, columns, merged);
    let cut = omitted + answer.omitted_rows.unwrap_or(0);
    answer.omitted_rows = (cut > 0).then_some(cut);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str, columns: &[&str], rows: &[&[&str]]) -> Answer {
        let owned = |cells: &[&str]| cells.iter().map(ToString::to_string).collect();
        Answer {
            text: text.into(),
            columns: owned(columns),
            rows: rows.iter().map(|r| owned(r)).collect(),
            omitted_rows: None,
        }
    }

    #[test]
    fn tables_of_one_shape_become_one() {
        let merged = merge_answers(vec![
            table("Two here.", &["Name"], &[&["a"], &["b"]]),
            table("None there.", &["Name"], &[]),
            table("One there.", &["Name"], &[&["c"]]),
        ]);
        assert_eq!(merged.text, "Two here. One there.");
        assert_eq!(merged.rows.len(), 3);
        assert_eq!(merged.columns, ["Name"]);
    }

    #[test]
    fn long_tables_say_how_much_is_missing() {
        let rows: Vec<Vec<String>> = (0..MAX_ROWS + 7).map(|row| vec![row.to_string()]).collect();
        let answer = bounded("Many.".into(), vec!["N".into()], rows);
        assert_eq!(answer.rows.len(), MAX_ROWS);
        assert_eq!(answer.omitted_rows, Some(7));
    }
}
