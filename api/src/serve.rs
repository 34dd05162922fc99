//! One listener: surfaces, operations, documents, and what every request goes through.

mod address;
pub(crate) mod connection;
mod front_page;
mod head;
mod methods;
mod worded;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::Histogram;
use poem::endpoint::make_sync;
use poem::http::{Method, StatusCode, header};
use poem::web::Html;
use poem::{
    Endpoint, EndpointExt as _, IntoResponse as _, PathPattern, Request, Response, Route, RouteMethod, get,
};
use poem_openapi::{OpenApiService, OperationId};
use shared::telemetry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug_span};

use self::methods::Methods;
use crate::answer_cache::Kept;
use crate::context::Context;
pub use crate::openapi::document;
use crate::operations::{self, Operations};
use crate::problem::{Problem, from_error};
use crate::{asyncapi, routes};

/// The most requests in work at a time; others are told to come again.
const IN_WORK: usize = 20_000;
/// How long what was sent may wait until the client's machine has taken it (`TCP_USER_TIMEOUT`, tcp(7)).
#[cfg(target_os = "linux")]
const TAKEN: Duration = Duration::from_secs(60);
/// How long streams may take to end once the process is asked to stop.
const END: Duration = Duration::from_secs(5);

/// Which surfaces a process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surfaces {
    /// `/api/v1`
    Members,
    /// `/admin/v1`
    Admins,
    /// Both.
    Both,
}

/// Makes everything that is answered, and serves on a bound listener until shutdown.
pub fn serve(
    listener: TcpListener,
    surfaces: Surfaces,
    cx: Context,
    operations: Operations,
    shutdown: CancellationToken,
) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
    let feeds = cx.feeds.clone();
    let app = app(surfaces, cx, &operations);
    async move {
        // The server does not know of connections that have become WebSockets.
        let streams = async {
            shutdown.cancelled().await;
            if tokio::time::timeout(END, feeds.ended()).await.is_err() {
                tracing::warn!("some streams did not end in time");
            }
        };
        tokio::join!(connection::serve(listener, app, shutdown.clone()), streams).0
    }
}

/// Takes a port.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| anyhow::anyhow!("listen on {address}: {error}"))?;
    // Connections inherit it. Without it, a client that takes nothing keeps its stream for as long as it pleases.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&listener)
        .set_tcp_user_timeout(Some(TAKEN))
        .map_err(|error| anyhow::anyhow!("bound the patience with {address}: {error}"))?;
    Ok(listener)
}

/// Everything that one listener answers.
fn app(surfaces: Surfaces, cx: Context, operations: &Operations) -> impl Endpoint + use<> {
    let mut methods = Methods::default();
    for path in operations::PATHS.into_iter().chain(["/", "/asyncapi.json"]) {
        methods.read(path);
    }
    let mut route = operations::routes(operations)
        .at("/", get(front_page::endpoint(surfaces)))
        .at("/asyncapi.json", json_file(asyncapi::document()));
    if surfaces != Surfaces::Admins {
        let members = routes::members();
        let document: Arc<str> = document(&members).into();
        methods.documented("/api/v1", &document);
        route = documented(route, document, ["/docs", "/openapi.json"], &mut methods);
        route = route.nest("/api/v1", members);
    }
    if surfaces != Surfaces::Members {
        let admins = routes::admins();
        let document: Arc<str> = document(&admins).into();
        methods.documented("/admin/v1", &document);
        if surfaces == Surfaces::Admins {
            route = documented(route, document.clone(), ["/docs", "/openapi.json"], &mut methods);
        }
        route = documented(route, document, ["/admin/docs", "/admin/openapi.json"], &mut methods);
        route = route.nest("/admin/v1", admins);
    }
    let front = Arc::new(Front { room: Semaphore::new(IN_WORK), kept: Kept::new(), methods, cx });
    route.around(move |endpoint, request| answer(endpoint, request, front.clone()))
}

fn documented(
    route: Route,
    document: Arc<str>,
    [page, file]: [&'static str; 2],
    methods: &mut Methods,
) -> Route {
    methods.read(page);
    methods.read(file);
    let shown = document.clone();
    route.at(page, get(make_sync(move |_| Html(documentation(&shown))))).at(file, json_file(document))
}

/// The page that shows a document. Its script has 3 MB, so it is put together for whoever asks, which is rare, and not kept.
fn documentation(document: &str) -> String {
    let empty = OpenApiService::new((), "", "");
    empty.scalar_html().replace(&empty.spec(), document)
}

fn json_file(document: impl Into<Arc<str>>) -> RouteMethod {
    let document = document.into();
    get(make_sync(move |_| Response::builder().content_type("application/json").body(document.to_string())))
}

/// What comes before all routes.
struct Front {
    /// For requests in work.
    room: Semaphore,
    kept: Kept,
    methods: Methods,
    /// What the routes can reach.
    cx: Context,
}

/// What every request goes through: bounded, traced, measured; any error and any panic becomes a problem.
async fn answer<E: Endpoint>(
    endpoint: Arc<E>,
    mut request: Request,
    front: Arc<Front>,
) -> poem::Result<Response> {
    let Ok(_place) = front.room.try_acquire() else { return Ok(Problem::overloaded().into_response()) };
    let (since, method) = (Instant::now(), method_name(request.method()));
    // For traces. In a log line it would say little, and keeping it for one that hardly ever comes costs more than reading
    // a drive does.
    let span = debug_span!(
        "request",
        otel.kind = "server",
        http.request.method = method,
        http.response.status_code = tracing::field::Empty,
    );
    if let Some(trace) = request.header("traceparent") {
        telemetry::continue_trace(&span, trace);
    }
    let checked = head::check(&mut request);
    let address = request.uri().clone();
    let (mut response, operation) = if let Err(problem) = checked {
        (problem.into_response(), Cow::Borrowed("none"))
    } else if request.method() == Method::OPTIONS {
        (front.methods.options(request.uri().path()), Cow::Borrowed("options"))
    } else if let Some((response, operation)) = front.kept.answer(&request, since) {
        (response, Cow::Borrowed(operation))
    } else {
        request.set_data(front.cx.clone());
        // In a piece of memory of its own: each layer around it would move it once more, and it is large.
        let answered = Box::pin(routed(endpoint, request)).instrument(span.clone()).await;
        front.kept.keep(&answered.0);
        answered
    };
    let status = response.status();
    if status == StatusCode::METHOD_NOT_ALLOWED
        && let Some(methods) = front.methods.allowed(address.path())
    {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    if !span.is_disabled() {
        telemetry::rename(&span, operation.clone().into_owned());
        span.record("http.response.status_code", status.as_u16());
    }
    measure(operation, method, status, since.elapsed());
    Ok(response)
}

/// What the routes answer, and which operation it was. Operations of the surfaces have a name; anything else has its path's
/// pattern, or nothing to be told by.
async fn routed<E: Endpoint>(endpoint: Arc<E>, request: Request) -> (Response, Cow<'static, str>) {
    match caught(endpoint.call(request)).await {
        Ok(output) => {
            let response = output.into_response();
            let operation = name(response.data::<OperationId>(), response.data::<PathPattern>());
            (response, operation)
        }
        Err(error) => {
            let operation = name(error.data::<OperationId>(), error.data::<PathPattern>());
            (from_error(&error).into_response(), operation)
        }
    }
}

thread_local! {
    /// The histograms to which this thread has recorded. Finding one by its labels takes longer than recording does.
    static KNOWN: RefCell<HashMap<(&'static str, &'static str, StatusCode), Histogram>> = RefCell::default();
}

/// Records how long a request took.
fn measure(operation: Cow<'static, str>, method: &'static str, status: StatusCode, took: Duration) {
    let histogram = |operation: Cow<'static, str>| {
        metrics::histogram!(
            "muster_http_request_seconds",
            "operation" => operation,
            "method" => method,
            "status" => status.as_str().to_owned()
        )
    };
    match operation {
        // There are only so many of these.
        Cow::Borrowed(operation) => KNOWN.with_borrow_mut(|known| {
            let known = known.entry((operation, method, status));
            known.or_insert_with(|| histogram(Cow::Borrowed(operation))).record(took);
        }),
        Cow::Owned(_) => histogram(operation).record(took),
    }
}

fn name(operation: Option<&OperationId>, pattern: Option<&PathPattern>) -> Cow<'static, str> {
    match (operation, pattern) {
        (Some(operation), _) => Cow::Borrowed(operation.0),
        (None, Some(pattern)) => Cow::Owned(pattern.0.to_string()),
        (None, None) => Cow::Borrowed("none"),
    }
}

/// A method as a label. Anybody can invent one; there are only so many labels.
fn method_name(method: &Method) -> &'static str {
    let known = ["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"];
    known.into_iter().find(|name| *name == method.as_str()).unwrap_or("other")
}

async fn caught<T>(call: impl Future<Output = poem::Result<T>>) -> poem::Result<T> {
    use futures_util::FutureExt as _;
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| {
        metrics::counter!("muster_panics_total").increment(1);
        tracing::error!("a request panicked; this is a bug");
        Err(poem::Error::from_status(StatusCode::INTERNAL_SERVER_ERROR))
    })
}
