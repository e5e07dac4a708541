use super::OperatorError;
use crate::cli::output::story;
use crate::cluster::Prometheus;
use crate::controller;
use crate::telemetry::logging::{self, LogFormat};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How the operator runs. The cluster is the one of KUBECONFIG, or the one that the pod is in.
#[derive(clap::Args, Clone, Debug)]
pub struct RunOptions {
    /// Where /health, /ready and /metrics are served.
    #[arg(long, env = "COUNTERSIGN_LISTEN", value_name = "ADDRESS", default_value = "[::]:8080")]
    pub listen: SocketAddr,
    /// The operator's own namespace: for its lease, its snapshots, and the keys of model providers.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "countersign-system")]
    pub namespace: String,
    /// The name of this replica in the lease; the host's name and a random part when absent.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// How many commands and plans are worked on at the same time.
    #[arg(long, env = "COUNTERSIGN_WORKERS", value_name = "NUMBER", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: u16,
    /// API groups of aggregated API servers that are known to carry out no dry run; * for all of them. Nothing of other
    /// aggregated groups is changed.
    #[arg(long, env = "COUNTERSIGN_TRUSTED_API_GROUPS", value_name = "GROUPS", value_delimiter = ',')]
    pub trusted_api_groups: Vec<String>,
    /// The Prometheus that steps verified by PromQL ask, for example http://prometheus.monitoring:9090.
    #[arg(long, env = "COUNTERSIGN_PROMETHEUS_URL", value_name = "URL")]
    pub prometheus_url: Option<String>,
    /// A file with a bearer token for Prometheus.
    #[arg(long, env = "COUNTERSIGN_PROMETHEUS_TOKEN_FILE", value_name = "FILE", requires = "prometheus_url")]
    pub prometheus_token_file: Option<PathBuf>,
    /// How log lines are written; text on a terminal, json elsewhere, when absent.
    #[arg(long, env = "COUNTERSIGN_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// What is logged, for example info or countersign=debug,kube=warn.
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// Runs until it is told to stop (SIGTERM or SIGINT); what is under way then goes on from its journal next time.
pub(super) async fn run(options: RunOptions) -> Result<(), OperatorError> {
    let by_place = if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    logging::init(options.log_format.unwrap_or(by_place), &options.log)?;
    let stop = CancellationToken::new();
    let ordered = stop.clone();
    tokio::spawn(async move {
        told_to_stop().await;
        tracing::info!("stopping");
        ordered.cancel();
    });
    let prometheus = options.prometheus_url.filter(|url| !url.is_empty());
    let prometheus = prometheus.map(|url| Prometheus::new(&url, options.prometheus_token_file.as_deref())).transpose();
    let wanted = controller::RunOptions {
        prometheus: prometheus.map_err(|error| OperatorError::Run(story(&error)))?,
        listen: options.listen,
        namespace: options.namespace,
        instance: options.identity,
        workers: options.workers,
        // An empty variable is one empty word.
        trusted_api_groups: options.trusted_api_groups.into_iter().filter(|group| !group.is_empty()).collect(),
    };
    controller::run(wanted, stop).await.map_err(|error| OperatorError::Run(story(&error)))
}

async fn told_to_stop() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be caught: only SIGINT stops in order");
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        _ = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
