use crate::cli::output::{OutputError, OutputFormat, structured};
use crate::cli::page::{Page, Style, Tone, plain, span};
use crate::tools::Tool;
use serde_json::{Value, json};

/// Tools as a table for people, or with everything that is known of them.
pub(super) fn render(tools: &[&dyn Tool], format: OutputFormat, style: Style) -> Result<String, OutputError> {
    if let Some(text) = structured(&tools.iter().map(|tool| facts(*tool)).collect::<Vec<_>>(), format)? {
        return Ok(text);
    }
    let mut page = Page::new(style);
    for tool in tools {
        page.gap();
        let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
        let category = word(json!(tool.category()));
        let effect = if tool.read_only() { "only reads".to_owned() } else { word(json!(tool.action())) };
        page.paragraph(0, 2, &[span(Tone::Strong, tool.name()), span(Tone::Faint, format!("  {category}, {effect}"))]);
        page.paragraph(2, 2, &[plain(tool.description())]);
        for example in tool.examples() {
            page.paragraph(4, 6, &[span(Tone::Added, format!("\"{example}\""))]);
        }
    }
    Ok(page.finish())
}

fn facts(tool: &dyn Tool) -> Value {
    json!({
        "name": tool.name(),
        "category": tool.category(),
        "action": tool.action(),
        "readOnly": tool.read_only(),
        "description": tool.description(),
        "examples": tool.examples(),
        "parameters": tool.parameters(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ActionType, ResourceCategory};
    use crate::tools::{Found, ProposedStep, TargetQuery, ToolError};
    use serde_json::Map;

    struct Sample;
    impl Tool for Sample {
        fn name(&self) -> &'static str {
            "scale"
        }
        fn category(&self) -> ResourceCategory {
            ResourceCategory::Deployment
        }
        fn action(&self) -> ActionType {
            ActionType::Scale
        }
        fn description(&self) -> &'static str {
            "Sets the number of replicas of a workload, to a number, by a number, or by a factor."
        }
        fn examples(&self) -> &'static [&'static str] {
            &["scale checkout to 5", "double checkout in staging"]
        }
        fn parameters(&self) -> schemars::Schema {
            schemars::json_schema!({ "type": "object", "properties": { "replicas": { "type": "integer" } } })
        }
        fn targets(&self, _: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
            Ok(Vec::new())
        }
        fn compile(&self, _: &Map<String, Value>, _: &Found) -> Result<Vec<ProposedStep>, ToolError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_tool_is_shown_with_what_it_serves() {
        let text = render(&[&Sample, &Sample], OutputFormat::Table, Style { color: false, width: 60 }).unwrap();
        insta::assert_snapshot!(text, @r#"
        scale  deployment, scale
          Sets the number of replicas of a workload, to a number, by
          a number, or by a factor.
            "scale checkout to 5"
            "double checkout in staging"

        scale  deployment, scale
          Sets the number of replicas of a workload, to a number, by
          a number, or by a factor.
            "scale checkout to 5"
            "double checkout in staging"
        "#);
    }

    #[test]
    fn json_holds_the_parameters() {
        let text = render(&[&Sample], OutputFormat::Json, Style { color: true, width: 60 }).unwrap();
        let tools: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(tools[0]["parameters"]["properties"]["replicas"]["type"], "integer");
        assert_eq!(tools[0]["readOnly"], false);
    }
}
