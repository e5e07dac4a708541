use super::access::invalid;
use super::request::Location;
use super::{Access, ClusterError, ListOptions, ResourceKind};
use serde_json::Value;

/// Asks for the columns that kubectl shows; servers of other APIs that cannot make tables may answer with a list.
const ACCEPT: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Objects as people see them with `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Headings.
    pub columns: Vec<String>,
    /// Cells, one row an object.
    pub rows: Vec<Vec<String>>,
}

impl Access {
    /// The objects of a kind in the API server's own columns, those that kubectl shows without `-o wide`. Objects of
    /// all namespaces have their namespace in front.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn table(
        &self,
        kind: &ResourceKind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Table, ClusterError> {
        let attempt = self.list_attempt(kind, namespace);
        let path = Location { kind, version: &kind.version, namespace, name: None, subresource: None }
            .path()
            .map_err(|message| invalid(&attempt, message))?;
        let pages = self.pages(&attempt, path, ACCEPT, options).await?;
        let mut table = of_pages(&pages, kind.namespaced && namespace.is_none());
        if let Some(limit) = options.limit {
            table.rows.truncate(limit as usize);
        }
        Ok(table)
    }
}

fn of_pages(pages: &[Value], with_namespace: bool) -> Table {
    let mut table = Table::default();
    let Some(first) = pages.first() else { return table };
    let is_table = first.get("kind").and_then(Value::as_str) == Some("Table");
    let shown: Vec<(usize, String)> = if is_table {
        array(first, "columnDefinitions")
            .iter()
            .enumerate()
            .filter(|(_, column)| column.get("priority").and_then(Value::as_i64).unwrap_or(0) == 0)
            .map(|(position, column)| (position, cell(column.get("name"))))
            .collect()
    } else {
        vec![(0, "Name".to_owned()), (1, "Created".to_owned())]
    };
    if with_namespace {
        table.columns.push("Namespace".to_owned());
    }
    table.columns.extend(shown.iter().map(|(_, name)| name.clone()));
    for row in pages.iter().flat_map(|page| array(page, if is_table { "rows" } else { "items" })) {
        let object = if is_table { row.get("object").unwrap_or(&Value::Null) } else { row };
        let mut cells = Vec::with_capacity(table.columns.len());
        if with_namespace {
            cells.push(cell(object.pointer("/metadata/namespace")));
        }
        if is_table {
            let values = array(row, "cells");
            cells.extend(shown.iter().map(|(position, _)| cell(values.get(*position))));
        } else {
            cells.push(cell(object.pointer("/metadata/name")));
            cells.push(cell(object.pointer("/metadata/creationTimestamp")));
        }
        table.rows.push(cells);
    }
    table
}

fn array<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
