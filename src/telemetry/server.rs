//! `/health`, `/ready` and `/metrics` over HTTP.

use super::{Health, Metrics};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// For `/ready`.
    pub health: Health,
    /// For `/metrics`.
    pub metrics: Metrics,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; choose another with --listen or COUNTERSIGN_LISTEN")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server stopped by itself.
    #[error("the server for health and metrics stopped")]
    Serve(#[source] io::Error),
}

/// Serves until `stop` is cancelled; requests under way are answered first.
///
/// # Errors
/// [`ServerError`] when the address is taken, or the listener breaks.
pub async fn serve(listen: SocketAddr, served: Served, stop: CancellationToken) -> Result<(), ServerError> {
    serve_on(bind(listen).await?, served, stop).await
}

/// A listener on `address`; on `0.0.0.0` where `[::]` is wanted and the machine has no IPv6.
///
/// # Errors
/// [`ServerError::Bind`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let first = TcpListener::bind(address).await;
    let without_ipv6 = first.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AddrInUse)
        && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let listener = if without_ipv6 { TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await } else { first };
    listener.map_err(|source| ServerError::Bind { address, source })
}

/// As [`serve`], on a listener that is already bound.
///
/// # Errors
/// [`ServerError::Serve`] when the listener breaks.
pub async fn serve_on(listener: TcpListener, served: Served, stop: CancellationToken) -> Result<(), ServerError> {
    let routes = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(served);
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving /health, /ready and /metrics");
    }
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await.map_err(ServerError::Serve)
}

async fn ready(State(served): State<Served>) -> Response {
    let report = served.health.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    match served.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(error = &error as &(dyn std::error::Error + 'static), "cannot serve /metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn get(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn readiness_follows_the_parts_and_shutdown_is_clean() {
        let served = Served { health: Health::new(["watch", "lease"]), metrics: Metrics::new().unwrap() };
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve_on(listener, served.clone(), stop.clone()));

        assert!(get(address, "/health").await.0.starts_with("HTTP/1.1 200"));

        served.health.ready("watch");
        served.health.unready("lease", "held by another replica");
        let (head, body) = get(address, "/ready").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        insta::assert_snapshot!(body, @r#"{"ready":false,"parts":{"lease":{"ready":false,"lastError":"held by another replica"},"watch":{"ready":true}}}"#);
        served.health.ready("lease");
        assert!(get(address, "/ready").await.0.starts_with("HTTP/1.1 200"));

        let (head, body) = get(address, "/metrics").await;
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("\nactive_agents 0\n"), "{body}");
        assert!(get(address, "/secrets").await.0.starts_with("HTTP/1.1 404"));

        stop.cancel();
        server.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let error = bind(taken.local_addr().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(&taken.local_addr().unwrap().to_string()), "{error}");
    }
}
