//! The lower bound of a read's cost: a handler that returns the same bytes and does nothing else.
//! The benchmark `muster-bench read` serves it in a separate process, on the same server and
//! runtime, and compares Muster's reads with it.

use bytes::Bytes;
use poem::endpoint::make_sync;
use poem::http::{StatusCode, header};
use poem::{Endpoint, IntoResponse as _, Request, Response, Route};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::serve::connection;

/// Serves `list` and `drive` at the addresses of the drives' list and of a drive, until shutdown. A
/// request with `If-None-Match` gets 304.
pub async fn serve(
    listener: TcpListener,
    list: Bytes,
    drive: Bytes,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let app = Route::new().at("/api/v1/drives", page(list)).at("/api/v1/drives/:drive_id", page(drive));
    connection::serve(listener, app, shutdown).await
}

fn page(body: Bytes) -> impl Endpoint {
    make_sync(move |request: Request| {
        if request.headers().contains_key(header::IF_NONE_MATCH) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            Response::builder().content_type("application/json; charset=utf-8").body(body.clone())
        }
    })
}
