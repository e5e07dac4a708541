//! Structured logs with a correlation id.

use serde_json::{Map, Value};
use std::fmt;
use tracing::{Event, Span, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people at a terminal.
    #[default]
    Text,
    /// One JSON object a line. Fields of the event and of the spans around it, `correlation_id` among them, are members
    /// of that object beside `timestamp`, `level`, `target` and `message`.
    Json,
}

/// Libraries whose own lines quote what they send and receive. What goes wrong in them reaches our own lines as an error.
const TALKATIVE: [&str; 9] =
    ["kube_client", "kube_runtime", "kube", "hyper", "hyper_util", "async_openai", "reqwest", "tower", "rustls"];

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter does not parse.
    #[error("'{filter}' is not a log filter; expected something like info or countersign=debug,kube=warn")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is already set up in this process")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sends log lines of the whole process to standard error. `filter` is in the notation of `RUST_LOG`.
///
/// # Errors
/// [`LoggingError`] when the filter does not parse, or when called twice.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    let mut filter =
        EnvFilter::try_new(filter).map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })?;
    // Whatever was asked for: these print whole answers and requests, which hold other people's objects and keys.
    for library in TALKATIVE {
        if let Ok(directive) = format!("{library}=off").parse() {
            filter = filter.add_directive(directive);
        }
    }
    match format {
        LogFormat::Text => {
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).finish().try_init()
        }
        LogFormat::Json => json_subscriber(filter, std::io::stderr).try_init(),
    }
    .map_err(LoggingError::Twice)
}

/// The span of all work on one object: every line within carries its uid as `correlation_id`. Work on a plan that came
/// from a command carries the command's uid, so that one search finds the whole way of a request.
pub fn correlation(uid: &str) -> Span {
    tracing::info_span!("work", correlation_id = uid)
}

fn json_subscriber<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .fmt_fields(JsonFields::new())
        .event_format(FlatJson)
        .finish()
}

/// One flat JSON object a line. The subscriber's own JSON format nests span fields in a list, where log stores do not
/// index them.
struct FlatJson;

impl<S, N> FormatEvent<S, N> for FlatJson
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Map::new();
        for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<N>>()
                && let Ok(Value::Object(fields)) = serde_json::from_str(&fields.fields)
            {
                line.extend(fields);
            }
        }
        event.record(&mut Members(&mut line));
        let metadata = event.metadata();
        let now = jiff::Timestamp::now().to_string();
        line.extend(
            [("timestamp", now.as_str()), ("level", metadata.level().as_str()), ("target", metadata.target())]
                .map(|(key, value)| (key.to_owned(), Value::from(value))),
        );
        writeln!(writer, "{}", Value::Object(line))
    }
}

struct Members<'m>(&'m mut Map<String, Value>);

impl tracing::field::Visit for Members<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), Value::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_i64(&mut self, field: &tracing::field::Field, value: i64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_f64(&mut self, field: &tracing::field::Field, value: f64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_bool(&mut self, field: &tracing::field::Field, value: bool) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_error(&mut self, field: &tracing::field::Field, value: &(dyn std::error::Error + 'static)) {
        let chain: Vec<_> =
            std::iter::successors(Some(value), |error| error.source()).map(ToString::to_string).collect();
        self.0.insert(field.name().to_owned(), Value::from(chain.join(": ")));
    }
}

/// What `work` logs as JSON.
#[cfg(test)]
pub(super) fn captured(work: impl FnOnce()) -> String {
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = json_subscriber(EnvFilter::new("info"), move || writer.clone());
    tracing::subscriber::with_default(subscriber, work);
    let bytes = buffer.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_within_carries_the_correlation_id() {
        let lines = captured(|| {
            let _work = correlation("3f6c").entered();
            let _step = tracing::info_span!("step", step = "s1", attempt = 2).entered();
            tracing::info!(applied = true, "patched Deployment staging/checkout");
            tracing::debug!("filtered out");
        });
        let mut line: Value = serde_json::from_str(&lines).unwrap();
        let timestamp = line.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert!(timestamp.as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        insta::assert_snapshot!(line, @r#"{"applied":true,"attempt":2,"correlation_id":"3f6c","level":"INFO","message":"patched Deployment staging/checkout","step":"s1","target":"countersign::telemetry::logging::tests"}"#);
    }

    #[test]
    fn an_event_cannot_forge_level_or_target() {
        let lines = captured(|| tracing::info!(level = "ERROR", target_name = "x", "a \"quoted\"\nline"));
        assert_eq!(lines.lines().count(), 1);
        let line: Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "a \"quoted\"\nline");
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let cause = "x".parse::<u8>().unwrap_err();
        let error = std::io::Error::other(cause);
        let lines = captured(|| {
            tracing::warn!(error = &error as &(dyn std::error::Error + 'static), "cannot read");
        });
        assert!(lines.contains("invalid digit found in string"), "{lines}");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_refused() {
        let error = init(LogFormat::Text, "countersign=loud").unwrap_err();
        assert!(error.to_string().starts_with("'countersign=loud' is not a log filter"), "{error}");
    }
}
